"""Both charts on a real cluster: a real vLLM with random weights, a real Prometheus, one run.

The model of tests/tiny_qwen.py answers nonsense in the form that it is held to. What is shown is
that questions arrive and answers come back, are counted, watched, and waited for; nothing is said
of what they mean. DCGM's and kube-state-metrics' figures are written by hand.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from clips import encode
from dashboard_queries import Asked, answered, eventually, impatient, panels, variables
from discovery import annotated_pods, discovered, discovery
from harness import ROOT, Kube, Measured, Workflow, run, wait_for
from program import dynamicverse
from prometheus_server import Prometheus, configured, replayed
from releases import Release
from rendered import render
from s3_server import S3

pytestmark = [pytest.mark.timeout(1500), pytest.mark.unshaken]  # a server starts for a minute
OUT = "s3://scenes/charts"
CLAIM = "tiny-qwen"  # of the preset ci-cpu
API_KEY = "only-for-tests"
CPU = "400m"  # the weight of what all others here wait for
ASKING = ("analysis", "captions")
STAGES = "ingest,keyframes,analysis,segmentation,captions"
SIZE = (320, 192)
# the models of the preset gpu that no cluster without GPUs runs are replaced; the VLM's are not
SETTINGS = (
    "keyframes.flow_model=dis", "segmentation.backend=motion", "cluster.prices={any: 3.5}",
    "vlm.attempts=2", "vlm.pictures=2", "vlm.picture_side=112", "vlm.max_objects=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def vllm_image(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name and tag."""
    image: str | None = request.config.getoption("--vllm-image")
    if image is None:
        pytest.skip("no --vllm-image: the image of images/vllm-cpu")
    name, _, tag = image.rpartition(":")
    return name, tag


@pytest.fixture(scope="module", autouse=True)
def gpus(kube: Kube) -> None:
    """The run asks for GPUs, so that GPU seconds and dollars are counted."""
    nodes = json.loads(run("kubectl", "get", "nodes", "-o", "json"))["items"]
    if not any(int(n["status"]["allocatable"].get("nvidia.com/gpu", "0")) for n in nodes):
        pytest.skip("no node advertises nvidia.com/gpu")


@pytest.fixture(scope="module")
def claim(kube: Kube, vllm_image: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[str]:
    """A claim with the model, which a Job makes with vLLM's image."""
    parent: Path | None = request.config.getoption("--node-folder")
    if parent is None:
        pytest.skip("no --node-folder: a folder that this machine shares with the node")
    name = f"{kube.namespace}-charts"
    folder = parent / name
    folder.mkdir()
    folder.chmod(0o777)
    size = {"storage": "1Gi"}
    access = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {"capacity": size, **access, "hostPath": {"path": str(folder), "type": "Directory"}}
    wanted = {"resources": {"requests": size}, **access, "volumeName": name}
    kube.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
         "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM},
         "spec": wanted},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "model-maker"},
         "data": {"make.py": (ROOT / "tests" / "tiny_qwen.py").read_text()}},
        model_maker(":".join(vllm_image)),
    )  # fmt: skip
    wait_for("the model", lambda: kube.job("model-maker")["status"].get("succeeded"), 400)
    yield CLAIM
    run("kubectl", "delete", "persistentvolume", name, "--wait=false")
    shutil.rmtree(folder)


def model_maker(image: str) -> dict[str, Any]:
    """A Job that writes the model to the claim."""
    container = {
        "name": "make",
        "image": image,
        "command": ["python3", "/maker/make.py", "/weights/tiny-qwen2.5-vl"],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": CPU}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "weights", "mountPath": "/weights"},
            {"name": "maker", "mountPath": "/maker"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "weights", "persistentVolumeClaim": {"claimName": CLAIM}},
            {"name": "maker", "configMap": {"name": "model-maker"}},
        ],
    }  # fmt: skip
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "model-maker"},
            "spec": spec}  # fmt: skip


@pytest.fixture(scope="module")
def vlm(kube: Kube) -> Release:
    return Release(kube, "qwen", "vllm-qwen")


@pytest.fixture(scope="module")
def monitoring(kube: Kube) -> Release:
    return Release(kube, "watch", "dynamicverse-monitoring")


@pytest.fixture(scope="module")
def notes(
    kube: Kube, vlm: Release, claim: str, vllm_image: tuple[str, str], measured: Measured
) -> str:
    """The VLM server is installed and Ready; what helm said."""
    start = time.monotonic()
    said = vlm.install(
        {
            "image.repository": vllm_image[0],
            "image.tag": vllm_image[1],
            "apiKeySecret.value": API_KEY,
            "scrapeAnnotations.enabled": "true",
            "networkPolicy.enabled": "true",
            "pdb.enabled": "true",
            "engine.maxModelLen": "16384",  # a token is a byte here
            "startup.periodSeconds": "2",
            "resources.requests.cpu": CPU,
        },
        ROOT / "helm" / "vllm-qwen" / "presets" / "values-ci-cpu.yaml",
    )
    measured(f"vLLM ready after {time.monotonic() - start:.0f} s")
    kube.kubectl(
        "create", "secret", "generic", "dynamicverse-vlm", f"--from-literal=VLM_API_KEY={API_KEY}"
    )
    return said


