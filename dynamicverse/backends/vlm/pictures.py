"""Pictures as they are sent: small JPEGs whose sides the models take as they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

PATCH = 28  # px; Qwen-VL would scale other sides to multiples of this, and boxes with them
QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """jpeg: of width x height px."""

    jpeg: bytes
    width: int
    height: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.jpeg).hexdigest()


def encode(rgb_HW3: npt.NDArray[np.uint8], longer_side: int) -> Picture:
    """An RGB picture (H,W,3), scaled down to a longer side of about `longer_side` px."""
    height, width = rgb_HW3.shape[:2]
    shrink = min(1.0, longer_side / max(height, width))
    size = _whole(width * shrink), _whole(height * shrink)
    small = cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    assert ok
    return Picture(data.tobytes(), *size)


def spread(frames: list[int], most: int) -> list[int]:
    """At most `most` of the frames, evenly, the first and the last among them."""
    if len(frames) <= most:
        return frames
    return [frames[round(i)] for i in np.linspace(0, len(frames) - 1, most)]


def _whole(side: float) -> int:
    return max(2 * PATCH, round(side / PATCH) * PATCH)
