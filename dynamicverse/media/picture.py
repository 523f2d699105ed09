"""The header of a picture file: its size and orientation before anything is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dynamicverse.media.source import Orientation

_PNG = b"\x89PNG\r\n\x1a\n"
_BASELINE = (0xC0, 0xC1)
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NEAR_START = 1 << 18  # readers of the tree look for a JPEG's size this far
_RATIO = 512  # pixels a byte that a JPEG can hold at most


UPRIGHT = Orientation()


@dataclass(frozen=True)
class PictureHeader:
    """kind: jpeg, png, bmp, tiff or webp. width, height: as stored, pixels.

    whole: the file has its end. plain: a JPEG that every reader takes (baseline, 8 bits,
    grey or YCbCr, upright), so that its bytes can be copied.
    """

    kind: str
    width: int
    height: int
    orientation: Orientation = UPRIGHT
    whole: bool = True
    plain: bool = False


def read_header(data: bytes) -> PictureHeader:
    """Parse the header of a picture file. Raises ValueError if it is none."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return PictureHeader("bmp", abs(width), abs(height))
        if data[:4] in (b"II*\0", b"MM\0*"):
            tags = _tiff_tags(data)
            orientation = Orientation.from_exif(tags.get(274, 1))
            return PictureHeader("tiff", tags[256], tags[257], orientation)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, KeyError, IndexError) as error:
        raise ValueError("a picture without a readable header") from error
    raise ValueError("not a picture")


def _jpeg(data: bytes) -> PictureHeader:
    """Walk the segments to the start of frame (ITU-T T.81, annex B)."""
    orientation = UPRIGHT
    position = 2
    while True:
        fill, marker, length = struct.unpack_from(">BBH", data, position)
        if fill != 0xFF:
            raise ValueError("a JPEG without a readable header")
        if marker == 0xFF:  # fill bytes before a marker
            position += 1
            continue
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            tags = _tiff_tags(data[position + 10 : position + 2 + length])
            orientation = Orientation.from_exif(tags.get(274, 1))
        if marker in _FRAME_MARKERS:
            break
        position += 2 + length
    bits, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
    end = data[-64:].rstrip(b"\0").endswith(b"\xff\xd9")
    plain = (
        marker in _BASELINE
        and bits == 8
        and components in (1, 3)
        and orientation == UPRIGHT
        and end
        and position < _NEAR_START
        and width * height <= _RATIO * len(data)
    )
    # cameras append previews and padding: the end may come before the last byte
    return PictureHeader("jpeg", width, height, orientation, b"\xff\xd9" in data[position:], plain)


def _png(data: bytes) -> PictureHeader:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, whole = UPRIGHT, False
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            tags = _tiff_tags(data[position + 8 : position + 8 + length])
            orientation = Orientation.from_exif(tags.get(274, 1))
        if kind == b"IEND":
            whole = True
            break
        position += 12 + length
    return PictureHeader("png", width, height, orientation, whole)


def _webp(data: bytes) -> PictureHeader:
    """The RIFF container of WebP (RFC 9649)."""
    (riff,) = struct.unpack_from("<I", data, 4)
    whole = riff + 8 <= len(data)
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("a WebP without a readable header")
    orientation = UPRIGHT
    position = 12
    while position + 8 <= len(data):
        chunk, length = struct.unpack_from("<4sI", data, position)
        if chunk == b"EXIF":
            exif = data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
            orientation = Orientation.from_exif(_tiff_tags(exif).get(274, 1))
        position += 8 + length + length % 2
    return PictureHeader("webp", width, height, orientation, whole)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The integer tags of the first directory of a TIFF; empty if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return {}
    (start,) = struct.unpack_from(order + "I", data, 4)
    if start + 2 > len(data):
        return {}
    (count,) = struct.unpack_from(order + "H", data, start)
    tags: dict[int, int] = {}
    for entry in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if number == 1 and kind in (3, 4):
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return tags
