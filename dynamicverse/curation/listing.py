"""What lies at a place, local or remote: one look, no `stat` for each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from dynamicverse.curation.filesystem import open_url
from dynamicverse.errors import InputError, MissingModelError, Reason, StorageError
from dynamicverse.media.files import PICTURES, is_picture, unreadable

VIDEOS = (
    *(".3g2", ".3gp", ".apng", ".asf", ".avi", ".dv", ".flv", ".gif", ".h264", ".hevc", ".ivf"),
    *(".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".nut", ".obu", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)


def is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEOS and not name.startswith(".")


@dataclass
class Listing:
    """One folder: its videos (name → bytes, None if not known), how many pictures it holds
    itself and in its `rgb` folder, its other files, and its folders."""

    videos: dict[str, int | None] = field(default_factory=dict)
    pictures: int = 0
    rgb_pictures: int = 0
    others: list[str] = field(default_factory=list)
    folders: dict[str, Listing] = field(default_factory=dict)

    def add(self, name: str, size: int | None) -> None:
        if is_video(name):
            self.videos[name] = size
        elif is_picture(name):
            self.pictures += 1
        elif not name.startswith(".") or name.lower().endswith((*VIDEOS, *PICTURES)):
            self.others.append(name)  # hidden media too: they are passed over, not forgotten


def is_remote(url: str) -> bool:
    return "://" in url


def local_path(url: str, base: str) -> str:
    """The absolute path of a local input (`file://` is taken off; `..` is resolved)."""
    path = os.path.expanduser(url.removeprefix("file://"))
    return os.path.normpath(os.path.join(base, path))


def scan(folder: Path) -> Listing:
    """List a local folder; of the folders in it, only whether they hold pictures."""
    listing = Listing()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    listing.add(entry.name, None)
                elif entry.name == "rgb":
                    listing.rgb_pictures = _has_pictures(entry.path)
                elif not entry.name.startswith("."):
                    listing.folders[entry.name] = _glance(entry.path)
    except OSError as error:
        raise unreadable(folder, error) from error
    return listing


def _glance(folder: str) -> Listing:
    rgb = _has_pictures(os.path.join(folder, "rgb"))
    return Listing(rgb_pictures=rgb, pictures=0 if rgb else _has_pictures(folder))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link that leads to itself
        return False


def _has_pictures(folder: str) -> int:
    """1 or 0; looking stops at the first picture."""
    try:
        with os.scandir(folder) as entries:
            return int(any(is_picture(e.name) for e in entries))
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError:
        return 1  # taken for a frame folder: its ingest says why it cannot be read


@dataclass(frozen=True)
class Remote:
    """An fsspec place: the file system and the path on it."""

    fs: Any
    path: str

    @classmethod
    def open(cls, url: str) -> Remote:
        """Raises MissingModelError where the protocol's package is not installed."""
        try:
            # what was listed once may have changed since
            fs, path = open_url(url, use_listings_cache=False)
        except ImportError as error:
            raise MissingModelError(f"{url}: {error} (for s3: dynamicverse[s3])") from error
        except ValueError as error:
            raise InputError(f"{url}: {error}", Reason.UNREADABLE) from error
        return cls(fs, path)

    def find(self) -> dict[str, dict[str, Any]]:
        """All files below the path, or those that match it: one listing."""
        if any(c in self.path for c in "*?["):
            found = self._call(self.fs.glob, detail=True)
        else:
            found = self._call(self.fs.find, detail=True)
        return {path: info for path, info in found.items() if info.get("type") != "directory"}

    def children(self) -> dict[str, dict[str, Any]]:
        """Name → information of the files of a folder, those of its folders left out."""
        found = self._call(self.fs.ls, detail=True)
        return {PurePosixPath(i["name"]).name: i for i in found if i.get("type") != "directory"}

    def info(self) -> dict[str, Any]:
        return dict(self._call(self.fs.info))

    def blocks(self, path: str, size: int = 1 << 20) -> Iterator[bytes]:
        """The content of one file."""
        with Remote(self.fs, path)._call(self.fs.open, mode="rb") as stream:
            while block := stream.read(size):
                yield block

    def get(self, paths: list[str], local: list[Path]) -> None:
        """Copy files; a store that can copies several at once."""
        self._call(lambda _: self.fs.get(paths, [str(p) for p in local]))

    def _call(self, function: Any, **options: Any) -> Any:
        try:
            return function(self.path, **options)
        except (FileNotFoundError, PermissionError) as error:
            raise unreadable(Path(self.path), error) from error
        except OSError as error:
            raise StorageError(f"{self.path}: {error}") from error


def object_version(info: dict[str, Any]) -> str:
    """A text that changes with an object: the store's own version where it has one, else size
    and time. The same from a listing and from a look at the object alone."""
    keys = ("ETag", "etag", "md5", "LastModified", "last_modified", "updated", "mtime", "created")
    version = next((info[key] for key in keys if info.get(key)), "")
    if isinstance(version, datetime):
        version = version.timestamp()  # some say it in one way here and in another there
    return f"{info.get('size')}\0{version}"


def scan_remote(url: str) -> tuple[Listing, dict[str, int | None]]:
    """List a remote folder, or the matches of a pattern.

    Returns the folder's listing (for a pattern: an empty one) and, for a pattern, the matches
    (URL → bytes).
    """
    remote = Remote.open(url)
    found = remote.find()
    if any(c in remote.path for c in "*?["):
        matches = {remote.fs.unstrip_protocol(p): i.get("size") for p, i in sorted(found.items())}
        return Listing(), matches
    base = remote.path.rstrip("/")
    listing = Listing()
    for path in sorted(found):
        parts = PurePosixPath(path[len(base) :].lstrip("/")).parts
        _place(listing, parts, found[path].get("size"))
    return listing, {}


def _place(listing: Listing, parts: tuple[str, ...], size: int | None) -> None:
    """Enter a file below the folder at most three levels deep (`X/rgb/1.png`)."""
    if len(parts) == 1:
        listing.add(parts[0], size)
    elif len(parts) == 2 and parts[0] == "rgb":
        listing.rgb_pictures += is_picture(parts[1])
    elif len(parts) <= 3 and parts[0] != "rgb" and not parts[0].startswith("."):
        below = listing.folders.setdefault(parts[0], Listing())
        if len(parts) == 2 or parts[1] == "rgb":
            _place(below, parts[1:], size)
