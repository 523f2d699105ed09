"""What is finished of a run, a small file a stage and shard: `<run>/settled/<stage>/<shard>.json`.

A pod writes it when its stage has ended for every scene of its shard. A later plan of the
same run reads these few files instead of every manifest, and gives settled shards no pods;
the status of a large run adds them up instead of reading every line of the ledger. The
manifests remain the truth: a lost file costs pods that find everything done.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, ValidationError

from dynamicverse import stages
from dynamicverse.cluster.summary import Summary, of_ledger
from dynamicverse.curation import sources
from dynamicverse.errors import DynamicVerseError
from dynamicverse.runner import ledger, quarantine
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import dump_json

READERS = 32  # requests under way at once


class Settled(BaseModel):
    """How one stage ended for one shard.

    version: the stage's version. fingerprints (ingest only): cheap identities of the sources.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    summary: Summary
    fingerprints: dict[str, str] = {}


def record(run: Run, stage: str, shard: int) -> None:
    """Write how a stage has ended for a shard, from its ledger."""
    planned = run.shard(shard).sources if stage == "ingest" else []
    value = Settled(
        version=_version(stage),
        summary=of_ledger(run, stage, shard),
        fingerprints={s.name: sources.fingerprint(s.resolve()) for s in planned},
    )
    run.store.write(path(run, stage, shard), dump_json(value.model_dump(mode="json")))


def pending(run: Run) -> list[int]:
    """The shards in which something may be left to do, in order."""
    versions = {stage: _version(stage) for stage in run.plan.stages}
    shards = range(run.plan.shards)
    with ThreadPoolExecutor(READERS) as readers:
        done = readers.map(lambda shard: _is_settled(run, shard, versions), shards)
        return [shard for shard, settled in zip(shards, done, strict=True) if not settled]


def summaries(run: Run) -> Iterator[tuple[str, Summary]]:
    """(stage, summary) of every stage and shard that has begun."""
    settled = run.store.sizes(f"{run.folder}/settled")
    begun = run.store.sizes(f"{run.folder}/ledger")
    work = [(stage, shard) for stage in run.plan.stages for shard in range(run.plan.shards)]

    def read(item: tuple[str, int]) -> Summary | None:
        stage, shard = item
        if path(run, stage, shard) in settled and (found := _read(run, stage, shard)):
            return found.summary
        if ledger.path(run.folder, stage, shard) in begun:
            return of_ledger(run, stage, shard)
        return None

    with ThreadPoolExecutor(1 if run.store.local is not None else READERS) as readers:
        for (stage, _), summary in zip(work, readers.map(read, work), strict=True):
            if summary is not None:
                yield stage, summary


def path(run: Run, stage: str, shard: int) -> str:
    """Where the file of a stage and shard lies, relative to the root."""
    return f"{run.folder}/settled/{stage}/{shard:05d}.json"


def _is_settled(run: Run, shard: int, versions: dict[str, int]) -> bool:
    stuck: set[str] = set()  # in quarantine at an earlier stage: what is blocked waits for them
    for stage, version in versions.items():
        found = _read(run, stage, shard)
        if found is None or found.version != version:
            return False
        for name in found.summary.quarantined:
            if quarantine.get(run.store, run.plan.dataset, stage, name) is None:
                return False  # released: to be tried again
        stuck.update(found.summary.quarantined)
        if stage == "ingest" and not _same_sources(run, shard, found.fingerprints):
            return False
        if set(found.summary.blocked) - stuck:
            return False
    return True


def _same_sources(run: Run, shard: int, fingerprints: dict[str, str]) -> bool:
    """True if no source has changed since it was ingested."""
    try:
        return all(
            fingerprints.get(planned.name) == sources.fingerprint(planned.resolve())
            for planned in run.shard(shard).sources
        )
    except (DynamicVerseError, OSError):
        return False  # vanished or unreadable: the ingest pod says so properly


def _read(run: Run, stage: str, shard: int) -> Settled | None:
    data = run.store.read(path(run, stage, shard))
    if data is None:
        return None
    try:
        return Settled.model_validate_json(data)
    except ValidationError:
        return None  # torn: the pods run again


def _version(stage: str) -> int:
    if stage == "ingest":
        from dynamicverse.stages import ingest

        return ingest.VERSION
    return stages.get(stage).version
