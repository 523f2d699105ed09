"""How the stages of a run have ended, shard by shard: `<run>/settled/<stage>/<shard>.json`.

Whoever executes a stage for a shard writes its record when every scene has ended: one writer
a file, as with the ledger. The status of a run and the next plan read these records in place
of ledgers and manifests, which remain the truth: a lost record costs work that finds
everything done.

100,000 scenes have 14,000 records, too many to read one by one from an object store. So every
`MERGE_EVERY`th writer also puts what its stage has so far into one file,
`<run>/settled/<stage>/merged-<shard>.json`, beside the version (ETag; inode, size and time on
a disk) of each record that it read. A reader lists the folder, takes from merged files what
still has the listed version, and reads the rest. A merged file is a cache and no more:

- it has one writer, the writer of its shard, so no two replace each other's;
- it is removed only by a writer that has put its content into a newer one; of two that merge
  at once both files stay, and the next merges them;
- records are never removed: a merge that is killed, or a merged file that is torn or vanishes
  under a reader, costs reads;
- a record that a listing does not show yet counts as not there, and `pending` trusts no record
  without comparing versions and fingerprints: what is out of date costs pods, and loses
  nothing.

Readers write nothing, so that `status` needs no right to write.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dynamicverse import stages
from dynamicverse.runner import ledger, tally
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import dump_json
from dynamicverse.runner.tally import Tally

MERGE_EVERY = 32
MERGED = "merged-"
LOOKS = 3  # at a folder in which merged files vanish


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settled(_Model):
    """How one stage ended for one shard.

    version: the stage's version. fingerprints (ingest only): digest of the names of its sources
    and of the cheap identities that they had when they were ingested.
    """

    version: int
    fingerprints: str = ""
    tally: Tally


class _Entry(_Model):
    """A record inside a merged file. stored: the version of the record's file."""

    shard: int
    stored: str
    settled: Settled


class _Merged(_Model):
    entries: list[_Entry]


@dataclass(frozen=True)
class _Stage:
    """All records of a stage by shard, and the merged files beside them."""

    entries: dict[int, _Entry]
    merged: list[str]


def record(run: Run, stage: str, shard: int) -> None:
    """Write how a stage has ended for a shard, from its ledger."""
    events = tally.events(run, stage, shard)
    value = Settled(
        version=stage_version(stage),
        fingerprints=digest(_fingerprints(events)) if stage == "ingest" else "",
        tally=tally.of_events(events),
    )
    run.store.write(path(run, stage, shard), dump_json(value.model_dump(mode="json")))
    if shard % MERGE_EVERY == MERGE_EVERY - 1:
        _merge(run, stage, shard)


def _fingerprints(events: list[dict[str, Any]]) -> dict[str, str]:
    """By source; empty for one that could not be read, and as its last event says."""
    return {event["name"]: event.get("fingerprint", "") for event in events}


def of_stage(run: Run, stage: str) -> dict[int, Settled]:
    """Shard → record, for every shard of the plan that the stage has ended for."""
    entries = _read(run, stage).entries
    return {k: entries[k].settled for k in sorted(entries) if k < run.plan.shards}


@dataclass(frozen=True)
class Tallies:
    """The tallies of one stage, of every shard that has begun; ended: all shards have ended."""

    stage: str
    ended: bool
    shards: list[Tally]


def tallies(run: Run) -> list[Tallies]:
    """What every stage of the run has done so far."""
    return run.store.concurrently(lambda stage: _tallies_of(run, stage), run.plan.stages)


def _tallies_of(run: Run, stage: str) -> Tallies:
    ended = of_stage(run, stage)
    found = [settled.tally for settled in ended.values()]
    if len(ended) < run.plan.shards:
        begun = run.store.sizes(f"{run.folder}/ledger/{stage}")
        at_work = [
            shard
            for shard in range(run.plan.shards)
            if shard not in ended and ledger.path(run.folder, stage, shard) in begun
        ]
        found += run.store.concurrently(
            lambda shard: tally.of_events(tally.events(run, stage, shard)), at_work
        )
    return Tallies(stage, len(ended) == run.plan.shards, found)


def digest(fingerprints: dict[str, str]) -> str:
    """One digest of fingerprints by name."""
    lines = (f"{name}\0{value}\n" for name, value in sorted(fingerprints.items()))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def stage_version(stage: str) -> int:
    """The present version of a stage."""
    if stage == "ingest":
        from dynamicverse.stages import ingest

        return ingest.VERSION
    return stages.get(stage).version


def path(run: Run, stage: str, shard: int) -> str:
    """Where the record of a stage and shard lies, relative to the root."""
    return f"{_folder(run, stage)}/{shard:05d}.json"


def _folder(run: Run, stage: str) -> str:
    return f"{run.folder}/settled/{stage}"


def _merge(run: Run, stage: str, shard: int) -> None:
    """Put all records of a stage into the merged file of a shard, and remove older ones."""
    found = _read(run, stage)
    target = f"{_folder(run, stage)}/{MERGED}{shard:05d}.json"
    entries = [found.entries[k] for k in sorted(found.entries)]
    run.store.write(target, _Merged(entries=entries).model_dump_json().encode())
    run.store.delete(file for file in found.merged if file != target)


def _read(run: Run, stage: str) -> _Stage:
    """All records of a stage as its folder is now."""
    for _ in range(LOOKS):
        versions = run.store.versions(_folder(run, stage))
        files = {file: PurePosixPath(file) for file in versions if file.endswith(".json")}
        merged = sorted(f for f, name in files.items() if name.name.startswith(MERGED))
        singles = {int(name.stem): f for f, name in files.items() if name.stem.isdigit()}
        contents = run.store.concurrently(run.store.read, merged)
        if None not in contents:
            break  # else a merged file has just given way to a newer one
    known = {
        entry.shard: entry
        for data in contents
        for entry in _parse_merged(data)
        if entry.shard in singles and versions[singles[entry.shard]] == entry.stored
    }
    rest = [shard for shard in sorted(singles) if shard not in known]
    for shard, settled in zip(
        rest, run.store.concurrently(lambda k: _parse(run, singles[k]), rest), strict=True
    ):
        if settled is not None:
            known[shard] = _Entry(shard=shard, stored=versions[singles[shard]], settled=settled)
    return _Stage(known, merged)


def _parse(run: Run, file: str) -> Settled | None:
    data = run.store.read(file)
    try:
        return None if data is None else Settled.model_validate_json(data)
    except ValidationError:
        return None  # torn, or of another version of the package: the work is looked at again


def _parse_merged(data: bytes | None) -> list[_Entry]:
    try:
        return [] if data is None else _Merged.model_validate_json(data).entries
    except ValidationError:
        return []  # as above: the records themselves are read
