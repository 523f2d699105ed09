"""Files appear whole or not at all.

What is being written has a name of its own beside the file, so two writers of one file (pods that
overlap after a node was lost) do not meet; the last one to finish wins. A writer that is killed
leaves its temporary file: the runner removes those (`Store.sweep`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicverse.scene import UNFINISHED


def temporary_beside(path: Path) -> Path:
    """A sibling to write to, which no other writer uses."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}{UNFINISHED}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `path` when the block succeeds.

    Parent folders are made. If the block raises, the sibling is removed and `path` is left as
    it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
