"""How many cores there are, and how many threads are worth starting."""

from __future__ import annotations

import os

MAX_WORKERS = 8  # more wait for the interpreter's lock more than they compute


def available() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers() -> int:
    """One thread a core that this process may use, up to MAX_WORKERS."""
    return min(MAX_WORKERS, available())
