"""GPU-hours and money of a run, from its ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

CPU = "cpu"


@dataclass(frozen=True)
class PoolCost:
    """What the pods of one pool (a type of GPU, or `cpu`) worked.

    usd is None when the price table has no entry for the pool.
    """

    pool: str
    hours: float
    usd: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def costs(records: Iterable[Mapping[str, Any]], prices: Mapping[str, float]) -> list[PoolCost]:
    """Compute and model-load time summed a pool, at `prices` in $ per hour of one pod.

    Time that a pod waits, pulls its image or stages files in is not in the ledger, so this is
    a lower bound of what the provider bills.
    """
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        pool = str(record.get("pool") or CPU)
        seconds[pool] += float(record.get("seconds", 0.0)) + float(record.get("load_seconds", 0.0))
    return [
        PoolCost(
            pool=pool,
            hours=round(total / 3600, 4),
            usd=round(total / 3600 * prices[pool], 2) if pool in prices else None,
        )
        for pool, total in sorted(seconds.items())
        if total
    ]
