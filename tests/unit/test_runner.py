"""Keys, resume, quarantine and remote roots, with stages made for the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dynamicverse import config, stages
from dynamicverse.curation.sources import Source
from dynamicverse.errors import ConfigError, DynamicVerseError, InputError, Reason
from dynamicverse.formats import captions, objects, scene_info
from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.manifest import OutputFile
from dynamicverse.runner import ledger, plan, quarantine, records, settled, status
from dynamicverse.runner.events import silent
from dynamicverse.runner.execute import (
    Cost,
    Identity,
    SceneReporter,
    ShardWorker,
    TransientError,
)
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.publish import publish_index
from dynamicverse.runner.replay import replays
from dynamicverse.runner.starts import Starts
from dynamicverse.runner.store import ABANDONED_SECONDS, Store, Workspace
from dynamicverse.scene import Scene
from dynamicverse.stages.base import Stage, StageContext

NAMES = ("a", "b", "c")


def write_analysis(scene: Scene, note: str) -> None:
    value = objects.DynamicObjects(
        dynamic=[], static_scene=True, camera_motion="static", notes=[note]
    )
    objects.write(scene.dynamic_objects, value)


@dataclass
class Bench:
    """A planned run of three ingested scenes and two small stages that count their calls."""

    root: str
    scratch: Path
    calls: list[str] = field(default_factory=list)
    note: str = "first"
    fail: dict[str, BaseException] = field(default_factory=dict)
    analysis_version: int = 1

    def __post_init__(self) -> None:
        sources = [(Source(f"/videos/{n}.mp4", n, "video"), 10) for n in NAMES]
        self.store = Store(self.root)
        self.run: Run = plan.create(
            self.store, "set", config.load(), sources, stage_names=["analysis", "captions"]
        )
        self.workspace = Workspace(self.store, self.scratch)
        self.worker = ShardWorker(self.run, self.workspace)
        for name in NAMES:
            self.ingest(name)

    def scene(self, name: str) -> Scene:
        return Scene(self.workspace.root, "set", name)

    def ingest(self, name: str, accepted: bool = True) -> None:
        scene = self.scene(name)
        info = scene_info.SceneInfo(
            name=name, dataset="set", width=64, height=64, frame_count=1, rate=None, times_s=[0.0],
            source=scene_info.Source(
                name=f"{name}.mp4", kind="video", sha256="0" * 64, bytes=1, width=64, height=64,
                rotation=0,
            ),
            shot=scene_info.Shot(
                index=0, count=1, first_frame=0, last_frame=0, start_s=0, end_s=0
            ),
            filter=scene_info.FilterReport(scores={}, accepted=accepted, reasons=[]),
            warnings=[],
        )  # fmt: skip
        scene_info.write(scene.scene_json, info)
        reporter = SceneReporter(silent, "ingest", name)
        identity = Identity("ingest", 1, ("scene_json",), "k", {})
        context = StageContext(self.run.config, reporter, frames=1)
        self.worker.commit(scene, identity, context, reporter, Cost(1.0, 1))
        record = records.SourceRecord(
            name=name, source=f"/videos/{name}.mp4", kind="video", fingerprint="f", sha256="s",
            key="k", scenes=[records.IngestedScene(name=name, frames=1, accepted=accepted)],
        )  # fmt: skip
        records.write_source_record(self.store, "set", record)

    def analysis(self, scene: Scene, context: StageContext) -> None:
        self.calls.append(f"analysis {scene.name}")
        if scene.name in self.fail:
            raise self.fail[scene.name]
        write_analysis(scene, self.note)
        context.frames = 1

    def captions(self, scene: Scene, context: StageContext) -> None:
        self.calls.append(f"captions {scene.name}")
        note = objects.read(scene.dynamic_objects).notes[0]
        caption = captions.Caption(text=note, source="test", facts={})
        camera = captions.CameraCaption(text="", labels=[], segments=[], source="test", facts={})
        value = captions.Captions(objects=[], scene=caption, camera=camera)
        captions.write(scene.captions, value)
        captions.write_csv(scene.object_captions, value)

    def stage(self, name: str) -> Stage:
        if name == "analysis":
            version = self.analysis_version
            return Stage(name, version, ("scene_json",), ("analysis",), lambda _: {}, self.analysis)
        return Stage(
            name, 1, ("scene_json", "analysis"), ("captions",), lambda _: {}, self.captions
        )

    def execute(self, *names: str) -> dict[str, dict[Outcome, int]]:
        """Run stages; returns the outcomes and forgets the calls of before."""
        self.calls.clear()
        self.workspace.evict()
        return {name: dict(self.worker.execute(name, 0)) for name in names}

    def both(self) -> dict[str, dict[Outcome, int]]:
        return self.execute("analysis", "captions")

    def digests(self) -> dict[str, str]:
        found = {}
        for name in NAMES:
            for stage in ("analysis", "captions"):
                manifest = records.manifest(self.workspace, self.scene(name), stage)
                if manifest:
                    for artifact, files in manifest.outputs.items():
                        found[f"{name} {artifact}"] = records.digest(files)
        return found


Maker = Callable[[str], Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    benches: list[Bench] = []

    def build(kind: str = "local") -> Bench:
        local = str(tmp_path / f"root{len(benches)}")
        root = local if kind == "local" else f"memory://{uuid.uuid4().hex}"
        bench = Bench(root, tmp_path / f"scratch{len(benches)}")
        benches.append(bench)
        monkeypatch.setattr(stages, "get", lambda name: benches[-1].stage(name))
        return bench

    return build


@pytest.fixture(params=["local", "memory"])
def bench(request: pytest.FixtureRequest, make: Maker) -> Bench:
    return make(request.param)


def test_done_once_then_cached(bench: Bench) -> None:
    assert bench.both() == {"analysis": {Outcome.DONE: 3}, "captions": {Outcome.DONE: 3}}
    before = bench.digests()
    assert len(before) == 6
    assert bench.both() == {"analysis": {Outcome.CACHED: 3}, "captions": {Outcome.CACHED: 3}}
    assert bench.calls == []
    assert bench.digests() == before


def test_a_missing_output_is_made_again_and_others_are_not(bench: Bench) -> None:
    bench.both()
    relative = bench.scene("b").dynamic_objects.relative_to(bench.workspace.root).as_posix()
    bench.store.delete([relative])
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 1, Outcome.CACHED: 2}
    assert bench.calls == ["analysis b"]
    # the same content came out, so nothing that rests on it is done again
    assert bench.execute("captions")["captions"] == {Outcome.CACHED: 3}


def test_an_output_of_another_size_is_made_again(bench: Bench) -> None:
    bench.both()
    relative = bench.scene("a").dynamic_objects.relative_to(bench.workspace.root).as_posix()
    bench.store.write(relative, b"{}")
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 1, Outcome.CACHED: 2}


def test_a_torn_manifest_counts_as_not_done(bench: Bench) -> None:
    bench.both()
    relative = records.relative(bench.workspace, bench.scene("a"), "analysis")
    data = bench.store.read(relative)
    assert data
    bench.store.write(relative, data[: len(data) // 2])
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 1, Outcome.CACHED: 2}


def test_a_new_version_recomputes_and_new_content_travels_down(bench: Bench) -> None:
    bench.both()
    bench.analysis_version = 2
    assert bench.both() == {"analysis": {Outcome.DONE: 3}, "captions": {Outcome.CACHED: 3}}
    bench.analysis_version, bench.note = 3, "second"
    assert bench.both() == {"analysis": {Outcome.DONE: 3}, "captions": {Outcome.DONE: 3}}


def test_a_failure_is_recorded_and_the_others_go_on(bench: Bench) -> None:
    bench.fail["b"] = InputError("no good", Reason.UNSUPPORTED)
    outcomes = bench.both()
    assert outcomes["analysis"] == {Outcome.DONE: 2, Outcome.QUARANTINED: 1}
    assert outcomes["captions"] == {Outcome.DONE: 2, Outcome.BLOCKED: 1}
    (record,) = quarantine.records(bench.store)
    assert (record.name, record.stage, record.reason) == ("b", "analysis", Reason.UNSUPPORTED)
    assert record.message == "no good"
    assert "InputError" in record.traceback


def test_the_same_failure_is_not_tried_again_until_replay(bench: Bench) -> None:
    bench.fail["b"] = ValueError("a bug")
    bench.both()
    assert bench.execute("analysis")["analysis"] == {Outcome.CACHED: 2, Outcome.QUARANTINED: 1}
    assert bench.calls == []
    bench.fail.clear()
    (replay,) = replays(bench.store, None, None)
    run = replay.run
    assert [record.name for record in replay.records] == ["b"]
    assert run.plan.sources == 1
    replay.release()
    assert list(quarantine.records(bench.store)) == []
    replay.withdraw()
    assert [record.name for record in quarantine.records(bench.store)] == ["b"]
    replay.release()
    worker = ShardWorker(run, bench.workspace)
    assert dict(worker.execute("analysis", 0)) == {Outcome.DONE: 1}
    assert list(quarantine.records(bench.store)) == []
    assert bench.calls == ["analysis b"]


def test_a_changed_stage_tries_quarantined_scenes_again(bench: Bench) -> None:
    bench.fail["b"] = ValueError("a bug")
    bench.both()
    bench.fail.clear()
    bench.analysis_version = 2
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 3}
    assert list(quarantine.records(bench.store)) == []


def test_replay_of_an_unknown_scene_says_so(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="not in quarantine: zebra"):
        replays(bench.store, None, ["zebra"])


def test_a_scene_that_kills_its_process_twice_is_quarantined(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.worker.pod = True
    bench.fail["b"] = SystemExit(139)
    with monkeypatch.context() as patch:
        patch.setattr(Starts, "__exit__", lambda *_: None)  # the dead clean nothing up
        for _ in range(2):
            with pytest.raises(SystemExit):
                bench.execute("analysis")
    outcomes = bench.execute("analysis")["analysis"]
    assert outcomes == {Outcome.CACHED: 1, Outcome.QUARANTINED: 1, Outcome.DONE: 1}
    (record,) = quarantine.records(bench.store)
    assert (record.name, record.reason, record.attempt) == ("b", Reason.CRASHED, 2)
    assert "died 2 times" in record.message


@pytest.mark.parametrize("pod", [True, False])
def test_a_process_that_is_told_to_end_blames_no_scene(bench: Bench, pod: bool) -> None:
    bench.worker.pod = pod
    bench.fail["b"] = SystemExit(75)
    for _ in range(3):
        with pytest.raises(SystemExit):
            bench.execute("analysis")
    bench.fail.clear()
    assert Outcome.QUARANTINED not in bench.execute("analysis")["analysis"]


def test_a_lost_input_costs_its_scene_alone(bench: Bench) -> None:
    bench.execute("analysis")
    bench.workspace.evict()
    lost = bench.scene("b").dynamic_objects.relative_to(bench.workspace.root).as_posix()
    bench.store.delete([lost])
    outcomes = bench.execute("captions")["captions"]
    assert outcomes == {Outcome.DONE: 2, Outcome.QUARANTINED: 1}


def test_a_service_that_stays_away_stops_the_shard_and_blames_no_scene(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicverse.runner.execute.BACKOFF_SECONDS", 0.0)
    bench.fail["b"] = DynamicVerseError("server down", Reason.SERVICE)
    with pytest.raises(TransientError, match="server down"):
        bench.execute("analysis")
    assert bench.calls.count("analysis b") == 3
    assert list(quarantine.records(bench.store)) == []
    bench.fail.clear()
    outcomes = bench.execute("analysis")["analysis"]
    assert outcomes[Outcome.DONE] == 1  # what was under way beside it is not lost
    assert outcomes[Outcome.CACHED] == 2


def test_a_stage_that_writes_nonsense_is_caught(bench: Bench) -> None:
    def nonsense(scene: Scene, context: StageContext) -> None:
        scene.dynamic_objects.parent.mkdir(parents=True, exist_ok=True)
        scene.dynamic_objects.write_text("{}")

    bench.analysis = nonsense  # type: ignore[method-assign]
    assert bench.execute("analysis")["analysis"] == {Outcome.QUARANTINED: 3}
    assert {r.reason for r in quarantine.records(bench.store)} == {Reason.INVALID_ARTIFACT}
    assert bench.digests() == {}


def test_a_failed_stage_leaves_no_half_results(make: Maker) -> None:
    bench = make("local")

    def half(scene: Scene, context: StageContext) -> None:
        write_analysis(scene, "half")
        raise ValueError("then it failed")

    bench.analysis = half  # type: ignore[method-assign]
    assert bench.execute("analysis")["analysis"] == {Outcome.QUARANTINED: 3}
    assert not bench.scene("a").dynamic_objects.exists()


def killed_while_writing(path: Path, seconds_ago: float) -> Path:
    """What a process that was killed inside a write leaves; a path that no longer is."""
    code = (
        "import os, sys, signal; from pathlib import Path\n"
        "from dynamicverse.formats.atomic import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    before = set(path.parent.glob("*"))
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = set(path.parent.glob("*")) - before
    then = time.time() - seconds_ago
    os.utime(left, (then, then))
    return left


def test_leftovers_of_a_killed_writer_are_removed(make: Maker) -> None:
    bench = make("local")
    left = killed_while_writing(bench.scene("a").dynamic_objects, 0)
    bench.execute("analysis")
    assert not left.exists()


def test_a_pod_leaves_alone_what_another_may_be_writing(make: Maker) -> None:
    bench = make("local")
    bench.worker.pod = True
    scene = bench.scene("a")
    fresh = killed_while_writing(scene.dynamic_objects, 5)
    old = killed_while_writing(scene.dynamic_objects, ABANDONED_SECONDS + 5)
    note = killed_while_writing(scene.manifest("analysis"), ABANDONED_SECONDS + 5)
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 3}
    assert fresh.exists()
    assert not old.exists()
    assert not note.exists()
    assert scene.files("analysis") == [scene.dynamic_objects]


def test_a_plan_removes_what_killed_writers_left_of_the_runs_own_files(make: Maker) -> None:
    bench = make("local")
    root = bench.workspace.root
    places = (f"{bench.run.folder}/plan.json", "set/.sources/a.json", "set/.quarantine/x/a.json")
    for path in (root / place for place in places):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh, old = (killed_while_writing(path, s) for s in (5, ABANDONED_SECONDS + 5))
        plan.make_current(bench.run)
        assert fresh.exists()
        assert not old.exists()


def test_a_pod_that_overlaps_with_the_one_before_it(make: Maker) -> None:
    """A node is lost, its pod is not: both write the same scene on the shared volume."""
    bench = make("local")
    bench.worker.pod = True
    other = ShardWorker(bench.run, bench.workspace, pod=True)
    analysis = bench.analysis

    def meanwhile(scene: Scene, context: StageContext) -> None:
        if scene.name != NAMES[-1]:
            return analysis(scene, context)
        bench.analysis = analysis  # type: ignore[method-assign]
        with (
            atomic_path(scene.dynamic_objects) as unfinished,
            unfinished.open("wb") as file,
        ):
            file.write(b"{")
            assert other.execute("analysis", 0) == {Outcome.CACHED: 2, Outcome.DONE: 1}
            file.seek(0)
            file.write(scene.dynamic_objects.read_bytes())

    bench.analysis = meanwhile  # type: ignore[method-assign]
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 3}
    assert list(quarantine.records(bench.store)) == []
    assert not list(bench.workspace.root.rglob("*.tmp"))
    assert bench.execute("analysis")["analysis"] == {Outcome.CACHED: 3}


def test_an_overview_page_removes_earlier_ones_that_were_cut_short(tmp_path: Path) -> None:
    old, young, deeper = (tmp_path / "clips" / name for name in (
        "index.html.1.tmp", "index.html.2.tmp", "scene/report.html.1.tmp",
    ))  # fmt: skip
    for path in (old, young, deeper):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("cut sho")
    for path in (old, deeper):
        os.utime(path, (0, time.time() - ABANDONED_SECONDS - 1))
    page = publish_index(Store(str(tmp_path)), "clips")
    assert Path(page).is_file()
    assert not old.exists()
    assert young.exists()  # its writer may be at work
    assert deeper.exists()  # the scene's own stages see to it


def test_rejected_clips_are_recorded_and_skipped(bench: Bench) -> None:
    bench.ingest("c", accepted=False)
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 2, Outcome.REJECTED: 1}


def test_a_source_that_was_never_ingested_blocks_only_itself(bench: Bench) -> None:
    records.remove_source_record(bench.store, "set", "a")
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 2, Outcome.BLOCKED: 1}


def test_local_and_remote_trees_have_the_same_digests(make: Maker) -> None:
    digests = []
    for kind in ("local", "memory"):
        bench = make(kind)
        bench.both()
        digests.append(bench.digests())
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6


def test_a_tampered_remote_file_is_not_used(make: Maker) -> None:
    bench = make("memory")
    bench.execute("analysis")
    scene = bench.scene("a")
    relative = scene.dynamic_objects.relative_to(bench.workspace.root).as_posix()
    data = bench.store.read(relative)
    assert data
    bench.store.write(relative, data.replace(b"first", b"fir5t"))
    assert bench.execute("captions")["captions"] == {Outcome.DONE: 2, Outcome.QUARANTINED: 1}
    (record,) = quarantine.records(bench.store)
    assert record.reason is Reason.INVALID_ARTIFACT


def test_the_ledger_says_what_happened_and_survives_a_torn_line(bench: Bench) -> None:
    bench.fail["b"] = ValueError("a bug")
    bench.both()
    path = ledger.path(bench.run.folder, "analysis", 0)
    data = bench.store.read(path)
    assert data
    bench.store.write(path, data + b'{"stage": "analysis", "na')
    bench.both()
    found = status.of_run(bench.run)
    analysis = found.stages[0].to_json()
    assert (analysis["expected"], analysis["cached"], analysis["quarantined"]) == (3, 2, 1)
    assert found.failures == {"internal": 1}
    assert found.complete
    assert settled.of_stage(bench.run, "analysis")[0].tally.quarantined == ["b"]
    lines = (bench.store.read(path) or b"").decode().splitlines()
    torn = [line for line in lines if not line.endswith("}")]
    assert len(torn) == 1
    assert all("secret" not in json.loads(line) for line in lines if line not in torn)


def test_the_readable_log_grows_with_every_stage(bench: Bench) -> None:
    bench.both()
    relative = bench.scene("a").log.relative_to(bench.workspace.root).as_posix()
    text = (bench.store.read(relative) or b"").decode()
    assert "analysis: done in" in text
    assert "captions: done in" in text


def test_the_same_command_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sources = [(Source("/v/a.mp4", "a", "video"), 5)]
    first = plan.create(store, "set", config.load(), sources)
    again = plan.create(store, "set", config.load(), sources)
    other = plan.create(store, "set", config.load(overrides=["tracks.grid_size=9"]), sources)
    assert first.plan.run == again.plan.run != other.plan.run
    opened = plan.open_run(f"{tmp_path}/{first.folder}")
    assert opened.plan == first.plan
    assert opened.config == first.config


def test_a_run_keeps_the_shards_that_it_was_first_cut_into(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sources = [(Source(f"/v/{i}.mp4", f"s{i}", "video"), 40) for i in range(5)]
    first = plan.create(store, "set", config.load(), sources, shard_scenes=1)
    again = plan.create(store, "set", config.load(), sources, shard_scenes=64)
    assert again.plan == first.plan
    assert [len(again.shard(i).sources) for i in range(5)] == [1] * 5
    store.write(f"{plan.RUNS}/cut-short/shards/00000.json", b"{}")
    assert plan.list_runs(store) == [first.plan.run]
    store.write(f"{first.folder}/plan.json", b'{"of": "another version"}')
    assert plan.create(store, "set", config.load(), sources, shard_scenes=2).plan.shards == 3


def test_shards_are_packed_by_frames_and_by_count(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "frames"))
    sources = [(Source(f"/v/{i}.mp4", f"s{i}", "video"), 40) for i in range(10)]
    run = plan.create(store, "set", config.load(), sources, shard_frames=100, shard_scenes=64)
    sizes = [len(run.shard(i).sources) for i in range(run.plan.shards)]
    assert sizes == [2, 2, 2, 2, 2]
    store = Store(str(tmp_path / "count"))
    run = plan.create(store, "set", config.load(), sources, shard_frames=10**6, shard_scenes=3)
    names = [s.name for i in range(run.plan.shards) for s in run.shard(i).sources]
    assert [len(run.shard(i).sources) for i in range(run.plan.shards)] == [3, 3, 3, 1]
    assert names == [f"s{i}" for i in range(10)]


@pytest.mark.parametrize("dataset", ["key_frames", "../x", "a b", ""])
def test_datasets_with_unusable_names_are_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(ConfigError):
        plan.create(Store(str(tmp_path)), dataset, config.load(), [(Source("/a", "a", "video"), 1)])


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run"):
        plan.open_run(str(tmp_path))
    with pytest.raises(ConfigError, match="no plan there"):
        plan.open_run(f"{tmp_path}/.runs/x")


def test_every_part_of_the_identity_changes_the_key() -> None:
    base = records.key("s", 1, {"a": 1}, {"rgb": "d"})
    others = {
        records.key("t", 1, {"a": 1}, {"rgb": "d"}),
        records.key("s", 2, {"a": 1}, {"rgb": "d"}),
        records.key("s", 1, {"a": 2}, {"rgb": "d"}),
        records.key("s", 1, {"a": 1}, {"rgb": "e"}),
    }
    assert len(others) == 4
    assert base not in others
    assert records.key("s", 1, {"a": 1}, {"rgb": "d"}) == base


def test_an_artifact_digest_does_not_depend_on_order() -> None:
    one = OutputFile(path="a", bytes=1, sha256="0" * 64)
    two = one.model_copy(update={"path": "b"})
    assert records.digest([one, two]) == records.digest([two, one]) != records.digest([one])
