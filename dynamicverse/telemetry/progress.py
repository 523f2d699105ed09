"""How far a run is, read from its ledger step by step: only files that have grown are read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dynamicverse.runner.plan import Run
from dynamicverse.telemetry import figures
from dynamicverse.telemetry.figures import Figures

READERS = 16  # requests under way at once
MAX_POOLS = 16  # values of the label `pool` of one run
OTHER_POOLS = "other"
Row = NDArray[np.float64]


@dataclass(frozen=True)
class StageProgress:
    """One stage of a run, all shards together. row: the columns of `figures`.

    expected: scenes (for ingest: sources) as far as they are known.
    """

    stage: str
    row: Row
    pools: Mapping[str, float]
    peak: float
    expected: int

    @property
    def finished(self) -> int:
        return int(self.row[figures.ENDED].sum())


@dataclass(frozen=True)
class Progress:
    """One run. first, last: times of its first and last event, 0 before any.

    prices: $ per hour of one pod, by pool.
    """

    run: str
    dataset: str
    sources: int
    shards: int
    stages: tuple[StageProgress, ...]
    prices: Mapping[str, float]
    first: float
    last: float

    @property
    def ratio(self) -> float:
        """0 to 1: the mean of the stages' shares of scenes that have ended."""
        parts = [min(1.0, s.finished / s.expected) for s in self.stages if s.expected]
        return sum(parts) / len(parts) if parts else 0.0

    @property
    def complete(self) -> bool:
        return self.ratio >= 1.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the pace so far; None before any work."""
        ratio = self.ratio
        if not ratio or self.last <= self.first:
            return None
        return (self.last - self.first) * (1.0 - ratio) / ratio


@dataclass
class _Table:
    """The figures of one stage: a row a shard."""

    rows: Row
    first: Row
    last: Row
    peak: Row
    pools: dict[str, Row] = field(default_factory=dict)


class LedgerReader:
    """Follows the ledger of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._sizes: dict[str, int] = {}
        count = run.plan.shards
        self._tables = {
            stage: _Table(
                rows=np.zeros((count, figures.WIDTH)),
                first=np.full(count, np.inf),
                last=np.zeros(count),
                peak=np.zeros(count),
            )
            for stage in run.plan.stages
        }

    def refresh(self) -> bool:
        """Read what has changed since the last time; True if anything has.

        Raises StorageError when the store stays away; the next call goes on.
        """
        listed = self.run.store.sizes(f"{self.run.folder}/ledger")
        grown = [p for p, size in listed.items() if self._sizes.get(p) != size and self._place(p)]
        vanished = [p for p in self._sizes if p not in listed]
        for path in vanished:
            self._put(path, b"")
            del self._sizes[path]
        if self.run.store.local is not None:
            for path in grown:
                self._put(path, self.run.store.read(path) or b"")
        else:
            with ThreadPoolExecutor(READERS) as readers:
                for path, data in zip(grown, readers.map(self.run.store.read, grown), strict=True):
                    self._put(path, data or b"")
        return bool(grown or vanished)

    def progress(self) -> Progress:
        """The run as it was read last."""
        plan = self.run.plan
        sums = {stage: table.rows.sum(axis=0) for stage, table in self._tables.items()}
        expected = _expected_scenes(sums, plan.sources)
        tables = self._tables.values()
        first = min((float(t.first.min()) for t in tables), default=np.inf)
        return Progress(
            run=plan.run,
            dataset=plan.dataset,
            sources=plan.sources,
            shards=plan.shards,
            stages=tuple(
                StageProgress(
                    stage=stage,
                    row=sums[stage],
                    pools={pool: float(s.sum()) for pool, s in sorted(table.pools.items())},
                    peak=float(table.peak.max()),
                    expected=plan.sources if stage == "ingest" else expected,
                )
                for stage, table in self._tables.items()
            ),
            prices=self.run.config.cluster.prices,
            first=0.0 if np.isinf(first) else first,
            last=max((float(t.last.max()) for t in tables), default=0.0),
        )

    def _place(self, path: str) -> tuple[_Table, int] | None:
        """The table and shard of a ledger file; None for what is not of the plan."""
        name = PurePosixPath(path)
        table = self._tables.get(name.parent.name)
        if table is None or name.suffix != ".jsonl" or not name.stem.isdigit():
            return None
        shard = int(name.stem)
        return (table, shard) if shard < len(table.rows) else None

    def _put(self, path: str, data: bytes) -> None:
        """Replace what a file said by what it says now."""
        place = self._place(path)
        if place is None:
            return
        table, shard = place
        found = figures.of_file(data)
        table.rows[shard] = found.row
        table.first[shard] = found.first or np.inf
        table.last[shard] = found.last
        table.peak[shard] = found.peak
        self._put_pools(table, shard, found)
        self._sizes[path] = len(data)  # not as listed: it may have grown since

    def _put_pools(self, table: _Table, shard: int, found: Figures) -> None:
        for seconds in table.pools.values():
            seconds[shard] = 0.0
        for pool, spent in found.pools.items():
            known = {p for t in self._tables.values() for p in t.pools}
            label = pool if pool in known or len(known) < MAX_POOLS else OTHER_POOLS
            if label not in table.pools:
                table.pools[label] = np.zeros(len(table.rows))
            table.pools[label][shard] += spent


def _expected_scenes(sums: Mapping[str, Row], sources: int) -> int:
    """How many scenes the run has, as far as is known.

    A source that has not been ingested counts as one scene; so does one that failed, because
    the stages after ingest report it once, as blocked.
    """
    ingest = sums.get("ingest")
    known = sources
    if ingest is not None:
        known = int(ingest[figures.SCENES]) + sources - int(ingest[figures.ENDED].sum())
    reached = (int(row[figures.ENDED].sum()) for stage, row in sums.items() if stage != "ingest")
    return max(known, *reached, 0)
