"""What a run has done so far: settled shards, and the ledgers of those still at work."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dynamicverse.runner import settled
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.plan import Run


@dataclass
class StageStatus:
    """One stage of a run. seconds: compute time summed over workers; frames as processed."""

    stage: str
    expected: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    seconds: float = 0.0
    durations: list[float] = field(default_factory=list)

    @property
    def finished(self) -> int:
        return sum(self.outcomes.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds_p50/p95 are per scene."""
        ordered = sorted(self.durations)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None
        return {
            "stage": self.stage,
            "expected": self.expected,
            **{outcome.value: self.outcomes[outcome.value] for outcome in Outcome},
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.frames / self.seconds, 3) if self.seconds else None,
            "seconds_p50": statistics.median(ordered) if ordered else None,
            "seconds_p95": p95,
        }


@dataclass
class RunStatus:
    """Progress of a run. scenes: known so far, more may come out of sources not yet ingested.

    complete: every stage has ended for every shard.

    elapsed_seconds: from the first event to the last. pool_seconds: work by GPU pool.
    """

    run: str
    dataset: str
    sources: int
    scenes: int
    stages: list[StageStatus]
    failures: Counter[str]
    eta_seconds: float | None
    updated: str | None
    elapsed_seconds: float
    pool_seconds: Counter[str]
    complete: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "run": self.run,
            "dataset": self.dataset,
            "sources": self.sources,
            "scenes": self.scenes,
            "complete": self.complete,
            "eta_seconds": self.eta_seconds,
            "updated": self.updated,
            "failures": dict(sorted(self.failures.items())),
            "stages": [s.to_json() for s in self.stages],
        }


def of_run(run: Run) -> RunStatus:
    """Add up what the stages did for the shards, each scene as its last event says."""
    work = {name: StageStatus(name) for name in run.plan.stages}
    failures: Counter[str] = Counter()
    pool_seconds: Counter[str] = Counter()
    first, last = "", ""
    found = settled.tallies(run)
    for name, part in ((one.stage, part) for one in found for part in one.shards):
        stage = work[name]
        stage.outcomes.update(part.outcomes)
        stage.frames += part.frames
        stage.seconds += sum(part.durations)
        stage.durations += part.durations
        failures.update(part.reasons)
        pool_seconds.update(part.pool_seconds)
        first = min(filter(None, (first, part.first)), default="")
        last = max(last, part.last)
    known = max((s.finished for s in work.values() if s.stage != "ingest"), default=0)
    for stage in work.values():
        # a source gives one scene or more, or a line that says why not
        stage.expected = max(run.plan.sources, known if stage.stage != "ingest" else 0)
    elapsed = _seconds_between(first, last)
    return RunStatus(
        run=run.plan.run,
        dataset=run.plan.dataset,
        sources=run.plan.sources,
        scenes=known,
        stages=list(work.values()),
        failures=failures,
        eta_seconds=_eta(list(work.values()), elapsed),
        updated=last or None,
        elapsed_seconds=elapsed,
        pool_seconds=pool_seconds,
        complete=all(one.ended for one in found),
    )


def _seconds_between(first: str, last: str) -> float:
    if not first:
        return 0.0
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def _eta(stages: list[StageStatus], elapsed: float) -> float | None:
    """Seconds left at the pace so far, in units of stages; None before any work."""
    finished = sum(min(s.finished, s.expected) / s.expected for s in stages if s.expected)
    if not finished or not elapsed:
        return None
    return round(elapsed * (len(stages) - finished) / finished, 1)
