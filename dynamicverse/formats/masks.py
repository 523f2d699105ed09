"""Instance masks: 8-bit palette PNG, the value of a pixel is the instance id."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats import png
from dynamicverse.formats.atomic import write_bytes
from dynamicverse.formats.bounded import invalid

MAX_ID = 255


def write(path: Path, ids_HW: NDArray[Any]) -> None:
    """Write a mask; 0 is background. Raises ArtifactError for ids outside 0..255."""
    if ids_HW.ndim != 2 or ids_HW.size == 0 or ids_HW.dtype.kind not in "biu":
        raise invalid(path, f"a mask is (H,W) integers, not {ids_HW.shape} {ids_HW.dtype}")
    if ids_HW.dtype not in (np.uint8, np.bool_) and (ids_HW.min() < 0 or ids_HW.max() > MAX_ID):
        raise invalid(path, f"instance ids {ids_HW.min()}..{ids_HW.max()}, only 0..255 fit")
    indices_HW = np.ascontiguousarray(ids_HW, np.uint8)
    write_bytes(path, png.encode_palette(indices_HW, _palette()))


def read(path: Path) -> NDArray[np.uint8]:
    """Read a mask, (H,W) uint8; raises ArtifactError."""
    ids_HW, _ = png.decode(path, png.PALETTE, 8)
    return ids_HW


def validate(path: Path, width: int, height: int, thorough: bool = False) -> None:
    """Raise ArtifactError if the file is not a mask of this size."""
    header = png.read_header(path)
    if (header.colour, header.depth) != (png.PALETTE, 8):
        raise invalid(path, "not an 8-bit palette PNG")
    if (header.width, header.height) != (width, height):
        raise invalid(path, f"{header.width}x{header.height}, the frames are {width}x{height}")
    if thorough:
        read(path)


def present(ids_HW: NDArray[np.uint8]) -> set[int]:
    """The instance ids in a mask, without the background."""
    bins = MAX_ID + 1
    counts = cv2.calcHist([np.ascontiguousarray(ids_HW)], [0], None, [bins], [0, bins])
    return {int(i) for i in np.flatnonzero(counts.ravel()) if i}


def colour(instance_id: int) -> tuple[int, int, int]:
    """RGB of an instance id: the palette of PASCAL VOC and DAVIS; 0 is black."""
    if not 0 <= instance_id <= MAX_ID:
        raise ValueError(f"instance id {instance_id} is outside 0..255")
    rgb = [0, 0, 0]
    for bit in range(3):
        for channel in range(3):
            rgb[channel] |= ((instance_id >> (3 * bit + channel)) & 1) << (7 - bit)
    return rgb[0], rgb[1], rgb[2]


@cache
def _palette() -> bytes:
    return bytes(value for i in range(256) for value in colour(i))
