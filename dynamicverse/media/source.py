"""What videos and frame folders have in common: limits, frames, orientation, readability."""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.errors import InputError, Reason

MAX_BOXES = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds that hold before anything is decoded.

    max_pixels: of one frame. min_side: of the upright frame, pixels.
    truncated: whether the good part of a file that ends early is used.
    """

    max_pixels: int = 1 << 26
    min_side: int = 64
    truncated: Literal["keep", "reject"] = "keep"

    def check_size(self, path: Path, width: int, height: int) -> None:
        """Raise InputError (TOO_LARGE, UNSUPPORTED) for a size out of bounds."""
        if width * height > self.max_pixels:
            raise InputError(
                f"{path}: {width}x{height} pixels, more than ingest.max_pixels = {self.max_pixels}",
                Reason.TOO_LARGE,
            )
        if min(width, height) < self.min_side:
            raise InputError(
                f"{path}: {width}x{height} pixels; a side is shorter than "
                f"ingest.min_side = {self.min_side}",
                Reason.UNSUPPORTED,
            )


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a source once its first frame is decoded.

    width, height: of the frames that are delivered: upright, square pixels, scaled.
    stored_width, stored_height: as coded. rotation: degrees clockwise that were applied.
    rate: nominal frames a second; frames: an estimate for progress; both may be unknown.
    """

    kind: Literal["video", "frames"]
    codec: str
    width: int
    height: int
    stored_width: int
    stored_height: int
    rotation: Literal[0, 90, 180, 270]
    rate: float | None
    frames: int | None


@dataclass(frozen=True, slots=True)
class Frame:
    """rgb_HW3: uint8. time_s: seconds after the first frame. index: 0-based, in the source.

    jpeg: the bytes of the frame's own file where they are a baseline JPEG of these pixels.
    """

    rgb_HW3: NDArray[np.uint8]
    time_s: float
    index: int
    jpeg: bytes | None = None


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become upright: transpose, then mirror left-right and top-bottom."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def from_exif(cls, value: int) -> Orientation:
        """EXIF tag 274; an unknown value means upright."""
        return _EXIF.get(value, cls())

    @classmethod
    def from_display_matrix(cls, data: bytes) -> Orientation:
        """The nearest quarter turn of a display matrix (ISO/IEC 14496-12, 6.2.2)."""
        a, b, _, c, d = struct.unpack_from("=5i", data)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @property
    def rotation(self) -> Literal[0, 90, 180, 270]:
        """Degrees clockwise, leaving mirroring aside."""
        if self.transpose:
            return 90 if self.flip_x or not self.flip_y else 270
        return 180 if self.flip_y else 0

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn (H,W,C) upright."""
        if self.transpose:
            image = np.asarray(cv2.transpose(image), np.uint8)
        if self.flip_x or self.flip_y:
            code = -1 if self.flip_x and self.flip_y else int(self.flip_x)
            image = np.asarray(cv2.flip(image, code), np.uint8)
        return image


_EXIF = {
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}


def scaled(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """The size with a longer side of at most `max_side`."""
    longest = max(width, height)
    if max_side is None or longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))


def on_black(rgba_HW4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight alpha over black, rounded: (H,W,4) to (H,W,3) in the same channel order."""
    colour = rgba_HW4[..., :3].astype(np.uint16) * rgba_HW4[..., 3:].astype(np.uint16)
    return np.asarray((colour + 127) // 255, np.uint8)


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a path that the operating system refuses."""
    if error.errno == errno.ELOOP:
        problem = "a symbolic link that leads to itself"
    elif isinstance(error, PermissionError):
        problem = "permission denied"
    elif isinstance(error, FileNotFoundError):
        problem = "no such file (or a symbolic link to nowhere)"
    else:
        problem = f"cannot be read ({error.strerror or error})"
    return InputError(f"{path}: {problem}", Reason.UNREADABLE)


def require_readable(path: Path) -> int:
    """The size of a regular file with content; raises InputError (UNREADABLE, EMPTY)."""
    try:
        # without O_NONBLOCK, opening a FIFO would wait for ever
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
    except OSError as error:
        if error.errno == errno.EIO:
            raise
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file", Reason.UNREADABLE)
    if status.st_size == 0:
        raise InputError(f"{path}: an empty file", Reason.EMPTY)
    return status.st_size


def ends_early(path: Path, size: int) -> bool:
    """True if the container itself says that the file should be longer.

    Knows MP4/MOV boxes, the Matroska segment and the first RIFF chunk of an AVI; other
    containers show a cut only when their last frame is decoded.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _boxes_cut(stream, size)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska_cut(head, size)
    if head.startswith(b"RIFF"):
        return int(struct.unpack_from("<I", head, 4)[0]) + 8 > size
    return False


def _boxes_cut(stream: BinaryIO, size: int) -> bool:
    position = 0
    for _ in range(MAX_BOXES):
        if position >= size:
            return position > size
        stream.seek(position)
        head = stream.read(16)
        if len(head) < 8:
            return True
        (length,) = struct.unpack_from(">I", head)
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        if length == 0:  # up to the end of the file
            return False
        if length < 8:  # not a box: padding or rubbish after the last one
            return False
        position += length
    return False


def _matroska_cut(head: bytes, size: int) -> bool:
    header, length = _vint(head, 4)
    segment = header + length
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":
        return False
    start, length = _vint(head, segment + 4)
    unknown = length == (1 << 7 * (start - segment - 4)) - 1  # a live stream
    return not unknown and start + length > size


def _vint(data: bytes, position: int) -> tuple[int, int]:
    """An EBML variable-length integer: (position after it, value)."""
    if position >= len(data) or data[position] == 0:
        return position, 0
    width = 9 - data[position].bit_length()
    raw = int.from_bytes(data[position : position + width], "big")
    return position + width, raw & ((1 << 7 * width) - 1)
