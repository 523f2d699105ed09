"""Which shards of a run have work left: from settled records and listings, without a manifest."""

from __future__ import annotations

from dynamicverse.curation import sources
from dynamicverse.runner import quarantine, settled
from dynamicverse.runner.plan import Run
from dynamicverse.runner.settled import Settled


def pending(run: Run) -> list[int]:
    """The shards in which something may be left to do, in order.

    A shard is left out when all its stages have ended at their present versions, its sources
    have not changed since, and what failed is still in quarantine.
    """
    ended = _ended(run)
    if ended:
        stuck = quarantine.names(run.store, run.plan.dataset)
        ended = {k: records for k, records in ended.items() if _only_stuck(records, stuck)}
    finished = _unchanged(run, ended) if "ingest" in run.plan.stages else set(ended)
    return [shard for shard in range(run.plan.shards) if shard not in finished]


def _ended(run: Run) -> dict[int, dict[str, Settled]]:
    """Shard → stage → record, of the shards for which every stage has ended."""
    names = run.plan.stages
    found = run.store.concurrently(lambda stage: settled.of_stage(run, stage), names)
    current = []
    for stage, records in zip(names, found, strict=True):
        version = settled.stage_version(stage)
        current.append({k: one for k, one in records.items() if one.version == version})
    return {
        shard: {stage: records[shard] for stage, records in zip(names, current, strict=True)}
        for shard in range(run.plan.shards)
        if all(shard in records for records in current)
    }


def _only_stuck(records: dict[str, Settled], stuck: set[tuple[str, str]]) -> bool:
    """True if nothing of a shard waits but for what is in quarantine."""
    failed: set[str] = set()  # at an earlier stage: what is blocked waits for them
    for stage, one in records.items():
        if any((stage, name) not in stuck for name in one.tally.quarantined):
            return False  # released: to be tried again
        failed.update(one.tally.quarantined)
        if set(one.tally.blocked) - failed:
            return False
    return True


def _unchanged(run: Run, ended: dict[int, dict[str, Settled]]) -> set[int]:
    """Those of the shards whose sources are as they were when they were ingested.

    A source that cannot be read has no fingerprint, then as now.
    """
    shards = run.store.concurrently(run.shard, ended)
    now = sources.fingerprints(s.resolve() for shard in shards for s in shard.sources)
    return {
        shard.shard
        for shard in shards
        if ended[shard.shard]["ingest"].fingerprints
        == settled.digest({s.name: now.get(s.source, "") for s in shard.sources})
    }
