"""Depth maps: half-float OpenEXR with the channels `Z` and `confidence`."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import OpenEXR
from numpy.typing import NDArray

from dynamicverse.errors import StorageError
from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.bounded import invalid, open_bounded

MAGIC = 20000630
BLOCK_LINES = 16  # of ZIP compression
MAX_RATIO = 1032  # deflate cannot do better
MAX_HEADER = 16 << 10
MAX_HALF = 65504.0
MAX_BYTES = 1 << 30
MAX_PIXELS = 1 << 27
CHANNELS = ("Z", "confidence")


def write(path: Path, depth_HW: NDArray[Any], confidence_HW: NDArray[Any]) -> None:
    """Write a depth map, rounded to half floats.

    depth_HW: along the optical axis, metres or units of the reconstruction; 0 is unknown.
    confidence_HW: 0..1. Raises ArtifactError for NaN, negative or too large values and
    StorageError where the disk fails.
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
        try:
            OpenEXR.File(header, planes).write(str(temporary))
        except RuntimeError as error:  # the planes are known to be good: the disk is not
            raise StorageError(f"{path}: cannot be written ({error})") from error


def read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read a depth map: (H,W) depth and (H,W) confidence; raises ArtifactError."""
    width, height = _layout(path, inflate=True)
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

    Follows "OpenEXR File Layout": attributes, offset table, blocks of 16 lines.
    """
    return _layout(path, inflate=False)


def _layout(path: Path, inflate: bool) -> tuple[int, int]:
    """Check everything but the pixels; with `inflate` also that every block decompresses.

    OpenEXR would report a damaged block by a line on standard output, amid what the user or
    a program reads there, so it is given whole files only.
    """
    with open_bounded(path, MAX_BYTES) as (stream, file_size):
        try:
            head = stream.read(MAX_HEADER)
            attributes, position = _attributes(head)
            width, height = _size(attributes)
            raw_sizes = [
                4 * width * min(BLOCK_LINES, height - line)
                for line in range(0, height, BLOCK_LINES)
            ]
            _check_blocks(stream, file_size, position, raw_sizes, inflate)
        except (struct.error, zlib.error, ValueError, KeyError, IndexError) as error:
            raise invalid(path, f"not a depth map in EXR ({error})") from error
    return width, height


def _attributes(head: bytes) -> tuple[dict[bytes, bytes], int]:
    """ "name type" to value, and where the offset table begins."""
    if struct.unpack_from("<II", head) != (MAGIC, 2):
        raise ValueError("not a plain scan-line file")
    attributes: dict[bytes, bytes] = {}
    position = 8
    while head[position]:
        name_end = head.index(b"\0", position, position + 33)
        kind_end = head.index(b"\0", name_end + 1, name_end + 34)
        (size,) = struct.unpack_from("<i", head, kind_end + 1)
        start = kind_end + 5
        if not 0 <= size <= len(head) - start:
            raise ValueError("an attribute that is too large")
        key = head[position:name_end] + b" " + head[name_end + 1 : kind_end]
        attributes[key] = head[start : start + size]
        position = start + size
    return attributes, position + 1


def _size(attributes: dict[bytes, bytes]) -> tuple[int, int]:
    half = struct.pack("<iiii", 1, 0, 1, 1)  # type, linearity, sampling in x and y
    channels = b"".join(name.encode() + b"\0" + half for name in CHANNELS) + b"\0"
    if attributes[b"channels chlist"] != channels:
        raise ValueError("the channels are not half-float Z and confidence")
    if attributes[b"compression compression"] != b"\x03":
        raise ValueError("not ZIP compressed")
    if attributes[b"lineOrder lineOrder"] != b"\0":
        raise ValueError("not from top to bottom")
    window = attributes[b"dataWindow box2i"]
    x0, y0, x1, y1 = struct.unpack("<iiii", window)
    if attributes[b"displayWindow box2i"] != window or (x0, y0) != (0, 0):
        raise ValueError("a data window that is not the whole image")
    width, height = x1 + 1, y1 + 1
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels")
    return width, height


def _check_blocks(
    stream: BinaryIO, file_size: int, position: int, raw_sizes: list[int], inflate: bool
) -> None:
    """Every block begins where the one before it ends, and the last one ends the file."""
    count = len(raw_sizes)
    stream.seek(position)
    offsets = struct.unpack(f"<{count}Q", stream.read(8 * count))
    expected = position + 8 * count
    for block, (offset, raw) in enumerate(zip(offsets, raw_sizes, strict=True)):
        if offset != expected:
            raise ValueError("blocks that do not follow each other")
        stream.seek(offset)
        line, size = struct.unpack("<ii", stream.read(8))
        if line != BLOCK_LINES * block or not raw <= size * MAX_RATIO <= raw * MAX_RATIO:
            raise ValueError("a block of a wrong size")
        if inflate and size < raw:
            decoder = zlib.decompressobj()
            if len(decoder.decompress(stream.read(size), raw)) != raw or not decoder.eof:
                raise ValueError("a block that does not decompress to its size")
        expected = offset + 8 + size
    if expected != file_size:
        raise ValueError("cut off, or bytes after the end")
