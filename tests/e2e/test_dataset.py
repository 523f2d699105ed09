"""A dataset of six scenes in three shards on a real cluster and a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from disturbed import stored_digests
from harness import Kube, Measured, Workflow, wait_for
from program import digests, dynamicverse
from s3_server import S3

from dynamicverse import stages

pytestmark = pytest.mark.timeout(1500)  # with the wait for calm
ROOT = "s3://scenes/run"
SHARD_SCENES = 2
SHARDS = 3
STAGE_PODS = SHARDS * len(stages.NAMES)


@pytest.fixture(scope="module")
def finished(kube: Kube, source: str, local: Path, measured: Measured) -> Workflow:
    """The dataset, processed. `local` is made while all wait for calm."""
    name = kube.submit(source=source, root=ROOT, dataset="clips", shard_scenes=SHARD_SCENES)
    done = kube.wait(name, 1500)
    assert done.phase == "Succeeded", done.explain()
    measured(
        f"dataset of 6 scenes in {SHARDS} shards: {done.seconds:.0f} s, {len(done.pods())} pods"
    )
    return done


@pytest.fixture(scope="session")
def local(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes, made on this machine without a cluster."""
    root = tmp_path_factory.mktemp("local")
    done = dynamicverse("run", str(clips), "--out", str(root))
    assert done.code == 0, done.err
    return root


def test_one_pod_a_stage_and_shard(finished: Workflow) -> None:
    assert len(finished.pods()) == STAGE_PODS + 2  # plan and finish
    for stage in stages.NAMES:
        assert len(finished.pods(f"stage-{stage}")) == SHARDS


def test_outputs_equal_a_local_run(finished: Workflow, local: Path, s3: S3) -> None:
    here, there = digests(local), stored_digests(s3, ROOT)
    assert set(here) == set(there)
    differing = sorted(path for path in here if here[path] != there[path])
    assert not differing, f"{len(differing)} of {len(here)}: {differing[:10]}"


def test_every_scene_is_valid(finished: Workflow, s3: S3) -> None:
    done = dynamicverse("validate", ROOT)
    assert done.code == 0, done.out + done.err
    assert done.out.startswith("6 scenes")


def test_status_and_summary_come_from_the_ledger(finished: Workflow, s3: S3) -> None:
    (status,) = dynamicverse("status", ROOT, "--json").json()
    assert status["complete"]
    assert status["scenes"] == 6
    assert {s["stage"]: s["done"] for s in status["stages"]} == dict.fromkeys(stages.NAMES, 6)
    summary = json.loads(s3.fs().cat_file(f"{ROOT}/.runs/{status['run']}/summary.json"))
    assert summary["phase"] == "Succeeded"
    assert summary["workflow"] == finished.object["metadata"]["name"]
    assert s3.fs().exists(f"{ROOT}/clips/index.html")


def test_labels_for_cost(finished: Workflow) -> None:
    labels = finished.object["metadata"]["labels"]
    assert labels["dynamicverse.io/dataset"] == "clips"
    assert labels["dynamicverse.io/preset"] == "embedded"


def test_progress_was_reported_by_the_pods(finished: Workflow) -> None:
    """Argo asks every few seconds: a pod that is over before keeps the controller's 1/1."""
    shown = {n["progress"] for stage in stages.NAMES for n in finished.pods(f"stage-{stage}")}
    assert "2/2" in shown
    assert shown <= {"1/1", "2/2"}


def test_the_workflow_object_is_small(finished: Workflow, measured: Measured) -> None:
    size = len(json.dumps(finished.object))
    measured(f"workflow object: {size / 1000:.0f} kB, {size / SHARDS / 1000:.1f} kB a shard")
    assert size < 200_000


def test_a_finished_dataset_costs_no_stage_pods(
    finished: Workflow, kube: Kube, source: str, measured: Measured
) -> None:
    name = kube.submit(source=source, root=ROOT, dataset="clips", shard_scenes=SHARD_SCENES)
    again = kube.wait(name, 120)
    assert again.phase == "Succeeded", again.explain()
    assert len(again.pods()) == 2
    measured(f"resubmission of a finished dataset: {again.seconds:.0f} s")
    assert again.seconds < 60


def test_waves_of_child_workflows(finished: Workflow, kube: Kube, source: str) -> None:
    """A changed setting of the last stages; more shards than one Workflow may hold."""
    name = kube.submit(
        source=source, root=ROOT, dataset="clips", shard_scenes=SHARD_SCENES,
        wave_shards=2, settings="{captions: {backend: geometric}}", stages="ingest,keyframes",
    )  # fmt: skip
    done = kube.wait(name, 600)
    assert done.phase == "Succeeded", done.explain()
    waves = kube.json("workflows", "-l", f"dynamicverse.io/parent={name}")["items"]
    assert sorted(w["metadata"]["name"] for w in waves) == [f"{name}-0", f"{name}-2"]
    assert [w["metadata"]["ownerReferences"][0]["name"] for w in waves] == [name, name]
    pods = [p for w in waves for p in Workflow(w).pods()]
    assert len(pods) == SHARDS * 2


def test_submit_command(finished: Workflow, kube: Kube, source: str) -> None:
    done = dynamicverse(
        "submit", source, "--root", ROOT, "--dataset", "clips", "--namespace", kube.namespace,
        "--shard-scenes", str(SHARD_SCENES), "--watch", "--json",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert [state["phase"] for state in done.json()] == ["Succeeded"]


def test_a_controller_in_strict_mode_refuses_other_workflows(kube: Kube) -> None:
    """The rest of this suite has then shown that the shipped templates need nothing more."""
    container = {"name": "main", "image": "any", "command": ["true"]}
    kube.apply({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "foreign"},
        "spec": {"entrypoint": "main", "templates": [{"name": "main", "container": container}]},
    })  # fmt: skip
    try:
        wait_for("a refusal", lambda: kube.workflow("foreign").get("status", {}).get("phase"), 30)
        foreign = kube.workflow("foreign")["status"]
        if foreign["phase"] != "Error":
            pytest.skip("this cluster's controller does not set templateReferencing: Strict")
        assert "must use workflowTemplateRef" in foreign["message"]
    finally:
        kube.kubectl("delete", "workflow", "foreign")
