"""Which shards of a run are finished: read from small files, never taken for granted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamicverse import config, stages
from dynamicverse.cluster import pod, settled
from dynamicverse.curation.sources import Source
from dynamicverse.errors import Reason
from dynamicverse.runner import plan, quarantine
from dynamicverse.runner.events import Event
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import Store

NAMES = ("a", "b", "c")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A planned run of three sources, one a shard."""
    sources = []
    for name in NAMES:
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(b"video")
        sources.append((Source(str(path), name, "video"), 10))
    store = Store(str(tmp_path / "out"))
    return plan.create(store, "clips", config.load(), sources, shard_scenes=1)


def write(run: Run, stage: str, shard: int, name: str, outcome: Outcome) -> None:
    """An event in the ledger, as the worker writes it."""
    with Ledger(run.store, run.folder, stage, shard) as ledger:
        ledger.add(name=name, outcome=outcome, seconds=1.0, frames=10)


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


def test_nothing_is_settled_at_first(run: Run) -> None:
    assert settled.pending(run) == [0, 1, 2]


def test_finished_shards_are_left_out(run: Run) -> None:
    finish(run, 1)
    assert settled.pending(run) == [0, 2]


def test_one_missing_stage_keeps_the_shard(run: Run) -> None:
    for stage in run.plan.stages[:-1]:
        write(run, stage, 0, "a", Outcome.DONE)
        settled.record(run, stage, 0)
    assert 0 in settled.pending(run)


def test_a_new_version_of_a_stage_opens_all_shards(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        finish(run, shard)
    assert settled.pending(run) == []
    old = settled._version
    monkeypatch.setattr(settled, "_version", lambda s: old(s) + (s == "tracks"))
    assert settled.pending(run) == [0, 1, 2]


def test_a_changed_source_opens_its_shard(run: Run) -> None:
    for shard in range(3):
        finish(run, shard)
    path = Path(run.shard(1).sources[0].source)
    path.write_bytes(b"another video")
    os.utime(path, (1, 1))
    assert settled.pending(run) == [1]


def test_a_vanished_source_opens_its_shard(run: Run) -> None:
    for shard in range(3):
        finish(run, shard)
    Path(run.shard(2).sources[0].source).unlink()
    assert settled.pending(run) == [2]


def test_quarantine_settles_a_shard_until_it_is_released(run: Run) -> None:
    later = dict.fromkeys(stages.NAMES[1:], Outcome.BLOCKED)
    finish(run, 0, ingest=Outcome.QUARANTINED, **later)
    put_in_quarantine(run, "ingest", "a")
    assert 0 not in settled.pending(run)
    quarantine.clear(run.store, "clips", "ingest", "a")
    assert 0 in settled.pending(run)


def test_a_scene_blocked_without_cause_is_not_settled(run: Run) -> None:
    finish(run, 0, captions=Outcome.BLOCKED)
    assert 0 in settled.pending(run)


def test_a_torn_file_is_not_settled(run: Run) -> None:
    finish(run, 0)
    run.store.write(f"{run.folder}/settled/tracks/00000.json", b'{"stage": "tra')
    assert 0 in settled.pending(run)


def test_a_pod_reports_progress_and_settles_its_shard(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress"
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(file))
    seen: list[Event] = []
    for stage in run.plan.stages:
        with pod.watch_shard(run, stage, 0, seen.append) as observe:
            observe(Event("start", stage, "a"))
            observe(Event("finish", stage, "a", outcome=Outcome.DONE))
            observe(Event("finish", stage, "a-001", outcome=Outcome.DONE))
    assert file.read_text() == "2/2\n"
    assert len(seen) == 3 * len(run.plan.stages)
    assert settled.pending(run) == [1, 2]


def test_a_pod_that_fails_settles_nothing(run: Run) -> None:
    def killed() -> None:
        with pod.watch_shard(run, "ingest", 0, lambda event: None) as observe:
            observe(Event("finish", "ingest", "a", outcome=Outcome.DONE))
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert not (run.store.local / run.folder / "settled").exists()  # type: ignore[operator]
