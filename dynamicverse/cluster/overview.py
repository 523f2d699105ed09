"""How far a run is, how fast it goes and what it has cost, at any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dynamicverse.runner import status
from dynamicverse.runner.plan import Run
from dynamicverse.runner.status import RunStatus


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
    """The status of a run, its pace and its cost.

    prices: $ per hour of one pod, by pool.
    """
    found = status.of_run(run)
    elapsed, through = found.elapsed_seconds, found.stages[-1].finished
    return Overview(
        status=found,
        scenes_per_hour=round(3600 * through / elapsed, 1) if elapsed else None,
        costs=costs(found.pool_seconds, prices),
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
