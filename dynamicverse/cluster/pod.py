"""What a pod of a workflow does besides its stage: progress for Argo, and the settled record."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicverse.cluster import settled
from dynamicverse.runner.events import Event, Observer
from dynamicverse.runner.plan import Run


@contextmanager
def watch_shard(run: Run, stage: str, shard: int, observer: Observer) -> Iterator[Observer]:
    """Observe the work on a shard: yields the observer to give to the worker.

    Keeps `$ARGO_PROGRESS_FILE` at `N/M` scenes where Argo asks for it, and writes the settled
    record when the block ends without an error.
    """
    progress = _ProgressFile(len(run.shard(shard).sources))

    def observe(event: Event) -> None:
        observer(event)
        if event.kind == "finish":
            progress.advance()

    yield observe
    settled.record(run, stage, shard)


class _ProgressFile:
    """`N/M` in the file that Argo's executor reads. M grows when sources give more scenes."""

    def __init__(self, total: int) -> None:
        path = os.environ.get("ARGO_PROGRESS_FILE")
        self._path = Path(path) if path else None
        self._done, self._total = 0, max(total, 1)
        self._lock = threading.Lock()

    def advance(self) -> None:
        with self._lock:
            self._done += 1
            self._total = max(self._total, self._done)
            if self._path is not None:
                self._path.write_text(f"{self._done}/{self._total}\n")
