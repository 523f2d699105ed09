"""Files of media, without opening them as such: readable, whole, and which are pictures.

Kept free of NumPy, OpenCV and PyAV: planning a run over many sources needs no more than this.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from dynamicverse.errors import InputError, Reason

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_BOXES = 1_000_000


def picture_names(folder: Path) -> list[str]:
    """The names of the pictures in a folder, in natural order (`2.png` before `10.png`)."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if is_picture(e.name)]
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(names, key=natural)


def is_picture(name: str) -> bool:
    """True for the name of a picture file that is not hidden."""
    return not name.startswith(".") and name.lower().endswith(PICTURES)


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key: runs of digits count as numbers."""
    parts = re.findall(r"\d+|\D+", name)
    key = tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)
    return key, name


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
