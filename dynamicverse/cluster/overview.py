"""How far a run is, how fast it goes and what it has cost, at any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dynamicverse.cluster import settled
from dynamicverse.runner.plan import Run
from dynamicverse.runner.status import RunStatus, StageStatus


@dataclass(frozen=True)
class PoolCost:
    """What the pods of one pool (a type of GPU, or `cpu`) worked.

    hours: compute and model load; waiting, image pulls and staging are not in it, so it is a
    lower bound of what is billed. usd is None when the price table has no entry for the pool.
    """

    pool: str
    hours: float
    usd: float | None


@dataclass(frozen=True)
class Overview:
    """A run's status with its pace and cost. scenes_per_hour: through the last stage."""

    status: RunStatus
    scenes_per_hour: float | None
    costs: list[PoolCost]

    def to_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        costs = [asdict(cost) for cost in self.costs]
        return {**self.status.to_json(), "scenes_per_hour": self.scenes_per_hour, "costs": costs}


def of_run(run: Run, prices: Mapping[str, float]) -> Overview:
    """Add up the settled shards, and the ledgers of those still at work.

    prices: $ per hour of one pod, by pool.
    """
    work = {name: StageStatus(name) for name in run.plan.stages}
    failures: Counter[str] = Counter()
    pool_seconds: Counter[str] = Counter()
    first, last = "", ""
    for name, part in settled.summaries(run):
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
        stage.expected = run.plan.sources if stage.stage == "ingest" else max(known, 1)
    elapsed = _seconds_between(first, last)
    through = list(work.values())[-1].finished
    return Overview(
        status=RunStatus(
            run=run.plan.run,
            dataset=run.plan.dataset,
            sources=run.plan.sources,
            scenes=known,
            stages=list(work.values()),
            failures=failures,
            eta_seconds=_eta(list(work.values()), elapsed),
            updated=last or None,
        ),
        scenes_per_hour=round(3600 * through / elapsed, 1) if elapsed else None,
        costs=costs(pool_seconds, prices),
    )


def costs(pool_seconds: Mapping[str, float], prices: Mapping[str, float]) -> list[PoolCost]:
    """Hours and money by pool, in the order of their names."""
    return [
        PoolCost(
            pool=pool,
            hours=round(seconds / 3600, 4),
            usd=round(seconds / 3600 * prices[pool], 2) if pool in prices else None,
        )
        for pool, seconds in sorted(pool_seconds.items())
    ]


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
