"""How many threads are worth starting."""

from __future__ import annotations

import os

MAX_WORKERS = 8  # more wait for the interpreter's lock more than they compute


def workers() -> int:
    """One thread a core that this process may use, up to MAX_WORKERS."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    return min(MAX_WORKERS, os.cpu_count() or 1)
