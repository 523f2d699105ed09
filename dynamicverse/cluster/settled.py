"""What is finished of a run, a small file a stage and shard: `<run>/settled/<stage>/<shard>.json`.

A pod writes it when its stage has ended for every scene of its shard. A later plan of the
same run reads these few files instead of every manifest, and gives settled shards no pods.
The manifests remain the truth: a lost file costs pods that find everything done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, ValidationError

from dynamicverse import stages
from dynamicverse.curation import sources
from dynamicverse.errors import DynamicVerseError
from dynamicverse.runner import quarantine
from dynamicverse.runner.events import Event
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import dump_json

READERS = 32  # requests under way at once


class Settled(BaseModel):
    """How one stage ended for one shard.

    version: the stage's version. fingerprints (ingest only): cheap identities of the sources.
    quarantined, blocked: scenes (for ingest: sources) that did not get through.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    version: int
    outcomes: dict[str, int]
    quarantined: list[str]
    blocked: list[str]
    fingerprints: dict[str, str] = {}


def record(run: Run, stage: str, shard: int, ends: Iterable[Event]) -> None:
    """Write how a stage ended for a shard; `ends` are its finish events."""
    last = {event.name: event.outcome for event in ends if event.outcome is not None}
    planned = run.shard(shard).sources if stage == "ingest" else []
    value = Settled(
        stage=stage,
        version=_version(stage),
        outcomes=dict(sorted(Counter(o.value for o in last.values()).items())),
        quarantined=sorted(n for n, o in last.items() if o is Outcome.QUARANTINED),
        blocked=sorted(n for n, o in last.items() if o is Outcome.BLOCKED),
        fingerprints={s.name: sources.fingerprint(s.resolve()) for s in planned},
    )
    run.store.write(_path(run, stage, shard), dump_json(value.model_dump(mode="json")))


def pending(run: Run) -> list[int]:
    """The shards in which something may be left to do, in order."""
    versions = {stage: _version(stage) for stage in run.plan.stages}
    shards = range(run.plan.shards)
    with ThreadPoolExecutor(READERS) as readers:
        done = readers.map(lambda shard: _is_settled(run, shard, versions), shards)
        return [shard for shard, settled in zip(shards, done, strict=True) if not settled]


def _is_settled(run: Run, shard: int, versions: dict[str, int]) -> bool:
    stuck: set[str] = set()  # in quarantine at an earlier stage: what is blocked waits for them
    origins: set[str] = set()
    for stage, version in versions.items():
        found = _read(run, stage, shard)
        if found is None or found.version != version:
            return False
        for name in found.quarantined:
            if quarantine.get(run.store, run.plan.dataset, stage, name) is None:
                return False  # released: to be tried again
        stuck |= set(found.quarantined)
        if stage == "ingest":
            origins = set(found.fingerprints)
            if not _same_sources(run, shard, found.fingerprints):
                return False
        if set(found.blocked) - stuck - (origins & stuck):
            return False
    return True


def _same_sources(run: Run, shard: int, fingerprints: dict[str, str]) -> bool:
    """True if no source has changed since it was ingested."""
    try:
        return all(
            fingerprints.get(planned.name) == sources.fingerprint(planned.resolve())
            for planned in run.shard(shard).sources
            if planned.name in fingerprints
        )
    except (DynamicVerseError, OSError):
        return False  # vanished or unreadable: the ingest pod says so properly


def _read(run: Run, stage: str, shard: int) -> Settled | None:
    data = run.store.read(_path(run, stage, shard))
    if data is None:
        return None
    try:
        return Settled.model_validate_json(data)
    except ValidationError:
        return None  # torn: the pods run again


def _path(run: Run, stage: str, shard: int) -> str:
    return f"{run.folder}/settled/{stage}/{shard:05d}.json"


def _version(stage: str) -> int:
    if stage == "ingest":
        from dynamicverse.stages import ingest

        return ingest.VERSION
    return stages.get(stage).version
