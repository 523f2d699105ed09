"""The outside of an MP4 file: whole boxes, without decoding (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from pathlib import Path

from dynamicverse.formats.bounded import invalid, open_bounded

MAX_BYTES = 1 << 40
MAX_BOXES = 10_000_000  # a fragmented file has two a fragment


def validate(path: Path) -> None:
    """Raise ArtifactError unless the file is whole boxes with `ftyp` first, `moov` and `mdat`."""
    kinds: set[bytes] = set()
    with open_bounded(path, MAX_BYTES) as (stream, size):
        position = 0
        for _ in range(MAX_BOXES):
            if position == size:
                break
            stream.seek(position)
            head = stream.read(16)
            if len(head) < 8:
                raise invalid(path, "an MP4 that is cut off")
            length, kind = struct.unpack_from(">I4s", head)
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack_from(">Q", head, 8)
            elif length == 0:
                length = size - position
            if length < 8 or position + length > size:
                raise invalid(path, "an MP4 that is cut off")
            if not kinds and kind != b"ftyp":
                raise invalid(path, "not an MP4")
            kinds.add(kind)
            position += length
    if not {b"moov", b"mdat"} <= kinds:
        raise invalid(path, "an MP4 without an index or without data")
