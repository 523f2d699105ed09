"""What happened, one JSON line an event, in `<run>/ledger/<stage>/<shard>.jsonl`.

Status, metrics, cost and ETA are read from here. One process writes one file; the manifests
remain the truth about what is done, so a lost last line costs nothing but its figures.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dynamicverse.runner.store import Store

FLUSH_SECONDS = 5.0  # how often a remote ledger is written again


class Outcome(StrEnum):
    """How a stage ended for a scene (or, for ingest, for a source)."""

    DONE = "done"  # computed now
    CACHED = "cached"  # its manifest was current
    QUARANTINED = "quarantined"  # failed now, or before with the same key
    BLOCKED = "blocked"  # an earlier stage has not been done
    REJECTED = "rejected"  # the data filter's verdict


class Ledger:
    """Writes the ledger of one stage and shard; use as a context manager."""

    def __init__(self, store: Store, run_folder: str, stage: str, shard: int) -> None:
        self._store = store
        self._path = path(run_folder, stage, shard)
        self._common = {
            "stage": stage,
            "shard": shard,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "pool": os.environ.get("DYNAMICVERSE_POOL", "cpu"),
        }
        self._written = store.read(self._path) or b""
        if self._written and not self._written.endswith(b"\n"):
            self._pending = b"\n"  # a former writer was killed inside its last line
        else:
            self._pending = b""
        self._last_flush = time.monotonic()
        self._lock = threading.RLock()  # scenes may end in several threads

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, **record: Any) -> None:
        """Append one event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, **self._common, **record}, sort_keys=True) + "\n"
        with self._lock:
            self._pending += line.encode()
            overdue = time.monotonic() - self._last_flush > FLUSH_SECONDS
            if self._store.local is not None or overdue:
                self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        with self._lock:
            if self._pending:
                self._store.append(self._path, self._pending, self._written)
                if self._store.local is None:
                    self._written += self._pending
                self._pending = b""
            self._last_flush = time.monotonic()


def path(run_folder: str, stage: str, shard: int) -> str:
    """Where the ledger of a stage and shard lies, relative to the root."""
    return f"{run_folder}/ledger/{stage}/{shard:05d}.jsonl"


def read(store: Store, run_folder: str) -> Iterator[dict[str, Any]]:
    """All events of a run, file by file; torn lines are passed over."""
    for relative in sorted(store.sizes(f"{run_folder}/ledger")):
        for line in (store.read(relative) or b"").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "stage" in record:
                yield record
