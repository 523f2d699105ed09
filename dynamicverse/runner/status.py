"""What a run has done so far, from its ledger alone."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dynamicverse.runner import ledger
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
    """Progress of a run. scenes: known so far, more may come out of sources not yet ingested."""

    run: str
    dataset: str
    sources: int
    scenes: int
    stages: list[StageStatus]
    failures: Counter[str]
    eta_seconds: float | None
    updated: str | None

    @property
    def complete(self) -> bool:
        return all(s.finished >= s.expected for s in self.stages)

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
    """Read the ledger; the last event of a scene at a stage counts."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    work: dict[str, StageStatus] = {name: StageStatus(name) for name in run.plan.stages}
    times: list[str] = []
    for record in ledger.read(run.store, run.folder):
        stage = work.get(record["stage"])
        if stage is None or "name" not in record or "outcome" not in record:
            continue
        last[record["stage"], record["name"]] = record
        times.append(record.get("time", ""))
        if record["outcome"] == Outcome.DONE:
            stage.frames += record.get("frames", 0)
            stage.seconds += record.get("seconds", 0.0)
            stage.durations.append(record.get("seconds", 0.0))
    failures: Counter[str] = Counter()
    scenes: dict[str, int] = defaultdict(int)
    for (stage_name, _), record in last.items():
        work[stage_name].outcomes[record["outcome"]] += 1
        if record["outcome"] == Outcome.QUARANTINED:
            failures[record.get("reason", "unknown")] += 1
        scenes[stage_name] += 1
    known = max((n for s, n in scenes.items() if s != "ingest"), default=0)
    for stage in work.values():
        stage.expected = run.plan.sources if stage.stage == "ingest" else max(known, 1)
    return RunStatus(
        run=run.plan.run,
        dataset=run.plan.dataset,
        sources=run.plan.sources,
        scenes=known,
        stages=list(work.values()),
        failures=failures,
        eta_seconds=_eta(run, list(work.values()), times),
        updated=max(times, default=None),
    )


def _eta(run: Run, stages: list[StageStatus], times: list[str]) -> float | None:
    """Seconds left at the pace so far, in units of (source, stage); None before any work."""
    finished = sum(min(s.finished, s.expected) / s.expected for s in stages if s.expected)
    if not times or not finished:
        return None
    spent = datetime.fromisoformat(max(times)) - datetime.fromisoformat(min(times))
    left = len(run.plan.stages) - finished
    return round(spent.total_seconds() * left / finished, 1)
