"""Try quarantined scenes again: a run of their sources alone, as they were configured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from dynamicverse.errors import ConfigError
from dynamicverse.runner import plan, quarantine
from dynamicverse.runner.plan import PlannedSource, Run
from dynamicverse.runner.quarantine import Record
from dynamicverse.runner.store import Store


@dataclass(frozen=True)
class Replay:
    """A planned run that tries `records` again, which are still in quarantine."""

    run: Run
    records: list[Record]

    def release(self) -> None:
        """Take them out: the run would pass over them otherwise."""
        for record in self.records:
            quarantine.clear(self.run.store, record.dataset, record.stage, record.name)

    def withdraw(self) -> None:
        """Put them back: the run cannot be carried out."""
        for record in self.records:
            quarantine.put(self.run.store, record)


def replays(store: Store, dataset: str | None, names: Collection[str] | None) -> list[Replay]:
    """Plan one run for each run that scenes in quarantine failed in.

    Raises ConfigError for a name that is not in quarantine, or a run that is no longer there.
    """
    found = list(quarantine.records(store, dataset))
    unknown = set(names or ()) - {r.name for r in found}
    if unknown:
        raise ConfigError(f"not in quarantine: {', '.join(sorted(unknown))}")
    by_run: dict[str, list[Record]] = defaultdict(list)
    for record in found:
        if not names or record.name in names:
            by_run[record.run].append(record)
    return [_plan(store, run, records) for run, records in by_run.items()]


def _plan(store: Store, run_name: str, records: list[Record]) -> Replay:
    failed = plan.open_named(store, run_name)
    sources = [_source_of(failed, record) for record in records]
    unique = {s.name: (s.resolve(), s.frames) for s in sources}
    run = plan.create(
        store,
        failed.plan.dataset,
        failed.config,
        list(unique.values()),
        stage_names=failed.plan.stages,
        shard_scenes=1,
    )
    return Replay(run, records)


def _source_of(run: Run, record: Record) -> PlannedSource:
    """The planned source that a quarantined scene came from."""
    for source in run.shard(record.shard).sources:
        if source.source == record.source:
            return source
    raise ConfigError(f"{record.name}: run {run.plan.run} no longer has its source")
