"""What videos and frame folders have in common: limits, frames, orientation."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.errors import InputError, Reason


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
