"""Reading files that may be hostile: size known before a byte is read, one error type."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dynamicverse.errors import ArtifactError, Reason

# a symlink loop or a name that no file can have is the user's doing, EIO is the machine's
_BAD_NAME = (errno.ELOOP, errno.ENAMETOOLONG)


def invalid(path: Path, problem: str) -> ArtifactError:
    """The error for a file that is not what it should be."""
    return ArtifactError(f"{path}: {problem}")


@contextmanager
def open_bounded(path: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file of at most `max_bytes`; yield the stream and its size.

    Any OSError inside the block becomes an ArtifactError: MISSING_ARTIFACT where there is no
    file, UNREADABLE where it may not be read, STORAGE where the device failed.
    """
    try:
        # without O_NONBLOCK, opening a FIFO would wait for ever
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise invalid(path, "not a regular file")
            if status.st_size == 0:
                raise invalid(path, "empty file")
            if status.st_size > max_bytes:
                raise invalid(path, f"{status.st_size} bytes, more than {max_bytes} allowed")
            yield stream, status.st_size
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file", Reason.MISSING_ARTIFACT) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A whole regular file of at most `max_bytes`."""
    with open_bounded(path, max_bytes) as (stream, size):
        data = stream.read(size + 1)
    if len(data) != size:
        raise invalid(path, "changed while it was read")
    return data


def read_ends(path: Path, head: int, tail: int, max_bytes: int) -> tuple[bytes, bytes, int]:
    """The first `head` and last `tail` bytes of a file, and its size."""
    with open_bounded(path, max_bytes) as (stream, size):
        first = stream.read(min(head, size))
        stream.seek(max(0, size - tail))
        return first, stream.read(tail), size


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    if isinstance(error, IsADirectoryError):
        return invalid(path, "a folder, not a file")
    denied = isinstance(error, PermissionError | NotADirectoryError) or error.errno in _BAD_NAME
    reason = Reason.UNREADABLE if denied else Reason.STORAGE
    return ArtifactError(f"{path}: cannot be read ({error.strerror or error})", reason)
