"""Depth maps: half-float OpenEXR with the channels `Z` and `confidence`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
from numpy.typing import NDArray

from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.bounded import invalid, read_bytes

MAX_HALF = 65504.0
MAX_BYTES = 1 << 30
MAX_PIXELS = 1 << 27
CHANNELS = ("Z", "confidence")


def write(path: Path, depth_HW: NDArray[Any], confidence_HW: NDArray[Any]) -> None:
    """Write a depth map, rounded to half floats.

    depth_HW: along the optical axis, metres or units of the reconstruction; 0 is unknown.
    confidence_HW: 0..1. Raises ArtifactError for NaN, negative or too large values.
    """
    if depth_HW.ndim != 2 or depth_HW.size == 0 or confidence_HW.shape != depth_HW.shape:
        raise invalid(path, f"depth {depth_HW.shape} with confidence {confidence_HW.shape}")
    _check_range(path, depth_HW, confidence_HW)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    planes = {
        "Z": np.ascontiguousarray(depth_HW, np.float16),
        "confidence": np.ascontiguousarray(confidence_HW, np.float16),
    }
    with atomic_path(path) as temporary:
        OpenEXR.File(header, planes).write(str(temporary))


def read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read a depth map: (H,W) depth and (H,W) confidence; raises ArtifactError."""
    width, height = read_size(path)
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            planes = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise invalid(path, f"an EXR that cannot be decoded ({error})") from error
    for name in CHANNELS:
        if planes[name].shape != (height, width) or planes[name].dtype != np.float16:
            raise invalid(path, f"channel {name} is {planes[name].shape} {planes[name].dtype}")
    depth_HW = planes["Z"].astype(np.float32)
    confidence_HW = planes["confidence"].astype(np.float32)
    _check_range(path, depth_HW, confidence_HW)
    return depth_HW, confidence_HW


def validate(path: Path, width: int, height: int, thorough: bool = False) -> None:
    """Raise ArtifactError if the file is not a depth map of this size."""
    found = read_size(path)
    if found != (width, height):
        raise invalid(path, f"{found[0]}x{found[1]}, the frames are {width}x{height}")
    if thorough:
        read(path)


def _check_range(path: Path, depth_HW: NDArray[Any], confidence_HW: NDArray[Any]) -> None:
    if not (depth_HW.min() >= 0 and depth_HW.max() <= MAX_HALF):  # also true for NaN
        raise invalid(path, f"depth outside 0..{MAX_HALF:.0f} or NaN")
    if not (confidence_HW.min() >= 0 and confidence_HW.max() <= 1):
        raise invalid(path, "confidence outside 0..1 or NaN")


def read_size(path: Path) -> tuple[int, int]:
    """(width, height), after the whole block structure has been checked; nothing is decoded.

    Follows "OpenEXR File Layout": header attributes, offset table, blocks of 16 lines.
    """
    data = read_bytes(path, MAX_BYTES)
    try:
        attributes, position = _attributes(data)
        width, height = _size(attributes)
        _check_blocks(data, position, width, height)
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise invalid(path, f"not a depth map in EXR ({error})") from error
    return width, height


def _attributes(data: bytes) -> tuple[dict[bytes, bytes], int]:
    magic, version = struct.unpack_from("<II", data)
    if magic != 20000630 or version != 2:
        raise ValueError("not a single-part scan-line file")
    attributes: dict[bytes, bytes] = {}
    position = 8
    for _ in range(64):
        if data[position] == 0:
            return attributes, position + 1
        name_end = data.index(b"\0", position, position + 33)
        kind_end = data.index(b"\0", name_end + 1, name_end + 34)
        (size,) = struct.unpack_from("<i", data, kind_end + 1)
        start = kind_end + 5
        if not 0 <= size <= 4096 or start + size > len(data):
            raise ValueError("an attribute that is too large")
        attributes[data[position:name_end]] = data[start : start + size]
        position = start + size
    raise ValueError("too many attributes")


def _size(attributes: dict[bytes, bytes]) -> tuple[int, int]:
    half = struct.pack("<iiii", 1, 0, 1, 1)
    wanted = b"".join(name.encode() + b"\0" + half for name in CHANNELS) + b"\0"
    channels = attributes[b"channels"]
    # the perceptual-linearity flag and its padding may be anything
    if len(channels) != len(wanted) or channels != wanted:
        raise ValueError("the channels are not half Z and half confidence")
    if attributes[b"compression"] != b"\x03":
        raise ValueError("not ZIP compressed")
    x0, y0, x1, y1 = struct.unpack("<iiii", attributes[b"dataWindow"])
    if attributes[b"displayWindow"] != attributes[b"dataWindow"] or (x0, y0) != (0, 0):
        raise ValueError("a data window that is not the whole image")
    width, height = x1 + 1, y1 + 1
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels")
    return width, height


def _check_blocks(data: bytes, position: int, width: int, height: int) -> None:
    count = (height + 15) // 16
    offsets = struct.unpack_from(f"<{count}Q", data, position)
    expected = position + 8 * count
    for block, offset in enumerate(offsets):
        if offset != expected:
            raise ValueError("blocks that do not follow each other")
        line, size = struct.unpack_from("<ii", data, offset)
        raw = min(16, height - 16 * block) * width * 4
        if line != 16 * block or not 0 < size <= raw:
            raise ValueError("a block of a wrong size")
        expected = offset + 8 + size
    if expected != len(data):
        raise ValueError("cut off, or bytes after the end")
