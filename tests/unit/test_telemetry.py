"""The exporter and the pods' metrics: right figures, bounded labels, incremental reading."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from program import command
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from promtool import promtool
from typer.testing import CliRunner

from dynamicverse import config, stages
from dynamicverse.cli import app
from dynamicverse.curation.sources import Source
from dynamicverse.errors import ConfigError, Reason, StorageError
from dynamicverse.runner import plan, status
from dynamicverse.runner.events import Event, silent
from dynamicverse.runner.ledger import Ledger, Outcome, path
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import Store
from dynamicverse.telemetry import figures, pod
from dynamicverse.telemetry.exporter import Exporter
from dynamicverse.telemetry.http import serve
from dynamicverse.telemetry.progress import LedgerReader

NAMES = ("street-0", "street-1", "street-2", "street-3")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Four sources in two shards; pods of the pool h100 cost 3600 $/h."""
    sources = [(Source(f"/clips/{name}.mp4", name, "video"), 10) for name in NAMES]
    settings = config.load(overrides=["cluster.prices={h100: 3600}"])
    store = Store(str(tmp_path / "out"))
    return plan.create(store, "clips", settings, sources, shard_scenes=2)


def add(run: Run, stage: str, shard: int, name: str, outcome: Outcome, **facts: object) -> None:
    with Ledger(run.store, run.folder, stage, shard) as ledger:
        ledger.add(name=name, outcome=outcome, **facts)


