"""How one stage of one shard went, from the lines of its ledger: small, and easily added up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from dynamicverse.runner import ledger
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.plan import Run

CPU = "cpu"


class Tally(BaseModel):
    """Outcomes count each scene (for ingest: source) once, as its last event says; frames,
    durations (s a scene) and pool_seconds (compute and model load, by GPU pool) add up all work.

    first, last: ISO times of the earliest and the latest event; empty before any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcomes: dict[str, int] = {}
    reasons: dict[str, int] = {}
    quarantined: list[str] = []
    blocked: list[str] = []
    frames: int = 0
    durations: list[float] = []
    pool_seconds: dict[str, float] = {}
    first: str = ""
    last: str = ""


def events(run: Run, stage: str, shard: int) -> list[dict[str, Any]]:
    """What the ledger of one stage and shard says so far; a torn last line is passed over."""
    found = []
    for line in (run.store.read(ledger.path(run.folder, stage, shard)) or b"").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "name" in record and "outcome" in record:
            found.append(record)
    return found


def of_events(records: Iterable[Mapping[str, Any]]) -> Tally:
    """Add up the events of one stage and shard, in the order in which they were written."""
    ends: dict[str, Mapping[str, Any]] = {}
    frames = 0
    durations: list[float] = []
    pool_seconds: Counter[str] = Counter()
    times: list[str] = []
    for record in records:
        ends[record["name"]] = record
        times.append(record.get("time", ""))
        seconds = float(record.get("seconds", 0.0))
        # a pod's time is shared by the scenes that it had in flight together
        spent = float(record.get("pod_seconds", seconds)) + float(record.get("load_seconds", 0.0))
        if spent:
            pool_seconds[record.get("pool", CPU)] += spent  # type: ignore[assignment]
        if record["outcome"] == Outcome.DONE:
            frames += int(record.get("frames", 0))
            durations.append(seconds)
    stuck = {name: end for name, end in ends.items() if end["outcome"] == Outcome.QUARANTINED}
    return Tally(
        outcomes=dict(Counter(str(end["outcome"]) for end in ends.values())),
        reasons=dict(Counter(str(end.get("reason", "unknown")) for end in stuck.values())),
        quarantined=sorted(stuck),
        blocked=sorted(n for n, end in ends.items() if end["outcome"] == Outcome.BLOCKED),
        frames=frames,
        durations=durations,
        pool_seconds={pool: round(total, 3) for pool, total in sorted(pool_seconds.items())},
        first=min(times, default=""),
        last=max(times, default=""),
    )
