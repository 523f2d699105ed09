"""What a pod of a workflow does besides its stage: progress for Argo."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from dynamicverse.runner.events import Event, Observer


def reporting(observer: Observer, scenes: int) -> Observer:
    """The observer, which also keeps `$ARGO_PROGRESS_FILE` at `N/M` scenes, if Argo asks for it.

    scenes: how many are expected; sources may give more.
    """
    path = os.environ.get("ARGO_PROGRESS_FILE")
    if not path:
        return observer
    file, done, lock = Path(path), 0, threading.Lock()

    def observe(event: Event) -> None:
        nonlocal done
        observer(event)
        if event.kind == "finish":
            with lock:
                done += 1
                file.write_text(f"{done}/{max(done, scenes)}\n")

    return observe