def samples(exporter: Exporter) -> Samples:
    """(name, labels) → value, as a parser of Prometheus's text reads them."""
    text = generate_latest(exporter.registry()).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum over all series of a name that have these labels."""
    matching = [
        v for (n, ls), v in found.items() if n == name and labels.items() <= dict(ls).items()
    ]
    assert matching, f"no {name} with {labels}"
    return sum(matching)


def export(run: Run) -> Samples:
    exporter = Exporter(run.store)
    exporter.refresh()
    return samples(exporter)


def test_scenes_by_state_and_what_is_left(run: Run) -> None:
    for shard, name in enumerate(NAMES[:2]):
        add(run, "ingest", shard, name, Outcome.DONE, scenes=[name], frames=10, seconds=1.0)
    add(run, "keyframes", 0, NAMES[0], Outcome.DONE, frames=10, seconds=2.0)
    add(run, "keyframes", 1, NAMES[1], Outcome.QUARANTINED, reason="not_video")
    found = export(run)
    scenes = "dynamicverse_scenes"
    assert value(found, scenes, stage="ingest", state="done") == 2
    assert value(found, scenes, stage="ingest", state="pending") == 2
    assert value(found, scenes, stage="keyframes", state="done") == 1
    assert value(found, scenes, stage="keyframes", state="quarantined") == 1
    assert value(found, scenes, stage="keyframes", state="pending") == 2
    assert value(found, scenes, stage="report", state="pending") == 4
    assert value(found, "dynamicverse_run_sources", dataset="clips", run=run.plan.run) == 4


def test_a_source_of_many_scenes_raises_what_is_left(run: Run) -> None:
    add(run, "ingest", 0, NAMES[0], Outcome.DONE, scenes=["a-000", "a-001", "a-002"])
    add(run, "ingest", 0, NAMES[0], Outcome.CACHED)  # a second try names no scenes
    found = export(run)
    assert value(found, "dynamicverse_scenes", stage="tracks", state="pending") == 6
    assert value(found, "dynamicverse_scenes", stage="ingest", state="pending") == 3


def test_the_last_event_is_the_state_and_every_event_is_counted(run: Run) -> None:
    add(run, "tracks", 0, NAMES[0], Outcome.QUARANTINED, reason="out_of_memory", tries=3)
    add(run, "tracks", 0, NAMES[0], Outcome.DONE, frames=7, seconds=3.0, tries=2)
    found = export(run)
    assert value(found, "dynamicverse_scenes", stage="tracks", state="quarantined") == 0
    assert value(found, "dynamicverse_scenes", stage="tracks", state="done") == 1
    processed = "dynamicverse_scenes_processed_total"
    assert value(found, processed, stage="tracks", outcome="quarantined") == 1
    assert value(found, processed, stage="tracks", outcome="done") == 1
    failures = "dynamicverse_scene_failures_total"
    assert value(found, failures, stage="tracks", reason="out_of_memory") == 1
    assert value(found, "dynamicverse_scene_retries_total", stage="tracks") == 3


def test_durations_loads_bytes_and_frames(run: Run) -> None:
    add(run, "depth", 0, NAMES[0], Outcome.DONE, frames=30, seconds=4.0, load_seconds=20.0,
        bytes_in=100, bytes_out=50, peak_memory=1000)  # fmt: skip
    add(run, "depth", 0, NAMES[1], Outcome.DONE, frames=20, seconds=5000.0, load_seconds=0.0,
        bytes_in=1, bytes_out=2, peak_memory=3000)  # fmt: skip
    found = export(run)
    bucket = "dynamicverse_stage_duration_seconds_bucket"
    assert value(found, bucket, stage="depth", le="2.0") == 0
    assert value(found, bucket, stage="depth", le="5.0") == 1
    assert value(found, bucket, stage="depth", le="3600.0") == 1
    assert value(found, bucket, stage="depth", le="+Inf") == 2
    assert value(found, "dynamicverse_stage_duration_seconds_count", stage="depth") == 2
    assert value(found, "dynamicverse_stage_duration_seconds_sum", stage="depth") == 5004
    assert value(found, "dynamicverse_model_load_seconds_count", stage="depth") == 1
    assert value(found, "dynamicverse_model_load_seconds_sum", stage="depth") == 20
    assert value(found, "dynamicverse_frames_total", stage="depth") == 50
    assert value(found, "dynamicverse_bytes_total", stage="depth", direction="in") == 101
    assert value(found, "dynamicverse_bytes_total", stage="depth", direction="out") == 52
    assert value(found, "dynamicverse_stage_peak_memory_bytes", stage="depth") == 3000


def test_gpu_seconds_and_money_by_pool(run: Run) -> None:
    add(run, "depth", 0, "a", Outcome.DONE, seconds=4.0, load_seconds=2.0, pool="h100")
    add(run, "depth", 1, "b", Outcome.QUARANTINED, seconds=3.0, reason="internal", pool="h100")
    add(run, "depth", 1, "c", Outcome.DONE, seconds=5.0)
    found = export(run)
    assert value(found, "dynamicverse_gpu_seconds_total", stage="depth") == 9
    assert value(found, "dynamicverse_pool_seconds_total", pool="cpu") == 5
    assert value(found, "dynamicverse_cost_usd_total", pool="h100") == pytest.approx(9)
    assert not any(n.startswith("dynamicverse_cost") and ("pool", "cpu") in ls for n, ls in found)


def test_it_agrees_with_status(run: Run) -> None:
    """Two readers of the same ledger, written apart."""
    for stage in stages.NAMES:
        for shard, name in enumerate(NAMES[:2]):
            outcome = Outcome.QUARANTINED if (stage, shard) == ("tracks", 1) else Outcome.DONE
            reason = {"reason": "internal"} if outcome is Outcome.QUARANTINED else {}
            add(run, stage, shard, name, outcome, frames=9, seconds=2.5, **reason)
    expected = status.of_run(run)
    found = export(run)
    for stage in expected.stages:
        labels = {"stage": stage.stage}
        for outcome in Outcome:
            assert stage.outcomes[outcome.value] == value(
                found, "dynamicverse_scenes", state=outcome.value, **labels
            )
        assert value(found, "dynamicverse_frames_total", **labels) == stage.frames
        seconds = value(found, "dynamicverse_stage_duration_seconds_sum", **labels)
        assert seconds == pytest.approx(stage.seconds)
    reasons: Counter[str] = Counter()
    for (name, labels), count in found.items():
        if name == "dynamicverse_scene_failures_total":
            reasons[dict(labels)["reason"]] += int(count)
    assert reasons == expected.failures


def test_progress_and_eta(run: Run) -> None:
    reader = LedgerReader(run)
    assert (reader.progress().ratio, reader.progress().eta_seconds) == (0.0, None)
    write_at(run, "ingest", 0, {NAMES[0]: 0, NAMES[1]: 60})
    write_at(run, "ingest", 1, {NAMES[2]: 30, NAMES[3]: 90})
    reader.refresh()
    found = reader.progress()
    assert found.ratio == pytest.approx(1 / len(stages.NAMES))
    assert found.eta_seconds == pytest.approx(90 * (len(stages.NAMES) - 1))
    for stage in stages.NAMES[1:]:
        write_at(run, stage, 0, dict.fromkeys(NAMES[:2], 100))
        assert not reader.progress().complete
        write_at(run, stage, 1, dict.fromkeys(NAMES[2:], 100))
    reader.refresh()
    assert reader.progress().complete
    assert reader.progress().eta_seconds == 0


def write_at(run: Run, stage: str, shard: int, seconds: dict[str, int]) -> None:
    """Events at so many seconds after ten o'clock."""
    for name, second in seconds.items():
        time = f"2026-01-01T10:{second // 60:02d}:{second % 60:02d}.000+00:00"
        event = {"time": time, "stage": stage, "name": name, "outcome": "done"}
        run.store.append(path(run.folder, stage, shard), json.dumps(event).encode() + b"\n", b"")


