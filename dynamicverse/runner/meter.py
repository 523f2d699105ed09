"""Time and memory of a piece of work."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Seconds since construction, and the peak resident memory of this process.

    Linux lets a process reset its high-water mark, so the peak belongs to this piece of work
    alone; elsewhere it is the peak of the process so far.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            _CLEAR.write_text("5")
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def peak_memory_bytes(self) -> int:
        try:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
