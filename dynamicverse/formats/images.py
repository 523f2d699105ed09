"""JPEG and PNG pictures of the tree, RGB uint8."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats import png
from dynamicverse.formats.atomic import write_bytes
from dynamicverse.formats.bounded import invalid, read_bytes, read_ends

MAX_PIXELS = 1 << 28
MAX_BYTES = 1 << 30
HEAD_BYTES = 1 << 18  # a JPEG may carry a profile and a thumbnail before its size
TAIL_BYTES = 64  # a JPEG may be padded with zeros
# pixels a byte: each 8x8 block takes one bit at the very least
JPEG_RATIO = 512
# run lengths after the difference to the left: three times as fast as level 1, and flat pictures
# become smaller
PNG_ENCODING = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_SUB,
)
# start-of-frame markers: baseline, extended, progressive
_SOF = (0xC0, 0xC1, 0xC2)


@dataclass(frozen=True)
class ImageHeader:
    """kind: "jpeg" or "png"; width, height in pixels."""

    kind: str
    width: int
    height: int


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The size of a picture that ends as it must; nothing is decoded."""
    head, tail, size = read_ends(path, HEAD_BYTES, TAIL_BYTES, MAX_BYTES)
    return _header(path, head, tail, size, max_pixels)


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to (H,W,3) RGB uint8; grey is repeated, 16 bits become 8.

    The orientation that a camera noted is not applied: the pixels are as stored.
    Raises ArtifactError.
    """
    data = read_bytes(path, MAX_BYTES)
    header = _header(path, data[:HEAD_BYTES], data[-TAIL_BYTES:], len(data), max_pixels)
    if header.kind == "png":
        data = png.critical_chunks(path, data)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise invalid(path, f"cannot be decoded ({error.err})") from error
    if image is None or image.shape != (header.height, header.width, 3):
        raise invalid(path, "cannot be decoded")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def write_jpeg(path: Path, rgb_HW3: NDArray[np.uint8], quality: int = 95) -> None:
    """Write a JPEG."""
    _write(path, rgb_HW3, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def write_png(path: Path, rgb_HW3: NDArray[np.uint8]) -> None:
    """Write an 8-bit RGB PNG."""
    _write(path, rgb_HW3, ".png", PNG_ENCODING)


def validate(path: Path, width: int, height: int, thorough: bool = False) -> None:
    """Raise ArtifactError if the file is not a whole picture of this size."""
    header = read_header(path)
    if (header.width, header.height) != (width, height):
        raise invalid(path, f"{header.width}x{header.height}, the frames are {width}x{height}")
    if thorough:
        read_rgb(path)


def _write(path: Path, rgb_HW3: NDArray[np.uint8], suffix: str, options: Sequence[int]) -> None:
    if rgb_HW3.ndim != 3 or rgb_HW3.shape[2] != 3 or rgb_HW3.dtype != np.uint8 or not rgb_HW3.size:
        raise invalid(path, f"a picture is (H,W,3) uint8, not {rgb_HW3.shape} {rgb_HW3.dtype}")
    if max(rgb_HW3.shape[:2]) > 65500:
        raise invalid(path, f"{rgb_HW3.shape[1]}x{rgb_HW3.shape[0]} is too large")
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb_HW3), cv2.COLOR_RGB2BGR)
    ok, encoded = cv2.imencode(suffix, bgr, options)
    assert ok
    write_bytes(path, encoded.tobytes())


def _header(path: Path, head: bytes, tail: bytes, size: int, max_pixels: int) -> ImageHeader:
    if head.startswith(png.SIGNATURE):
        found = png.parse_header(path, head[:33])
        header = ImageHeader("png", found.width, found.height)
        whole = tail.endswith(png.END)
    elif head.startswith(b"\xff\xd8\xff"):
        header = _jpeg_header(path, head)
        if header.width * header.height > JPEG_RATIO * size:
            raise invalid(path, "a JPEG that claims more pixels than its data can hold")
        whole = tail.rstrip(b"\0").endswith(b"\xff\xd9")
    else:
        raise invalid(path, "neither JPEG nor PNG")
    if not whole:
        raise invalid(path, f"a {header.kind.upper()} that is cut off")
    if header.width * header.height > max_pixels:
        raise invalid(path, f"{header.width}x{header.height} pixels, more than {max_pixels}")
    return header


def _jpeg_header(path: Path, head: bytes) -> ImageHeader:
    """Walk the segments to the start of frame (ITU-T T.81, annex B)."""
    position = 2
    while position + 9 <= len(head):
        fill, marker, length = struct.unpack_from(">BBH", head, position)
        if fill != 0xFF or length < 2 or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA:
            break
        if marker in _SOF:
            bits, height, width = struct.unpack_from(">BHH", head, position + 4)
            if bits != 8 or not width or not height:
                break
            return ImageHeader("jpeg", width, height)
        position += 2 + length
    raise invalid(path, "a JPEG without a readable header")
