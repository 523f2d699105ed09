"""Sources: the videos and frame folders among the inputs, and their identity.

An input is a video, a folder of frames (`X/rgb` or `X`, scene X), a folder of videos and frame
folders, a list (`.txt`: a path or URL a line; `.jsonl`: a string or {"source": ...} a line), a
pattern, or an fsspec URL of any of these.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dynamicverse.curation.listing import (
    Listing,
    Remote,
    is_remote,
    is_video,
    local_path,
    object_version,
    scan,
    scan_remote,
)
from dynamicverse.errors import InputError, Reason
from dynamicverse.media.files import is_picture, picture_names, require_readable, unreadable
from dynamicverse.scene import sanitise

MAX_LIST_BYTES = 1 << 28
BYTES_PER_FRAME = 20_000  # of compressed video, to weigh a clip by its size alone
BLOCK = 1 << 20
WORTH_LISTING = 32  # so many videos in one folder; fewer are looked at one by one
REQUESTS = 32  # under way at once


@dataclass(frozen=True)
class Source:
    """One input: an absolute path or URL, the scene name it gives, and its kind.

    kind: "video" or "frames". size: bytes of a video or number of frames where the listing
    said so; not part of the identity.
    """

    url: str
    name: str
    kind: str
    size: int | None = field(default=None, compare=False)


def discover(inputs: list[str]) -> tuple[list[Source], list[str]]:
    """The sources among the inputs, in order, and the files that are not media.

    Folders are searched one level deep; a broken entry (a symbolic link to nowhere, a file
    without permission) is a source whose ingest fails. Raises InputError: UNREADABLE where an
    input is not there, DUPLICATE_NAME where two sources would give one scene name.
    """
    sources: dict[str, Source] = {}
    ignored: list[str] = []
    for text in inputs:
        for source in _expand(text, ignored, os.getcwd(), lists=True):
            other = sources.setdefault(source.name, source)
            if other.url != source.url:
                raise InputError(
                    f"two inputs would give the scene {source.name}: {other.url} and "
                    f"{source.url}; rename one of them",
                    Reason.DUPLICATE_NAME,
                )
    return list(sources.values()), ignored


def frames_estimate(source: Source) -> int:
    """About how many frames a source has, without opening it: to share out the work."""
    size = source.size
    if size is None and not is_remote(source.url):
        try:
            if source.kind == "frames":
                return len(picture_names(Path(source.url)))
            size = os.stat(source.url).st_size
        except (OSError, InputError):
            return 1
    if size is None:
        return 1
    return max(1, size if source.kind == "frames" else size // BYTES_PER_FRAME)


def fingerprint(source: Source) -> str:
    """A cheap identity: changes when the source is replaced or touched; nothing is read.

    Raises InputError (UNREADABLE).
    """
    if is_remote(source.url):
        remote = Remote.open(source.url)
        if source.kind == "video":
            return _digest([_remote_stamp("", remote.info())])
        found = remote.find()
        return _digest(_remote_stamp(path, found[path]) for path in _pictures(found))
    path = Path(source.url)
    if source.kind == "video":
        return _digest([_stamp("", path)])
    return _digest(_stamp(name, path / name) for name in picture_names(path))


def fingerprints(sources: Iterable[Source]) -> dict[str, str]:
    """URL → `fingerprint` of many sources; those that cannot be read are left out.

    Remote videos that lie together come from one listing of their folder; what a listing does
    not show is looked at by itself. Raises StorageError.
    """
    found: dict[str, str] = {}
    alone: list[Source] = []
    folders: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        remote = is_remote(source.url)
        if remote and source.kind == "video":
            folders[source.url.rpartition("/")[0]].append(source)
        elif remote:
            alone.append(source)
        else:
            found.update(_fingerprint_of(source))
    for folder, videos in folders.items():
        listed = _listed(folder) if len(videos) >= WORTH_LISTING else {}
        for video in videos:
            info = listed.get(video.url.rpartition("/")[2])
            if info is None:
                alone.append(video)
            else:
                found[video.url] = _digest([_remote_stamp("", info)])
    with ThreadPoolExecutor(REQUESTS) as threads:
        for one in threads.map(_fingerprint_of, alone):
            found.update(one)
    return found


def _fingerprint_of(source: Source) -> dict[str, str]:
    try:
        return {source.url: fingerprint(source)}
    except InputError:
        return {}


def _listed(folder: str) -> dict[str, dict[str, Any]]:
    try:
        return Remote.open(folder).children()
    except InputError:
        return {}  # gone, or may not be listed


def sha256(source: Source) -> str:
    """The digest of the content: of a video's bytes; of a frame folder's names and digests.

    The same for a local and a remote copy. Raises InputError (UNREADABLE, EMPTY).
    """
    if is_remote(source.url):
        remote = Remote.open(source.url)
        if source.kind == "video":
            return _sha256(remote.blocks(remote.path))
        paths = _pictures(remote.find())
        return _folder_digest(
            (PurePosixPath(path).name, _sha256(remote.blocks(path))) for path in paths
        )
    return local_sha256(Path(source.url))[0]


def local_sha256(path: Path) -> tuple[str, int]:
    """`sha256` of a local video or frame folder, and its bytes."""
    if not path.is_dir():
        size = require_readable(path)
        return _sha256(_blocks(path)), size
    names = sorted(picture_names(path))
    total = sum(require_readable(path / name) for name in names)
    return _folder_digest((name, _sha256(_blocks(path / name))) for name in names), total


def fetch(source: Source, target: Path) -> tuple[Path, int]:
    """Copy a remote source to the local folder `target`, replacing what is there.

    Returns the local video or frame folder, and the bytes copied. A local source stays
    where it is. Raises InputError (UNREADABLE), StorageError.
    """
    if not is_remote(source.url):
        return Path(source.url), 0
    remote = Remote.open(source.url)
    shutil.rmtree(target, ignore_errors=True)
    if source.kind == "video":
        paths, folder = [remote.path], target
    else:
        inner = PurePosixPath(source.name, "rgb" if source.url.endswith("/rgb") else "")
        paths, folder = _pictures(remote.find()), target / inner
    folder.mkdir(parents=True)
    local = [folder / PurePosixPath(path).name for path in paths]
    remote.get(paths, local)
    return (local[0] if source.kind == "video" else folder), sum(p.stat().st_size for p in local)


def _expand(text: str, ignored: list[str], base: str, lists: bool) -> Iterator[Source]:
    """The sources that one input, or one line of a list, stands for."""
    remote = is_remote(text) and not text.startswith("file://")
    if not remote:
        text = local_path(text, base)
    suffix = os.path.splitext(text)[1].lower()
    if is_video(os.path.basename(text)) and not _is_pattern(text, remote):
        if not remote and lists and not os.path.lexists(text):
            raise InputError(f"{text}: no such file", Reason.UNREADABLE)
        yield _video(text)
    elif suffix in (".txt", ".jsonl") and lists:
        folder = base if remote else os.path.dirname(text)
        for line in _lines(text, remote):
            yield from _expand(line, ignored, folder, lists=False)
    elif _is_pattern(text, remote):
        yield from _matches(text, remote, ignored)
    elif is_picture(os.path.basename(text)):
        raise InputError(f"{text}: one picture; give the folder of the frames", Reason.NOT_VIDEO)
    elif remote:
        listing, _ = scan_remote(text)
        found = list(_sources_in(text.rstrip("/"), listing, ignored))
        if not found and not listing.others and not listing.folders:
            raise InputError(f"{text}: nothing there", Reason.UNREADABLE)
        yield from found
    elif os.path.isdir(text):
        yield from _sources_in(text, scan(Path(text)), ignored)
    elif os.path.lexists(text):
        yield _video(text)  # named by the user: the decoder says what it is
    else:
        raise InputError(f"{text}: no such file or folder", Reason.UNREADABLE)


def _sources_in(folder: str, listing: Listing, ignored: list[str]) -> Iterator[Source]:
    """A frame folder itself, or the videos and frame folders in a folder."""
    if listing.rgb_pictures:
        yield _frames(f"{folder}/rgb", listing.rgb_pictures)
        return
    nested = any(below.rgb_pictures for below in listing.folders.values())
    if listing.pictures and not listing.videos and not nested:
        yield _frames(folder, listing.pictures)
        return
    ignored.extend(f"{folder}/{name}" for name in sorted(listing.others))
    for name in sorted([*listing.videos, *listing.folders]):
        if name in listing.videos:
            yield _video(f"{folder}/{name}", listing.videos[name])
            continue
        below = listing.folders[name]
        if below.rgb_pictures:
            yield _frames(f"{folder}/{name}/rgb", below.rgb_pictures)
        elif below.pictures:
            yield _frames(f"{folder}/{name}", below.pictures)


def _matches(text: str, remote: bool, ignored: list[str]) -> Iterator[Source]:
    found: dict[str, int | None]
    if remote:
        _, found = scan_remote(text)
    else:
        found = dict.fromkeys(sorted(glob.glob(text)))
    if not found:
        raise InputError(f"{text}: nothing matches", Reason.UNREADABLE)
    for path, size in found.items():
        if is_video(os.path.basename(path)):
            yield _video(path, size)
        elif not remote and os.path.isdir(path):
            yield from _sources_in(path, scan(Path(path)), ignored)
        else:
            ignored.append(path)


def _is_pattern(text: str, remote: bool) -> bool:
    return any(c in text for c in "*?[") and (remote or not os.path.lexists(text))


def _video(url: str, size: int | None = None) -> Source:
    stem = os.path.splitext(os.path.basename(url))[0]
    return Source(url, sanitise(stem), "video", size)


def _frames(url: str, count: int) -> Source:
    """A count of one may only say that there are pictures: it is looked up when needed."""
    folder = url.removesuffix("/rgb") if url.endswith("/rgb") else url
    return Source(url, sanitise(os.path.basename(folder)), "frames", count if count > 1 else None)


def _lines(text: str, remote: bool) -> Iterator[str]:
    """The entries of a list file; empty lines and `#` comments are left out."""
    if remote:
        place = Remote.open(text)
        size = int(place.info().get("size") or 0)
        blocks = place.blocks(place.path)
    else:
        size = require_readable(Path(text))
        blocks = _blocks(Path(text))
    if size > MAX_LIST_BYTES:
        raise InputError(f"{text}: a list of {size} bytes, more than {MAX_LIST_BYTES}")
    try:
        lines = b"".join(blocks).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{text}: a list must be UTF-8 text ({error})") from error
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        yield _json_entry(text, number, entry) if text.endswith(".jsonl") else entry


def _json_entry(text: str, number: int, line: str) -> str:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f"{text}:{number}: not JSON ({error})") from error
    if isinstance(value, dict):
        value = value.get("source")
    if not isinstance(value, str) or not value:
        raise InputError(f'{text}:{number}: expected "PATH" or {{"source": "PATH"}}')
    return value


def _stamp(name: str, path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return f"{name}\0{status.st_size}\0{status.st_mtime_ns}"


def _remote_stamp(path: str, info: dict[str, Any]) -> str:
    return f"{PurePosixPath(path).name}\0{object_version(info)}"


def _pictures(found: Iterable[str]) -> list[str]:
    paths = sorted(path for path in found if is_picture(PurePosixPath(path).name))
    if not paths:
        raise InputError("a frame folder without pictures", Reason.EMPTY)
    return paths


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _sha256(blocks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _folder_digest(files: Iterable[tuple[str, str]]) -> str:
    return _sha256(
        f"{name}\0{digest}\n".encode("utf-8", "surrogateescape") for name, digest in files
    )


def _digest(stamps: Iterable[str]) -> str:
    return _sha256(f"{stamp}\n".encode("utf-8", "surrogateescape") for stamp in stamps)
