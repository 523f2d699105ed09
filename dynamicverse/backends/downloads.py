"""Downloading weights: sizes first, resumable, every file against its checksum."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamicverse.backends.weights import (
    REGISTRY,
    File,
    Weights,
    client,
    hub_cache,
    located,
    pulled_list,
    released_path,
)
from dynamicverse.errors import ConfigError, DynamicVerseError, Reason, StorageError
from dynamicverse.formats.atomic import write_bytes

CHUNK = 1 << 20
TIMEOUT_S = 60.0
NOTHING_LEFT = 416  # HTTP: the range starts at the end of the file


def described(weights: Weights) -> Weights:
    """The same with the sizes and checksums that the server gives.

    Raises StorageError without a network, ConfigError for a repository that is not there, and
    DynamicVerseError when the server's checksum is not the registered one.
    """
    if not weights.on_hub:
        return replace(weights, files=tuple(_measured(weights, f) for f in weights.files))
    with _hub_errors(weights):
        info = (
            client()
            .HfApi()
            .model_info(weights.source, revision=weights.revision, files_metadata=True)
        )
    known = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = []
    for file in weights.files or tuple(File(name) for name in sorted(known)):
        if file.name not in known:
            raise ConfigError(f"{weights.source}@{weights.revision} has no file {file.name}")
        lfs = known[file.name].lfs
        theirs = lfs.sha256 if lfs else ""
        if theirs and not theirs.startswith(file.sha256):
            raise _corrupt(f"{weights.source}/{file.name}", file.sha256, theirs)
        files.append(File(file.name, theirs or file.sha256, known[file.name].size or file.bytes))
    return replace(weights, files=tuple(files))


def pull(
    weights: Weights,
    folder: Path | None = None,
    progress: Callable[[File], None] = lambda file: None,
) -> list[Path]:
    """Download what is missing, continue what was begun, and check every file.

    weights: of a whole repository as `described` gives them. folder: takes the place of HF_HOME.
    `progress` is told of a file before its download.
    Raises StorageError when the network fails (the same call continues), DynamicVerseError
    when a file is not what it should be.
    """
    found = []
    for file in weights.files:
        path = located(weights, file, folder)
        if path is None:
            progress(file)
            fetch = _from_hub if weights.on_hub else _from_url
            path = fetch(weights, file, folder)
        check(path, file)
        found.append(path)
    registered = REGISTRY.get(weights.name)
    if weights.files and registered is not None and not registered.files:
        names = json.dumps([file.name for file in weights.files])
        write_bytes(pulled_list(weights, folder), names.encode())
    return found


def check(path: Path, file: File) -> None:
    """Compare a file with its checksum; a wrong one is removed. Raises DynamicVerseError."""
    if not file.sha256:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(file.sha256):
        path.resolve().unlink()
        path.unlink(missing_ok=True)  # the hub's cache links to the content
        raise _corrupt(str(path), file.sha256, digest)


def _corrupt(what: str, expected: str, found: str) -> DynamicVerseError:
    return DynamicVerseError(
        f"{what}: SHA-256 {found[:16]}…, expected {expected[:16]}…; it is not used",
        Reason.INVALID_ARTIFACT,
    )


@contextmanager
def _hub_errors(weights: Weights) -> Iterator[None]:
    """The errors of the hub's client as ours."""
    errors = client().errors
    name = f"{weights.source}@{weights.revision[:12]}"
    try:
        yield
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise ConfigError(
            f"{name}: not found, or closed: accept its licence on the hub and set HF_TOKEN"
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise ConfigError(f"{name}: {error}") from error
    except errors.OfflineModeIsEnabled as error:
        raise StorageError(f"{name}: HF_HUB_OFFLINE is set and it is not here") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise StorageError(f"{name}: {error}") from error


def _from_hub(weights: Weights, file: File, folder: Path | None) -> Path:
    with _hub_errors(weights):
        return Path(
            client().hf_hub_download(
                weights.source,
                file.name,
                revision=weights.revision,
                cache_dir=hub_cache(folder),
            )
        )


def _measured(weights: Weights, file: File) -> File:
    """With the size that the server of a plain URL gives."""
    with _opened(weights, file, {}, "HEAD") as response:
        return replace(file, bytes=int(response.headers.get("Content-Length", 0)))


def _from_url(weights: Weights, file: File, folder: Path | None) -> Path:
    """Download from a plain URL; what an earlier try left is continued."""
    path = released_path(file, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    start = partial.stat().st_size if partial.exists() else 0
    wanted = {"Range": f"bytes={start}-"} if start else {}
    with _opened(weights, file, wanted, "GET") as response:
        if response.status != NOTHING_LEFT:
            left = int(response.headers.get("Content-Length", 0))
            with partial.open("ab" if response.status == 206 else "wb") as stream:
                while chunk := response.read(CHUNK):
                    stream.write(chunk)
                    left -= len(chunk)
            if left > 0:
                raise StorageError(f"{weights.source}/{file.name}: ended {left} bytes early")
    check(partial, file)
    partial.replace(path)
    return path


@contextmanager
def _opened(weights: Weights, file: File, headers: dict[str, str], method: str) -> Iterator[Any]:
    """The response of a plain URL; raises StorageError when there is none."""
    if client().constants.HF_HUB_OFFLINE:
        raise StorageError(f"{file.name}: HF_HUB_OFFLINE is set and it is not here")
    url = f"{weights.source}/{file.name}"
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - of the registry
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            yield response
    except urllib.error.HTTPError as error:
        if error.code != NOTHING_LEFT:
            raise StorageError(f"{url}: {error}") from error
        yield error
    except OSError as error:
        raise StorageError(f"{url}: {error}") from error