@pytest.fixture(scope="module")
def server(
    kube: Kube, s3: S3, monitoring: Release, notes: str,
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:  # fmt: skip
    """The monitoring is installed, and a Prometheus uses its rules and scrape jobs.

    `s3`: the Secret with the storage's credentials is there.
    """
    prefix, tag = (request.config.getoption(f"--image-{o}") for o in ("prefix", "tag"))
    monitoring.install(
        {
            "exporter.root": OUT,
            "exporter.interval": "1",
            "exporter.image.repository": f"{prefix}/control",
            "exporter.image.tag": tag,
            "exporter.resources.requests.cpu": "20m",
            "operator.enabled": "false",
            "operator.interval": "1s",
        }
    )
    by_hand = (ROOT / "tests" / "expositions" / "cluster.txt").read_text()
    by_hand = by_hand.replace('"vision"', f'"{kube.namespace}"')
    shipped = kube.json("configmap", "watch-dynamicverse-monitoring-prometheus")["data"]
    jobs = yaml.safe_load(shipped["dynamicverse.scrape.yaml"])["scrape_configs"]
    rules = impatient(yaml.safe_load(shipped["dynamicverse.rules.yaml"]))
    with replayed(by_hand) as port, discovery(kube.namespace) as url:
        static = [{"targets": [f"127.0.0.1:{port}"]}]
        config = [discovered(job, url) for job in (*jobs, annotated_pods())]
        config.append({"job_name": "by-hand", "static_configs": static})
        with configured(tmp_path_factory.mktemp("prometheus"), rules, config) as found:
            yield found


@dataclass
class Waited:
    """A run during which the VLM went and came back."""

    began: float
    fired: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    while_away: dict[str, Any] = field(default_factory=dict)
    done: Workflow | None = None


@pytest.fixture(scope="module")
def clips_folder(s3: S3, source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One clip and one file that is no video, on S3. `source`: the buckets are there."""
    folder = tmp_path_factory.mktemp("charts")
    encode(folder / "orbit.mp4", render(12, SIZE, "orbit", 1, 1).rgb)
    (folder / "broken.mp4").write_bytes(b"not a video")
    for path in folder.iterdir():
        s3.fs().put_file(str(path), f"clips/charts/{path.name}")
    return "s3://clips/charts"


@pytest.fixture(scope="module")
def waited(
    kube: Kube, vlm: Release, notes: str, server: Prometheus, clips_folder: str, measured: Measured
) -> Waited:
    """Submit with the URL of the notes; scale the server to zero; when the run has seen it and
    the alert has fired, upgrade the release, which brings it back; wait for the end."""
    eventually(lambda: bool(server.query("vllm:num_requests_running")), 60, "figures of vLLM")
    url, model = re.findall(r"--vlm-url (\S+) --vlm-model (\S+)", notes)[0]
    found = Waited(time.time())
    options = [o for setting in SETTINGS for o in ("--set", setting)]
    done = dynamicverse(
        "submit", clips_folder, "--root", OUT, "--preset", "gpu", "--vlm-url", url,
        "--vlm-model", model, "--stages", STAGES, "--namespace", kube.namespace, "--json", *options,
    )  # fmt: skip
    assert done.code == 0, done.err
    (name,) = (one["name"] for one in done.json())
    unfinished = 'dynamicverse_run_complete{dataset="clips"} == 0'
    eventually(lambda: bool(server.query(unfinished)), 240, "the run in the exporter's figures")
    found.quiet = server.firing()
    kube.kubectl("scale", "deployment/qwen-vllm-qwen", "--replicas=0")
    eventually(lambda: "DynamicVerseVlmDown" in server.firing(), 240, "the alert")
    found.fired = server.firing()
    wait_for("an analysis that found no server", lambda: exits(kube, name, "analysis"), 300)
    found.while_away = {"phase": kube.workflow(name)["status"]["phase"],
                        "exits": exits(kube, name, "analysis"),
                        "seconds": time.time() - found.began}  # fmt: skip
    vlm.upgrade({"replicas": "1", "engine.maxNumSeqs": "2"})
    measured(f"VLM server back after {time.time() - found.began:.0f} s")
    found.done = kube.wait(name, 600)
    measured(f"run that waited for the VLM server: {found.done.seconds:.0f} s")
    return found


def exits(kube: Kube, name: str, stage: str) -> list[str]:
    """The exit codes of a stage's pods that have ended."""
    pods = Workflow(kube.workflow(name)).pods(f"stage-{stage}")
    return [p["outputs"]["exitCode"] for p in pods if "exitCode" in p.get("outputs", {})]


def spoken(s3: S3) -> dict[str, dict[str, Any]]:
    """Stage → what its manifest says of the VLM."""
    fs, found = s3.fs(), {}
    for stage in ASKING:
        (path,) = fs.glob(f"{OUT}/clips/orbit/.dynamicverse/{stage}.json")
        found[stage] = json.loads(fs.cat_file(path))["facts"]["vlm"]
    return found


def test_the_server_is_ready_and_passes_its_own_test(vlm: Release, notes: str) -> None:
    said = vlm.test()
    assert "Phase:          Succeeded" in said


def test_prometheus_finds_exporter_and_vllm(server: Prometheus, notes: str) -> None:
    wanted = {"dynamicverse-exporter": "up", "annotated-pods": "up", "by-hand": "up"}
    eventually(lambda: wanted.items() <= server.targets().items(), 60, str(wanted))
    for group in server.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule


def test_the_alert_fires_and_the_run_waits(waited: Waited) -> None:
    assert "DynamicVerseVlmDown" not in waited.quiet
    assert "DynamicVerseVlmDown" in waited.fired
    assert waited.while_away["phase"] == "Running"
    assert set(waited.while_away["exits"]) == {"75"}


def test_the_run_completes_when_the_server_is_back(
    kube: Kube, waited: Waited, server: Prometheus
) -> None:
    assert waited.done is not None
    assert waited.done.phase == "Succeeded", waited.done.explain()
    (status,) = dynamicverse("status", OUT, "--json").json()
    assert status["complete"]
    ends = {s["stage"]: (s["done"], s["quarantined"]) for s in status["stages"]}
    assert ends.pop("ingest") == (1, 1)  # the file that is no video
    assert set(ends.values()) == {(1, 0)}, ends
    args = kube.json("deployment", "qwen-vllm-qwen")["spec"]["template"]["spec"]["containers"][0]
    assert "--max-num-seqs=2" in args["args"]
    eventually(lambda: "DynamicVerseVlmDown" not in server.firing(), what="an end of the alert")


def test_every_question_was_answered_and_counted(
    waited: Waited, s3: S3, server: Prometheus
) -> None:
    """The manifests and vLLM count the same: one pod has answered all questions of the run."""
    said = spoken(s3)
    for stage, facts in said.items():
        assert facts["model"] == "tiny-qwen2.5-vl"
        assert facts["requests"] >= 1, stage
        assert facts["prompt_tokens"] > 0
        assert facts["completion_tokens"] > 0
    counters = {"prompt_tokens": "vllm:prompt_tokens_total",
                "completion_tokens": "vllm:generation_tokens_total",
                "requests": "vllm:request_success_total"}  # fmt: skip
    for fact, counter in counters.items():
        total = sum(facts[fact] for facts in said.values())
        counted = server.query(f"sum({counter})")
        assert counted[0][1] == total, (fact, said)


def test_every_dashboard_query_has_data(waited: Waited, server: Prometheus) -> None:
    def ask(asked: Asked) -> object:
        if asked.instant:
            return server.query(asked.expr)
        return server.drawn(asked.expr, waited.began)

    answered(panels(rate_interval="10m"), ask)
    for name, label, expr in variables():
        found = server.query(expr)
        assert found, name
        assert all(labels[label] for labels, _ in found)


def test_stage_pods_were_scraped(waited: Waited, server: Prometheus) -> None:
    """Those that live for more than a few seconds: Prometheus takes in new targets every 5 s."""
    seen = server.query(
        "count by (stage, dataset, pod) "
        "(last_over_time(dynamicverse_pod_scene_progress_ratio[30m]))"
    )
    assert "analysis" in {labels["stage"] for labels, _ in seen}
    assert {labels["dataset"] for labels, _ in seen} == {"clips"}
    assert waited.done is not None
    name = waited.done.object["metadata"]["name"]
    assert all(labels["pod"].startswith(name) for labels, _ in seen)


def test_the_monitoring_is_upgraded(waited: Waited, kube: Kube, monitoring: Release) -> None:
    monitoring.upgrade({"exporter.maxRuns": "7", "rules.thresholds.vlmWaiting": "9"})
    name = "watch-dynamicverse-monitoring"
    deployment = kube.json("deployment", f"{name}-exporter")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert "--max-runs=7" in container["args"]
    assert deployment["status"]["readyReplicas"] == 1
    rules = kube.json("configmap", f"{name}-prometheus")["data"]["dynamicverse.rules.yaml"]
    assert "(vllm:num_requests_waiting) > 9" in rules


def test_nothing_is_left_behind(waited: Waited, vlm: Release, monitoring: Release) -> None:
    """The last test of this file."""
    for release in (vlm, monitoring):
        assert len(release.objects()) >= 4
        assert len(release.revisions()) == 2  # installed, upgraded
        release.uninstall()
    for release in (vlm, monitoring):
        wait_for(f"an end of {release.name}", lambda r=release: not r.objects(), 60)
        assert release.revisions() == []
