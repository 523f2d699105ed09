"""The output root, wherever it is: a local folder or any fsspec URL.

`Store` reads and writes small files by their path relative to the root. `Workspace` gives
stages a local tree: the root itself when it is local, else a scratch folder into which
inputs are pulled and from which outputs are pushed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from dynamicverse.curation.filesystem import open_url
from dynamicverse.curation.listing import object_version
from dynamicverse.errors import ArtifactError, ConfigError, Reason, StorageError
from dynamicverse.formats.atomic import atomic_path
from dynamicverse.scene import UNFINISHED, Scene

MAX_SMALL = 256 << 20  # plans, manifests, ledgers: never larger
ATTEMPTS = 4
REQUESTS = 32  # under way at once
ABANDONED_SECONDS = 3600.0  # nobody who writes a file leaves it alone for so long
TRANSFERS = 8  # of one scene's files; several scenes may be on their way at once
CREDENTIAL_ERRORS = ("NoCredentialsError", "PartialCredentialsError")  # of botocore
T = TypeVar("T")
U = TypeVar("U")


class Store:
    """Files below one root URL, addressed by `/`-separated relative paths."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.local: Path | None = None
        if "://" not in url:
            self.local = Path(url).absolute()
            return
        try:
            self.fs, self.base = open_url(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url}: {error}") from error
        self.base = self.base.rstrip("/")
        if "file" in (
            (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        ):
            self.local = Path(self.base)

    def _path(self, relative: str) -> str:
        return f"{self.base}/{relative}"

    def read(self, relative: str) -> bytes | None:
        """The content of a small file, or None when there is none."""
        try:
            if self.local is not None:
                path = self.local / relative
                if path.stat().st_size > MAX_SMALL:
                    raise ArtifactError(f"{path}: larger than {MAX_SMALL} bytes")
                return path.read_bytes()
            return self._retry(lambda: self._cat(relative))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _cat(self, relative: str) -> bytes:
        # one request, and never an answer from an earlier listing as `open` may give it
        try:
            data: bytes = self.fs.cat_file(self._path(relative), start=0, end=MAX_SMALL + 1)
        except OSError as error:  # S3 finds no range in an empty object
            if error.errno != errno.EINVAL or self._size(relative) > 0:
                raise
            return b""
        if len(data) > MAX_SMALL:
            raise ArtifactError(f"{self.url}/{relative}: larger than {MAX_SMALL} bytes")
        return data

    def _size(self, relative: str) -> int:
        self.fs.invalidate_cache()
        return int(self.fs.info(self._path(relative))["size"])

    def write(self, relative: str, data: bytes) -> None:
        """Replace a small file; a reader sees the old content or the new, never a part."""
        if self.local is not None:
            with atomic_path(self.local / relative) as temporary:
                temporary.write_bytes(data)
        else:
            with self._existing_bucket():
                self._retry(lambda: self.fs.pipe_file(self._path(relative), data))

    def append(self, relative: str, data: bytes, so_far: bytes) -> None:
        """Append to a file that only this process writes and whose content is `so_far`.

        Object stores cannot append: there the whole (small) object is written again.
        """
        if self.local is not None:
            path = self.local / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)
        else:
            self.write(relative, so_far + data)

    def sizes(self, folder: str) -> dict[str, int]:
        """Relative path → bytes of every file below a folder (one listing)."""
        if self.local is not None:
            return {path: status.st_size for path, status in self._walk(self.local, folder)}
        return {path: int(entry["size"]) for path, entry in self._find(folder)}

    def versions(self, folder: str) -> dict[str, str]:
        """Relative path → a text that changes when the file does, of every file below a folder
        (one listing)."""
        if self.local is not None:
            return {
                path: f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
                for path, status in self._walk(self.local, folder)
            }
        return {path: object_version(entry) for path, entry in self._find(folder)}

    @staticmethod
    def _walk(root: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        for directory, _, names in os.walk(root / folder):
            below = Path(directory).relative_to(root).as_posix()
            for name in names:
                with suppress(FileNotFoundError):  # a temporary file may just vanish
                    yield f"{below}/{name}", os.stat(f"{directory}/{name}")

    def _find(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        self.fs.invalidate_cache()
        try:
            listing = self._retry(lambda: self.fs.find(self._path(folder), detail=True))
        except FileNotFoundError:
            return
        for name, entry in listing.items():
            yield name[len(self.base) + 1 :], entry

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly below a folder, sorted, hidden ones left out."""
        if self.local is not None:
            top = self.local / folder
            names = [p.name for p in top.iterdir() if p.is_dir()] if top.is_dir() else []
        else:
            self.fs.invalidate_cache()
            path = self._path(folder) if folder else self.base
            try:
                entries = self._retry(lambda: self.fs.ls(path, detail=True))
            except FileNotFoundError:
                return []
            names = [
                e["name"].rstrip("/").rsplit("/", 1)[-1]
                for e in entries
                if e["type"] == "directory"
            ]
        return sorted(n for n in names if not n.startswith("."))

    def delete(self, relatives: Iterable[str]) -> None:
        """Remove files; those already gone are fine."""
        self.concurrently(self._delete, relatives)

    def _delete(self, relative: str) -> None:
        with suppress(FileNotFoundError):
            if self.local is not None:
                (self.local / relative).unlink(missing_ok=True)
            else:
                self._retry(lambda: self.fs.rm_file(self._path(relative)))

    def sweep(self, folder: str, older_than: float, *, deep: bool = True) -> None:
        """Remove what killed writers left unfinished in a folder (and, if deep, below it), last
        touched more than so many seconds ago: a younger file may be in another process's hands.

        An object store keeps nothing unfinished under a name.
        """
        if self.local is None:
            return
        oldest = time.time() - older_than
        for directory, folders, names in os.walk(self.local / folder):
            if not deep:
                folders.clear()
            for name in names:
                path = Path(directory, name)
                with suppress(FileNotFoundError):  # its writer may just finish
                    if name.endswith(UNFINISHED) and path.stat().st_mtime <= oldest:
                        path.unlink()

    def concurrently(
        self, function: Callable[[U], T], items: Iterable[U], at_once: int = REQUESTS
    ) -> list[T]:
        """Results of a function that reads or writes this store, in the order of the items.

        Several at once on a remote store; one after the other on a disk, which is faster there.
        """
        if self.local is not None:
            return [function(item) for item in items]
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(function, items))

    def pull(self, relative: str, target: Path) -> None:
        """Copy a file of any size to the local disk."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            self._retry(lambda: self.fs.get_file(self._path(relative), str(temporary)))

    def push(self, source: Path, relative: str) -> None:
        """Copy a local file of any size to the store."""
        with self._existing_bucket():
            self._retry(lambda: self.fs.put_file(str(source), self._path(relative)))

    @contextmanager
    def _existing_bucket(self) -> Iterator[None]:
        """Writing needs no folder, but a bucket."""
        try:
            yield
        except FileNotFoundError as error:
            raise ConfigError(f"{self.url}: no such bucket ({error})") from error

    def _retry(self, action: Callable[[], T]) -> T:
        """Run an action of a remote store, trying again on faults that may pass."""
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise ConfigError(f"{self.url}: access refused ({error})") from error
            except Exception as error:  # client libraries have no common base class
                if type(error).__name__ in CREDENTIAL_ERRORS:
                    raise ConfigError(f"{self.url}: {error}") from error
                if attempt == ATTEMPTS - 1:
                    raise StorageError(f"{self.url}: {error}") from error
                time.sleep(0.5 * 4**attempt)
        raise AssertionError("unreachable")


class Workspace:
    """The local tree that stages see.

    For a local root it is the root. For a remote one it is a scratch folder; what has been
    pulled or pushed is remembered by digest, so that a file travels once.
    """

    def __init__(self, store: Store, scratch: Path | None) -> None:
        self.store = store
        self._digests: dict[str, str] = {}
        if store.local is not None:
            self.root = store.local
        elif scratch is None:
            raise ConfigError(f"{store.url}: a remote root needs a scratch folder")
        else:
            self.root = scratch

    @property
    def remote(self) -> bool:
        return self.store.local is None

    def pull(self, files: Iterable[tuple[str, str]]) -> int:
        """Bring files (relative path, sha256) here; returns the bytes that travelled."""
        if not self.remote:
            return 0
        return sum(self.store.concurrently(self._pull, files, TRANSFERS))

    def _pull(self, file: tuple[str, str]) -> int:
        relative, digest = file
        target = self.root / relative
        if self._digests.get(relative) == digest and target.exists():
            return 0
        self.store.pull(relative, target)
        found = sha256(target)
        if found != digest:
            raise ArtifactError(
                f"{relative}: the stored file has another digest than its manifest says",
                Reason.INVALID_ARTIFACT,
            )
        self._digests[relative] = digest
        return target.stat().st_size

    def push(self, files: Iterable[tuple[str, str]]) -> int:
        """Bring local files (relative path, sha256) to the store; returns their bytes."""
        if not self.remote:
            return 0
        return sum(self.store.concurrently(self._push, files, TRANSFERS))

    def _push(self, file: tuple[str, str]) -> int:
        relative, digest = file
        source = self.root / relative
        self.store.push(source, relative)
        self._digests[relative] = digest
        return source.stat().st_size

    def discard(self, relatives: Iterable[str]) -> None:
        """Remove files here and in the store."""
        relatives = list(relatives)
        for relative in relatives:
            self._digests.pop(relative, None)
            if self.remote:
                (self.root / relative).unlink(missing_ok=True)
        self.store.delete(relatives)

    def evict_scene(self, scene: Scene) -> None:
        """Free what the scratch folder holds of one scene; a local root is left alone."""
        if self.remote:
            for folder in (scene.folder, scene.key_frames_folder):
                prefix = folder.relative_to(self.root).as_posix() + "/"
                self._digests = {k: v for k, v in self._digests.items() if not k.startswith(prefix)}
                shutil.rmtree(folder, ignore_errors=True)

    def evict(self) -> None:
        """Free the scratch folder; a local root is left alone."""
        if self.remote:
            self._digests.clear()
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir(parents=True, exist_ok=True)


@contextmanager
def scratch_folder(store: Store) -> Iterator[Path | None]:
    """A folder for the workspace of a remote root; None for a local one, which needs none.

    `$DYNAMICVERSE_SCRATCH` names it (and it is kept), else it is temporary.
    """
    chosen = os.environ.get("DYNAMICVERSE_SCRATCH")
    if store.local is not None:
        yield None
    elif chosen:
        Path(chosen).mkdir(parents=True, exist_ok=True)
        yield Path(chosen)
    else:
        folder = Path(tempfile.mkdtemp(prefix="dynamicverse-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """The hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dump_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, two spaces, a newline at the end."""
    import json

    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
