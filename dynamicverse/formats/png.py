"""PNG containers: chunks checked before a pixel is decoded, palettes OpenCV cannot write.

Only the critical chunks are ever given to the decoder, so text, profiles, animation and
whatever else a hostile file carries are never looked at.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.bounded import invalid, read_bytes, read_ends

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
MAX_BYTES = 1 << 30
# masks are flat: run lengths are the smallest and the fastest
PALETTE_ENCODING = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
)
MAX_PIXELS = 1 << 28
MAX_RATIO = 1032  # deflate cannot do better
SLACK = 1024  # bytes of overhead that a very small picture may have


@dataclass(frozen=True)
class PngHeader:
    """IHDR: size in pixels, bits a sample, colour type."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def data_bytes(self) -> int:
        """Bytes of the image before compression, with one filter byte a row."""
        row = (self.width * CHANNELS[self.colour] * self.depth + 7) // 8
        return self.height * (row + 1)


def read_header(path: Path) -> PngHeader:
    """The header of a PNG that ends as a PNG must; nothing is decoded."""
    head, tail, _ = read_ends(path, 33, len(END), MAX_BYTES)
    header = parse_header(path, head)
    if tail != END:
        raise invalid(path, "a PNG that is cut off")
    return header


def decode(
    path: Path, colour: int, depth: int, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[Any], PngHeader]:
    """Samples as stored: (H,W) grey or palette indices, (H,W,3) in BGR order.

    Raises ArtifactError unless the file is a whole PNG of this colour type and bit depth.
    """
    data = read_bytes(path, MAX_BYTES)
    header, palette, pixels = _parse(path, data)
    if (header.colour, header.depth) != (colour, depth):
        raise invalid(
            path,
            f"PNG colour type {header.colour} with {header.depth} bits, "
            f"expected {colour} with {depth}",
        )
    if header.width * header.height > max_pixels:
        raise invalid(path, f"{header.width}x{header.height} pixels, more than {max_pixels}")
    if colour == PALETTE and not palette:
        raise invalid(path, "a palette PNG without a palette")
    return _decode(path, header, pixels), header


def critical_chunks(path: Path, data: bytes) -> bytes:
    """The same PNG with nothing in it but header, palette and pixels."""
    _, palette, pixels = _parse(path, data)
    return (
        data[:33] + (_chunk(b"PLTE", palette) if palette else b"") + _chunk(b"IDAT", pixels) + END
    )


def encode_palette(indices_HW: NDArray[np.uint8], palette: bytes) -> bytes:
    """An 8-bit palette PNG; OpenCV compresses, the header is made a palette's."""
    height, width = indices_HW.shape
    ok, encoded = cv2.imencode(".png", indices_HW, PALETTE_ENCODING)
    assert ok
    header, _, pixels = _parse(Path("memory"), encoded.tobytes())
    assert (header.width, header.height, header.colour) == (width, height, GREY)
    start = struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0)
    return (
        SIGNATURE
        + _chunk(b"IHDR", start)
        + _chunk(b"PLTE", palette)
        + _chunk(b"IDAT", pixels)
        + END
    )


def _decode(path: Path, header: PngHeader, pixels: bytes) -> NDArray[Any]:
    # a palette image is a grey image to the decoder: the samples are the indices
    colour = GREY if header.colour == PALETTE else header.colour
    start = struct.pack(">IIBBBBB", header.width, header.height, header.depth, colour, 0, 0, 0)
    plain = SIGNATURE + _chunk(b"IHDR", start) + _chunk(b"IDAT", pixels) + END
    try:
        image = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise invalid(path, f"a PNG that cannot be decoded ({error.err})") from error
    channels = CHANNELS[header.colour]
    shape = (header.height, header.width) + ((channels,) if channels > 1 else ())
    if image is None or image.shape != shape:
        raise invalid(path, "a PNG that cannot be decoded")
    decoded: NDArray[Any] = image
    return decoded


def _parse(path: Path, data: bytes) -> tuple[PngHeader, bytes, bytes]:
    """Header, palette and compressed pixels of a whole PNG, every checksum compared."""
    header = parse_header(path, data[:33])
    view = memoryview(data)
    position, palette, pixels = 33, b"", []
    while True:
        if position + 12 > len(data):
            raise invalid(path, "a PNG that is cut off")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise invalid(path, "a PNG that is cut off")
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise invalid(path, f"a PNG with a damaged chunk {kind!r}")
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            pixels.append(view[position + 8 : end - 4])
        elif kind == b"PLTE":
            palette = bytes(view[position + 8 : end - 4])
        elif not kind[0] & 0x20:
            raise invalid(path, f"a PNG with an unexpected chunk {kind!r}")
        position = end
    if end != len(data):
        raise invalid(path, "a PNG with bytes after its end")
    if len(palette) % 3 or len(palette) > 768:
        raise invalid(path, "a PNG with a malformed palette")
    compressed = b"".join(pixels)
    if header.data_bytes > MAX_RATIO * len(compressed):
        raise invalid(path, "a PNG that claims more pixels than its data can hold")
    if len(compressed) > 2 * header.data_bytes + SLACK:
        raise invalid(path, "a PNG with more data than its pixels need")
    return header, palette, compressed


def parse_header(path: Path, head: bytes) -> PngHeader:
    """The header in the first 33 bytes of a PNG."""
    if len(head) < 33 or head[:16] != SIGNATURE + b"\0\0\0\rIHDR":
        raise invalid(path, "not a PNG")
    if zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        raise invalid(path, "a PNG with a damaged header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", head[16:29]
    )
    if not (1 <= width <= 65535 and 1 <= height <= 65535):
        raise invalid(path, f"a PNG of {width}x{height}")
    if colour not in CHANNELS or depth not in (1, 2, 4, 8, 16) or compression or filtering:
        raise invalid(path, "a PNG of an unknown kind")
    if interlace:
        raise invalid(path, "an interlaced PNG; expected a plain one")
    return PngHeader(width, height, depth, colour)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
