"""Try quarantined scenes again: a run of their sources alone, as they were configured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from dynamicverse.errors import ConfigError
from dynamicverse.runner import plan, quarantine
from dynamicverse.runner.plan import PlannedSource, Run
from dynamicverse.runner.quarantine import Record
from dynamicverse.runner.store import Store


def replay_runs(
    store: Store, dataset: str | None, names: Collection[str] | None
) -> Iterator[tuple[Run, list[str]]]:
    """Take scenes out of quarantine and plan one run for each run that they failed in.

    Yields the new run and the names that it tries again. Raises ConfigError for a name that
    is not in quarantine.
    """
    found = list(quarantine.records(store, dataset))
    unknown = set(names or ()) - {r.name for r in found}
    if unknown:
        raise ConfigError(f"not in quarantine: {', '.join(sorted(unknown))}")
    by_run: dict[str, list[Record]] = defaultdict(list)
    for record in found:
        if not names or record.name in names:
            by_run[record.run].append(record)
    for run_name, records in by_run.items():
        failed = plan.open_named(store, run_name)
        sources = [_source_of(failed, record) for record in records]
        unique = {s.name: (s.resolve(), s.frames) for s in sources}
        for record in records:
            quarantine.clear(store, record.dataset, record.stage, record.name)
        run = plan.create(
            store,
            failed.plan.dataset,
            failed.config,
            list(unique.values()),
            stage_names=failed.plan.stages,
            shard_scenes=1,
        )
        yield run, [r.name for r in records]


def _source_of(run: Run, record: Record) -> PlannedSource:
    """The planned source that a quarantined scene came from."""
    for source in run.shard(record.shard).sources:
        if source.source == record.source:
            return source
    raise ConfigError(f"{record.name}: run {run.plan.run} no longer has its source")
