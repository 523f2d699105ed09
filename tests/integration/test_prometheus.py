"""A real Prometheus scrapes the real exporter over the ledger of a real small run.

The ledger is given to the exporter in the order in which it was written, so that counters grow.
vLLM's, DCGM's and kube-state-metrics' figures come from recorded expositions.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import charts
import cv2
import pytest
import yaml
from dashboard_queries import answered, eventually, impatient, panels, variables
from ledger_replay import Replay
from program import command, within
from prometheus_server import Prometheus, prometheus, replayed
from promtool import program
from rendered import render

from dynamicverse.runner.events import Event, silent
from dynamicverse.telemetry.http import serve
from dynamicverse.telemetry.pod import PodMetrics

pytestmark = pytest.mark.slow
POOL = "NVIDIA-H100-80GB-HBM3"
EXPOSITIONS = charts.ROOT / "tests" / "expositions"
STEPS = 8  # parts in which the ledger grows, one a second


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two clips and of a file that is no video. Small: only the ledger is looked at."""
    folder = tmp_path_factory.mktemp("finished")
    broken = folder / "broken.mp4"
    broken.write_bytes(b"not a video")
    program("prometheus")  # skip before the work where there is none
    inputs = [str(tiny_clip(folder, "room", 0)), str(tiny_clip(folder, "hall", 1)), str(broken)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICVERSE_POOL", POOL)
        result = within(
            "run", *inputs, "--out", str(folder / "out"), "--workers", "0", "--json",
            "--set", f"cluster.prices={{{POOL}: 3.5}}",
        )  # fmt: skip
    assert result.code == 0, result.err
    assert len(result.json()["scenes"]) == 2
    return folder / "out"


def tiny_clip(parent: Path, name: str, seed: int) -> Path:
    """A folder with six pictures of 160×96."""
    folder = parent / name / "rgb"
    folder.mkdir(parents=True)
    for index, rgb in enumerate(render(6, (160, 96), "orbit", 1, seed).rgb):
        cv2.imwrite(str(folder / f"{index:05d}.png"), rgb[..., ::-1])
    return folder.parent


def rules() -> dict[str, Any]:
    """The chart's rules, evaluated every second, alerts without their patience."""
    text = (charts.CHARTS["dynamicverse-monitoring"] / "ci" / "output-defaults.yaml").read_text()
    return impatient(charts.one(charts.documents(text), "PrometheusRule")["spec"])


def play(replay: Replay) -> None:
    """Write the ledger, a part a second."""
    part = -(-replay.left // STEPS)
    while replay.left:
        replay.write(part)
        time.sleep(1)


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture(scope="module")
def vllm(stack: ExitStack) -> Iterator[tuple[int, Callable[[], None]]]:
    """The port of a server with vLLM's figures, and how to end it."""
    inner = ExitStack()
    port = inner.enter_context(replayed((EXPOSITIONS / "vllm.txt").read_text()))
    yield port, inner.close
    inner.close()


@pytest.fixture(scope="module")
def replay(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    return Replay(finished, tmp_path_factory.mktemp("replay"))


@pytest.fixture(scope="module")
def server(
    replay: Replay, tmp_path_factory: pytest.TempPathFactory, stack: ExitStack,
    vllm: tuple[int, Callable[[], None]],
) -> Prometheus:  # fmt: skip
    """Prometheus after it has watched the run."""
    folder = tmp_path_factory.mktemp("prometheus")
    exporter = stack.enter_context(
        subprocess.Popen(
            command("exporter", "--root", str(replay.root), "--port", "0",
                    "--address", "127.0.0.1", "--interval", "0.5"),
            stdout=subprocess.PIPE, text=True,
        )
    )  # fmt: skip
    stack.callback(exporter.terminate)
    assert exporter.stdout is not None
    exported = int(exporter.stdout.readline().split(":")[-1].split("/")[0])
    metrics = PodMetrics("tracks", silent)
    metrics(Event("start", "tracks", "room"))
    metrics(Event("progress", "tracks", "room", done=1, total=2))
    pod = stack.enter_context(serve(metrics.registry, "127.0.0.1", 0))
    cluster = stack.enter_context(replayed((EXPOSITIONS / "cluster.txt").read_text()))
    ports: dict[str, tuple[int, dict[str, str]]] = {
        "exporter": (exported, {"namespace": "vision", "instance": "ledger"}),
        "stages": (pod, {"namespace": "vision", "pod": "street-tracks-0"}),
        "vllm": (vllm[0], {"namespace": "vision", "pod": "qwen-0"}),
        "cluster": (cluster, {}),
    }
    jobs = {job: (f"127.0.0.1:{port}", labels) for job, (port, labels) in ports.items()}
    found = stack.enter_context(prometheus(folder, rules(), jobs))
    eventually(lambda: set(found.targets().values()) == {"up"} and len(found.targets()) == 4)
    play(replay)
    return found


def test_every_panel_has_data(server: Prometheus) -> None:
    answered(panels(rate_interval="30s"), lambda asked: server.query(asked.expr))


def test_variables_offer_values(server: Prometheus) -> None:
    for name, label, expr in variables():
        found = server.query(expr)
        assert found, name
        assert all(labels[label] for labels, _ in found)


def test_figures_are_those_of_the_run(server: Prometheus, finished: Path) -> None:
    """Prometheus and `status`, which reads the finished run by itself."""
    (status,) = within("status", str(finished), "--json").json()
    for stage in status["stages"]:
        for state in ("done", "quarantined", "blocked"):
            expr = f'sum(dynamicverse_scenes{{stage="{stage["stage"]}",state="{state}"}})'
            eventually(lambda e=expr, n=stage[state]: server.query(e)[0][1] == n)
        frames = server.query(f'sum(dynamicverse_frames_total{{stage="{stage["stage"]}"}})')
        assert frames[0][1] == stage["frames"]
    cost = server.query("sum(dynamicverse_cost_usd_total)")[0][1]
    assert cost == pytest.approx(sum(c["hours"] for c in status["costs"]) * 3.5, abs=0.001)
    assert server.query("dynamicverse_run_progress_ratio")[0][1] == 1


def test_every_rule_is_healthy(server: Prometheus) -> None:
    for group in server.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule


def test_alerts_fire(
    server: Prometheus, replay: Replay, vllm: tuple[int, Callable[[], None]]
) -> None:
    eventually(lambda: {"DynamicVerseGpuIdle", "DynamicVersePodPending"} <= server.firing())
    quiet = {"DynamicVerseVlmDown", "DynamicVerseLedgerStale", "DynamicVerseRunStalled"}
    assert not quiet & server.firing()
    replay.plan_another()
    eventually(lambda: len(server.query("dynamicverse_run_complete == 0")) == 1)
    assert not quiet & server.firing()
    vllm[1]()
    eventually(lambda: "DynamicVerseVlmDown" in server.firing())


def test_the_charts_scrape_jobs_name_our_labels() -> None:
    """The plain Prometheus' jobs set the labels that the dashboards use."""
    text = (charts.CHARTS["dynamicverse-monitoring"] / "ci" / "output-plain.yaml").read_text()
    name = "test-dynamicverse-monitoring-prometheus"
    config = yaml.safe_load(
        charts.one(charts.documents(text), "ConfigMap", name)["data"]["dynamicverse.scrape.yaml"]
    )
    jobs = {job["job_name"]: job["relabel_configs"] for job in config["scrape_configs"]}
    labels = {rule.get("target_label") for rule in jobs["dynamicverse-stages"]}
    assert {"namespace", "pod"} <= labels