def test_only_files_that_have_grown_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in (0, 1):
        add(run, "tracks", shard, NAMES[shard], Outcome.DONE, frames=5)
    reader = LedgerReader(run)
    assert reader.refresh()
    read: list[str] = []
    original = Store.read
    monkeypatch.setattr(Store, "read", lambda self, p: read.append(p) or original(self, p))
    assert not reader.refresh()
    assert read == []
    monkeypatch.setattr(Store, "read", original)
    add(run, "tracks", 1, NAMES[2], Outcome.DONE, frames=5)
    monkeypatch.setattr(Store, "read", lambda self, p: read.append(p) or original(self, p))
    assert reader.refresh()
    assert read == [path(run.folder, "tracks", 1)]
    tracks = next(s for s in reader.progress().stages if s.stage == "tracks")
    assert tracks.row[figures.FRAMES] == 15


def test_a_remote_root_is_read_like_a_folder() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    sources = [(Source(f"/clips/{name}.mp4", name, "video"), 10) for name in NAMES]
    run = plan.create(store, "clips", config.load(), sources, shard_scenes=1)
    for shard, name in enumerate(NAMES):
        add(run, "tracks", shard, name, Outcome.DONE, frames=5)
    reader = LedgerReader(run)
    assert reader.refresh()
    assert not reader.refresh()
    tracks = next(s for s in reader.progress().stages if s.stage == "tracks")
    assert (tracks.finished, tracks.row[figures.FRAMES]) == (4, 20)


def test_a_torn_line_counts_when_it_is_whole(run: Run) -> None:
    add(run, "tracks", 0, NAMES[0], Outcome.DONE)
    line = json.dumps({"name": NAMES[1], "outcome": "done", "stage": "tracks", "time": ""})
    file = path(run.folder, "tracks", 0)
    reader = LedgerReader(run)
    for text, count in ((line[:20], 1), (line[20:] + "\n", 2)):
        run.store.append(file, text.encode(), b"")
        reader.refresh()
        tracks = next(s for s in reader.progress().stages if s.stage == "tracks")
        assert tracks.finished == count


def test_a_ledger_that_is_removed_is_taken_out(run: Run) -> None:
    add(run, "tracks", 0, NAMES[0], Outcome.DONE, seconds=2.0)
    reader = LedgerReader(run)
    reader.refresh()
    run.store.delete([path(run.folder, "tracks", 0)])
    assert reader.refresh()
    tracks = next(s for s in reader.progress().stages if s.stage == "tracks")
    assert (tracks.finished, tracks.pools["cpu"]) == (0, 0.0)


def test_files_that_are_not_of_the_plan_are_passed_over(run: Run) -> None:
    add(run, "tracks", 7, NAMES[0], Outcome.DONE)
    add(run, "dreams", 0, NAMES[0], Outcome.DONE)
    run.store.write(f"{run.folder}/ledger/tracks/notes.txt", b"{}")
    assert not LedgerReader(run).refresh()


