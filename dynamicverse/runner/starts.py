"""Which scenes are under way, for whoever comes after a process that died.

A scene that kills its process (a crash in a decoder, memory) leaves no record by itself, and the
next process would run into it again. So the scenes of a shard that are begun and not ended stand
in `<run>/started/<stage>/<shard>.json`; what a new process finds there was cut short by a death.
After `MAX_CRASHES` such starts a scene is put into quarantine and the shard goes on. A process
that is told to end takes its scenes out first: preemption is no crash. On one machine nothing is
written: there a parent process sees which scene its child died of, and a user who kills the
whole program blames no scene.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from types import TracebackType

from dynamicverse.errors import StorageError
from dynamicverse.runner.store import Store, dump_json

MAX_CRASHES = 2  # of one scene at one stage, before it is put into quarantine


class Starts:
    """The starts of one stage and shard; use as a context manager. One process writes them.

    written: whether they are; if not, there are none.
    """

    def __init__(
        self, store: Store, run_folder: str, stage: str, shard: int, *, written: bool
    ) -> None:
        self._active = written
        self._store = store
        self._path = f"{run_folder}/started/{stage}/{shard:05d}.json"
        self._crashes = _parse(store.read(self._path)) if written else {}
        self._under_way: set[tuple[str, str]] = set()
        self._written = bool(self._crashes)
        self._lock = threading.Lock()

    def __enter__(self) -> Starts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._under_way.clear()
            if self._written:
                with suppress(StorageError):  # at worst these starts count as crashes
                    self._write()

    def crashes(self, name: str, key: str) -> int:
        """How many processes have died while they did this work."""
        return self._crashes.get((name, key), 0)

    def begin(self, name: str, key: str) -> None:
        """The work on a scene begins: written before it may do harm."""
        if not self._active:
            return
        with self._lock:
            self._under_way.add((name, key))
            self._write()
            self._written = True

    def end(self, name: str, key: str) -> None:
        """The work on a scene has ended, or has been given up. Written with the next start."""
        with self._lock:
            self._under_way.discard((name, key))
            self._crashes.pop((name, key), None)

    def _write(self) -> None:
        starts = dict(self._crashes)
        for work in self._under_way:
            starts[work] = starts.get(work, 0) + 1
        if starts:
            rows = [[name, key, count] for (name, key), count in sorted(starts.items())]
            self._store.write(self._path, dump_json({"started": rows}))
        else:
            self._store.delete([self._path])


def _parse(data: bytes | None) -> dict[tuple[str, str], int]:
    try:
        rows = [] if data is None else json.loads(data)["started"]
        return {(str(name), str(key)): int(count) for name, key, count in rows}
    except (ValueError, KeyError, TypeError):
        return {}  # torn: crashes are counted anew
