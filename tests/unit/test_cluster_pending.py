"""Which shards of a run are finished: read from small files, never taken for granted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamicverse import config, stages
from dynamicverse.cluster import pod
from dynamicverse.cluster.pending import pending
from dynamicverse.curation import sources
from dynamicverse.curation.sources import Source
from dynamicverse.errors import Reason
from dynamicverse.runner import plan, quarantine, settled
from dynamicverse.runner.events import Event
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import Store

NAMES = ("a", "b", "c")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A planned run of three sources, one a shard."""
    found = []
    for name in NAMES:
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(b"video")
        found.append((Source(str(path), name, "video"), 10))
    store = Store(str(tmp_path / "out"))
    return plan.create(store, "clips", config.load(), found, shard_scenes=1)


def write(run: Run, stage: str, shard: int, name: str, outcome: Outcome) -> None:
    """An event in the ledger, as the worker writes it."""
    facts = {}
    if stage == "ingest" and (source := run.shard(shard).sources[0].resolve()):
        facts = {"fingerprint": sources.fingerprints([source]).get(source.url, "")}
    with Ledger(run.store, run.folder, stage, shard) as ledger:
        ledger.add(name=name, outcome=outcome, seconds=1.0, frames=10, **facts)


def finish(run: Run, shard: int, **outcomes: Outcome) -> None:
    """All stages of a shard end `done`, or as given for a stage."""
    for stage in run.plan.stages:
        outcome = outcomes.get(stage, Outcome.DONE)
        write(run, stage, shard, NAMES[shard], outcome)
        settled.record(run, stage, shard)


def put_in_quarantine(run: Run, stage: str, name: str) -> None:
    record = quarantine.Record(
        dataset="clips", name=name, source="", stage=stage, reason=Reason.NOT_VIDEO, message="",
        traceback="", attempt=1, key="k", run=run.plan.run, shard=0, time=quarantine.now(),
    )  # fmt: skip
    quarantine.put(run.store, record)


def test_everything_is_left_at_first(run: Run) -> None:
    assert pending(run) == [0, 1, 2]


def test_finished_shards_are_left_out(run: Run) -> None:
    finish(run, 1)
    assert pending(run) == [0, 2]


def test_outputs_of_another_configuration_are_not_taken_for_this_runs(run: Run) -> None:
    for shard in range(3):
        finish(run, shard)
    assert pending(run) == []

    def planned(*settings: str) -> Run:
        resolved = [(run.shard(k).sources[0].resolve(), 10) for k in range(3)]
        found = [(source, frames) for source, frames in resolved if source]
        return plan.create(
            run.store, "clips", config.load(overrides=settings), found, shard_scenes=1
        )

    assert pending(planned()) == []
    other = planned("keyframes.ratio=0.6")
    assert other.plan.run != run.plan.run
    again = planned()
    assert again.plan.run == run.plan.run
    assert pending(again) == [0, 1, 2]


def test_one_missing_stage_keeps_the_shard(run: Run) -> None:
    for stage in run.plan.stages[:-1]:
        write(run, stage, 0, "a", Outcome.DONE)
        settled.record(run, stage, 0)
    assert 0 in pending(run)


def test_a_new_version_of_a_stage_opens_all_shards(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        finish(run, shard)
    assert pending(run) == []
    old = settled.stage_version
    monkeypatch.setattr(settled, "stage_version", lambda s: old(s) + (s == "tracks"))
    assert pending(run) == [0, 1, 2]


def test_a_changed_source_opens_its_shard(run: Run) -> None:
    for shard in range(3):
        finish(run, shard)
    path = Path(run.shard(1).sources[0].source)
    path.write_bytes(b"another video")
    os.utime(path, (1, 1))
    assert pending(run) == [1]


def test_a_source_that_changes_after_its_ingest_opens_its_shard(run: Run) -> None:
    """The record holds what was ingested, not what lay there when the stage ended."""
    write(run, "ingest", 0, "a", Outcome.DONE)
    Path(run.shard(0).sources[0].source).write_bytes(b"another video")
    settled.record(run, "ingest", 0)
    for stage in run.plan.stages[1:]:
        write(run, stage, 0, "a", Outcome.DONE)
        settled.record(run, stage, 0)
    assert 0 in pending(run)


def test_a_vanished_source_opens_its_shard(run: Run) -> None:
    for shard in range(3):
        finish(run, shard)
    Path(run.shard(2).sources[0].source).unlink()
    assert pending(run) == [2]


def test_quarantine_settles_a_shard_until_it_is_released(run: Run) -> None:
    later = dict.fromkeys(stages.NAMES[1:], Outcome.BLOCKED)
    finish(run, 0, ingest=Outcome.QUARANTINED, **later)
    put_in_quarantine(run, "ingest", "a")
    assert 0 not in pending(run)
    quarantine.clear(run.store, "clips", "ingest", "a")
    assert 0 in pending(run)


def test_a_source_that_cannot_be_read_stays_settled_until_it_can(run: Run) -> None:
    path = Path(run.shard(0).sources[0].source)
    path.unlink()
    later = dict.fromkeys(stages.NAMES[1:], Outcome.BLOCKED)
    finish(run, 0, ingest=Outcome.QUARANTINED, **later)
    put_in_quarantine(run, "ingest", "a")
    assert 0 not in pending(run)
    path.write_bytes(b"video")
    assert 0 in pending(run)


def test_a_scene_blocked_without_cause_is_not_settled(run: Run) -> None:
    finish(run, 0, captions=Outcome.BLOCKED)
    assert 0 in pending(run)


def test_a_torn_file_is_not_settled(run: Run) -> None:
    finish(run, 0)
    run.store.write(settled.path(run, "tracks", 0), b'{"stage": "tra')
    assert 0 in pending(run)


def test_a_run_without_ingest_asks_for_no_source(tmp_path: Path) -> None:
    source = Source("s3://bucket/that/nobody/may/ask/a.mp4", "a", "video")
    store = Store(str(tmp_path))
    run = plan.create(store, "clips", config.load(), [(source, 9)], stage_names=["report"])
    assert pending(run) == [0]
    write(run, "report", 0, "a", Outcome.DONE)
    settled.record(run, "report", 0)
    assert pending(run) == []


def test_a_pod_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress"
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(file))
    seen: list[Event] = []
    observe = pod.reporting(seen.append, 1)
    observe(Event("start", "tracks", "a"))
    observe(Event("finish", "tracks", "a", outcome=Outcome.DONE))
    assert file.read_text() == "1/1\n"
    observe(Event("finish", "tracks", "a-001", outcome=Outcome.DONE))
    assert file.read_text() == "2/2\n"
    assert len(seen) == 3