def test_garbage_in_a_ledger_is_passed_over() -> None:
    lines = [
        b"",
        b"null",
        b"{",
        b'{"name": "a"}',
        b'{"name": "a", "outcome": "melted"}',
        b'{"name": "a", "outcome": "done", "seconds": "long"}',
        b'{"name": "a", "outcome": ["done"]}',
        b'{"name": 1, "outcome": "done"}',
    ]
    assert figures.of_file(b"\n".join(lines)) == figures.Figures()


def test_labels_are_few_and_never_a_scene(run: Run) -> None:
    for number in range(300):
        add(run, "tracks", 0, f"street-{number}", Outcome.DONE, seconds=1.0, pool=f"gpu-{number}")
    found = export(run)
    labels = {name for _, ls in found for name, _ in ls}
    assert labels <= {
        "dataset", "run", "stage", "state", "outcome", "reason", "direction", "pool", "le",
        "version", "python",
    }  # fmt: skip
    assert not any("street-" in value for _, ls in found for _, value in ls)
    pools = {v for _, ls in found for k, v in ls if k == "pool"}
    assert len(pools) == 17
    assert "other" in pools
    assert value(found, "dynamicverse_pool_seconds_total") == 300
    reasons = {v for _, ls in found for k, v in ls if k == "reason"}
    assert reasons <= {r.value for r in Reason}


def test_a_reason_of_another_version_is_internal(run: Run) -> None:
    add(run, "tracks", 0, NAMES[0], Outcome.QUARANTINED, reason="gremlins")
    found = export(run)
    assert value(found, "dynamicverse_scene_failures_total", reason="internal") == 1


