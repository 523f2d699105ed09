"""The ledger exporter: follows all runs of a root and answers Prometheus.

The ledger is read in the background; a scrape renders what was read last and never waits for
storage. Counters survive pods, and the exporter itself, because they are the ledger's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dynamicverse.errors import DynamicVerseError
from dynamicverse.runner import plan
from dynamicverse.runner.store import Store
from dynamicverse.telemetry import exposition
from dynamicverse.telemetry.progress import LedgerReader, Progress

QUIET_SHARE = 0.1  # a run that has been quiet for t is looked at again after t / 10 …
MOST_QUIET = 300.0  # … seconds, at most so many

log = logging.getLogger(__name__)


@dataclass
class _Followed:
    """A run, when something in it last changed, and when it is to be looked at again."""

    reader: LedgerReader
    changed: float
    due: float = 0.0
    progress: Progress | None = None


class Exporter(Collector):
    """All runs of one root. max_runs: only those with the latest events are shown."""

    def __init__(
        self, store: Store, max_runs: int = 50, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.max_runs, self._clock = store, max_runs, clock
        self._followed: dict[str, _Followed] = {}
        self._refused: set[str] = set()
        self._shown: tuple[Progress, ...] = ()
        self._left_out = 0
        self._refreshed = self._took = 0.0
        self._errors = 0

    @property
    def ready(self) -> bool:
        """True once the ledgers have been read."""
        return self._refreshed > 0

    def registry(self) -> CollectorRegistry:
        """A registry with this exporter alone."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def refresh(self) -> None:
        """Look at the ledgers; a fault of the storage is counted and leaves what is known."""
        start = time.perf_counter()
        try:
            self._follow(plan.list_runs(self.store))
            for followed in self._followed.values():
                self._look(followed)
        except DynamicVerseError as error:
            self._errors += 1
            log.warning("%s", error)
            return
        known = [f.progress for f in self._followed.values() if f.progress is not None]
        known.sort(key=lambda p: (-p.last, p.run))
        self._shown, self._left_out = tuple(known[: self.max_runs]), len(known[self.max_runs :])
        self._took = time.perf_counter() - start
        self._refreshed = self._clock()

    def _follow(self, names: list[str]) -> None:
        """Begin with new runs, forget removed ones."""
        for name in set(self._followed) - set(names):
            del self._followed[name]
        for name in names:
            if name in self._followed or name in self._refused:
                continue
            try:
                reader = LedgerReader(plan.open_named(self.store, name))
            except DynamicVerseError as error:
                if error.reason.transient:
                    raise
                self._errors += 1
                self._refused.add(name)  # of another version: said once
                log.warning("run %s is left out: %s", name, error)
            else:
                self._followed[name] = _Followed(reader, self._clock())

    def _look(self, followed: _Followed) -> None:
        now = self._clock()
        if followed.progress is not None and now < followed.due:
            return
        if followed.reader.refresh() or followed.progress is None:
            followed.changed = now
            followed.progress = followed.reader.progress()
        followed.due = now + min((now - followed.changed) * QUIET_SHARE, MOST_QUIET)

    def collect(self) -> Iterator[Metric]:
        """The metrics of a scrape."""
        yield exposition.build_info()
        yield from self._about_itself()
        yield from exposition.of_runs(self._shown)

    def _about_itself(self) -> Iterator[Metric]:
        prefix = "dynamicverse_exporter"
        if self.ready:
            yield GaugeMetricFamily(
                f"{prefix}_last_refresh_timestamp_seconds",
                "When the ledgers were last read without an error",
                self._refreshed,
            )
            yield GaugeMetricFamily(
                f"{prefix}_refresh_duration_seconds", "How long that took", self._took
            )
        yield CounterMetricFamily(
            f"{prefix}_errors", "Faults while reading the ledgers", self._errors
        )
        yield GaugeMetricFamily(
            f"{prefix}_runs_left_out", "Older runs that are not shown", self._left_out
        )


def keep_fresh(exporter: Exporter, interval: float, stop: threading.Event) -> None:
    """Refresh until told to stop."""
    while not stop.is_set():
        exporter.refresh()
        stop.wait(interval)