def test_only_the_latest_runs_are_shown(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(4):
        sources = [(Source("/clips/a.mp4", "a", "video"), 10)]
        made = plan.create(store, f"set-{number}", config.load(), sources)
        write_at(made, "ingest", 0, {"a": number})
    exporter = Exporter(store, max_runs=2)
    exporter.refresh()
    found = samples(exporter)
    shown = {v for _, ls in found for k, v in ls if k == "dataset"}
    assert shown == {"set-2", "set-3"}
    assert value(found, "dynamicverse_exporter_runs_left_out") == 2


def test_quiet_runs_are_looked_at_less_often(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    exporter = Exporter(run.store, clock=lambda: now[0])
    looks = []
    original = LedgerReader.refresh
    monkeypatch.setattr(LedgerReader, "refresh", lambda r: looks.append(now[0]) or original(r))
    for _ in range(4000):
        exporter.refresh()
        now[0] += 15
    gaps = [b - a for a, b in pairwise(looks)]
    assert gaps[0] == 15
    assert max(gaps) == gaps[-1] == 300
    looks.clear()
    add(run, "ingest", 0, NAMES[0], Outcome.DONE)
    for _ in range(21):
        exporter.refresh()
        now[0] += 15
    assert 15 in [b - a for a, b in pairwise(looks)]


def test_storage_that_stays_away_leaves_the_last_figures(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(run, "ingest", 0, NAMES[0], Outcome.DONE)
    exporter = Exporter(run.store)
    exporter.refresh()
    before = samples(exporter)

    def refuse(*_: object) -> None:
        raise StorageError("away")

    monkeypatch.setattr(Store, "folders", refuse)
    exporter.refresh()
    after = samples(exporter)
    assert value(after, "dynamicverse_exporter_errors_total") == 1
    time = "dynamicverse_exporter_last_refresh_timestamp_seconds"
    assert value(after, time) == value(before, time)
    assert value(after, "dynamicverse_scenes") == value(before, "dynamicverse_scenes")


def test_a_run_that_cannot_be_read_is_left_out_once(run: Run) -> None:
    run.store.write(".runs/strange/plan.json", b"{}")
    exporter = Exporter(run.store)
    exporter.refresh()
    exporter.refresh()
    found = samples(exporter)
    assert value(found, "dynamicverse_exporter_errors_total") == 1
    assert value(found, "dynamicverse_run_sources", dataset="clips") == 4


def test_a_removed_run_is_forgotten(run: Run) -> None:
    exporter = Exporter(run.store)
    exporter.refresh()
    assert run.store.local is not None
    (run.store.local / run.folder).rename(run.store.local / "elsewhere")
    exporter.refresh()
    assert not any(n.startswith("dynamicverse_run") for n, _ in samples(exporter))


def test_the_exposition_pleases_promtool(run: Run) -> None:
    add(run, "depth", 0, NAMES[0], Outcome.DONE, seconds=1.0, pool="h100", load_seconds=1.0)
    add(run, "depth", 0, NAMES[1], Outcome.QUARANTINED, reason="internal")
    done = CliRunner().invoke(app, ["exporter", "--root", run.store.url, "--once"])
    assert done.exit_code == 0
    assert "dynamicverse_gpu_seconds_total" in done.stdout
    checked = promtool("check", "metrics", stdin=done.stdout)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_command_serves_until_it_is_stopped(run: Run) -> None:
    arguments = command("exporter", "--root", run.store.url, "--port", "0", "--interval", "0.1")
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split(":")[-1].split("/")[0]
        end = time.monotonic() + 120
        body = ""
        while "dynamicverse_run_sources{" not in body and time.monotonic() < end:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                body = answer.read().decode()
        assert f'dynamicverse_run_sources{{dataset="clips",run="{run.plan.run}"}} 4.0' in body
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_pods_exposition_pleases_promtool() -> None:
    metrics = pod.PodMetrics("tracks", silent)
    metrics(Event("finish", "tracks", "a", outcome=Outcome.QUARANTINED, reason="internal"))
    text = generate_latest(metrics.registry).decode()
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_server_answers_and_is_ready_when_it_is() -> None:
    exporter_ready = [False]
    metrics = pod.PodMetrics("tracks", silent)
    with serve(metrics.registry, "127.0.0.1", 0, lambda: exporter_ready[0]) as port:
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert b"dynamicverse_build_info{" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{url}/-/ready")
        exporter_ready[0] = True
        for path_ in ("/-/ready", "/-/healthy"):
            with urllib.request.urlopen(url + path_) as answer:
                assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/")
        with (
            pytest.raises(ConfigError, match="choose another --port"),
            serve(metrics.registry, "127.0.0.1", port),
        ):
            pass


def test_a_pod_counts_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Event] = []
    metrics = pod.PodMetrics("tracks", passed.append)
    events = [
        Event("start", "tracks", "a"),
        Event("progress", "tracks", "a", done=1, total=4),
        Event("warning", "tracks", "a", message="dark"),
        Event("finish", "tracks", "a", outcome=Outcome.DONE, seconds=3.0, frames=8),
        Event("finish", "tracks", "b", outcome=Outcome.QUARANTINED, reason="empty"),
        Event("start", "tracks", "c"),
        Event("progress", "tracks", "c", done=3, total=4),
    ]
    for event in events:
        metrics(event)
    assert passed == events

    def get(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"stage": "tracks", **labels})

    prefix = "dynamicverse_pod_"
    assert get(f"{prefix}scenes_processed_total", outcome="done") == 1
    assert get(f"{prefix}scenes_processed_total", outcome="quarantined") == 1
    assert get(f"{prefix}scenes_processed_total", outcome="cached") == 0
    assert get(f"{prefix}scene_failures_total", reason="empty") == 1
    assert get(f"{prefix}stage_duration_seconds_count") == 1
    assert get(f"{prefix}frames_total") == 8
    assert get(f"{prefix}warnings_total") == 1
    assert get(f"{prefix}scene_progress_ratio") == 0.75
    started = get(f"{prefix}scene_start_timestamp_seconds")
    assert started is not None
    assert started > 1.7e9


def test_a_pod_serves_only_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pod.PORT, raising=False)
    with pod.pod_metrics("tracks", silent) as observer:
        assert observer is silent
    monkeypatch.setenv(pod.PORT, "http")
    with pytest.raises(ConfigError, match=pod.PORT), pod.pod_metrics("tracks", silent):
        pass
    monkeypatch.setenv(pod.PORT, "0")
    with pod.pod_metrics("tracks", silent) as observer:
        assert isinstance(observer, pod.PodMetrics)


def test_exporter_and_pods_share_no_name_but_the_version(run: Run) -> None:
    """Both are scraped by one Prometheus; a shared name would be counted twice."""
    exported = {re.sub("_total$", "", n) for n, _ in export(run)}
    metrics = pod.PodMetrics("tracks", silent)
    live = {family.name for family in metrics.registry.collect()}
    assert exported & live == {"dynamicverse_build_info"}
