"""Bad inputs, killed pods, and parts of the cluster that go away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import S3, Kube, wait_for
from program import dynamicverse
from test_dataset import stored_digests

from dynamicverse import stages

SHARDS = 3


@pytest.fixture(scope="module")
def reference(
    s3: S3, source: str, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Path → digest of the outputs that every disturbed run must reach in the end."""
    from program import digests

    root = tmp_path_factory.mktemp("reference")
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    assert dynamicverse("run", str(clips), "--out", str(root), env=threads).code == 0
    return digests(root)


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    return f"s3://scenes/{request.node.name.replace('_', '-')}"


def stage_ends(s3: S3, root: str) -> dict[tuple[str, str], list[str]]:
    """(stage, scene) → its outcomes in the ledger, in order."""
    import json

    fs, found = s3.fs(), dict[tuple[str, str], list[str]]()
    for path in sorted(fs.glob(f"{root}/.runs/*/ledger/*/*.jsonl")):
        for line in fs.cat_file(path).splitlines():
            record = json.loads(line)
            found.setdefault((record["stage"], record["name"]), []).append(record["outcome"])
    return found


def assert_nothing_twice(s3: S3, root: str) -> None:
    for scene, outcomes in stage_ends(s3, root).items():
        assert outcomes.count("done") <= 1, (scene, outcomes)


def running_pod(kube: Kube, workflow: str, stage: str) -> dict[str, Any]:
    """A pod of a stage whose main container runs."""

    def find() -> dict[str, Any] | None:
        selector = f"workflows.argoproj.io/workflow={workflow},app.kubernetes.io/component={stage}"
        for pod in kube.pods(selector):
            for container in pod["status"].get("containerStatuses", []):
                if container["name"] == "main" and "running" in container["state"]:
                    return pod
        return None

    found: dict[str, Any] = wait_for(f"a running {stage} pod", find, 400, every=0.2)
    return found


def test_wrong_configuration_ends_at_once_with_one_clear_line(
    kube: Kube, source: str, root: str
) -> None:
    name = kube.submit(source=source, root=root, settings="{trakcs: {grid_size: 30}}")
    done = kube.wait(name, 90)
    assert done.phase == "Failed"
    (plan,) = done.pods("plan")  # one try
    assert "exit code 65" in plan["message"]
    assert "unknown key 'trakcs'; did you mean 'tracks'?" in plan["message"]
    assert "Traceback" not in plan["message"]
    shown = subprocess.run(
        ["argo", "get", "-n", kube.namespace, name], capture_output=True, text=True, check=True
    ).stdout
    assert "did you mean 'tracks'?" in shown
    print(f"\nwrong configuration: {done.seconds:.0f} s, {len(done.pods())} pods")


def test_poison_scene_is_quarantined_and_replayed(
    kube: Kube, s3: S3, source: str, root: str, clips: Path
) -> None:
    fs = s3.fs()
    folder = "clips/poison"
    for path in sorted(clips.iterdir())[:3]:
        fs.put_file(str(path), f"{folder}/{path.name}")
    good = sorted(clips.iterdir())[3]
    fs.pipe_file(f"{folder}/{good.name}", b"this is not a video" * 1000)
    name = kube.submit(source=f"s3://{folder}", root=root, shard_scenes=2)
    done = kube.wait(name, 900)
    assert done.phase == "Succeeded", done.explain()
    (record,) = dynamicverse("quarantine", "list", root, "--json").json()
    assert (record["name"], record["stage"]) == (good.stem, "ingest")
    assert record["reason"] in ("not_video", "unsupported", "truncated")

    fs.put_file(str(good), f"{folder}/{good.name}")  # the fix
    replayed = dynamicverse(
        "quarantine", "replay", root, "--namespace", kube.namespace, "--watch", "--json"
    )
    assert replayed.code == 0, replayed.out + replayed.err
    assert dynamicverse("quarantine", "list", root, "--json").json() == []
    valid = dynamicverse("validate", root)
    assert valid.code == 0, valid.out
    assert valid.out.startswith("4 scenes")


def test_killed_pod_is_tried_again(
    kube: Kube, s3: S3, source: str, root: str, reference: dict[str, str]
) -> None:
    name = kube.submit(source=source, root=root, shard_scenes=2)
    pod = running_pod(kube, name, "reconstruction")
    kube.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    done = kube.wait(name, 1500)
    assert done.phase == "Succeeded", done.explain()
    assert len(done.pods("stage-reconstruction")) > SHARDS
    assert stored_digests(s3, root) == reference
    assert_nothing_twice(s3, root)


def test_preempted_pod_goes_on_where_it_was(
    kube: Kube, s3: S3, source: str, root: str, reference: dict[str, str]
) -> None:
    name = kube.submit(source=source, root=root, shard_scenes=6)
    pod = running_pod(kube, name, "keyframes")
    kube.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    done = kube.wait(name, 1500)
    assert done.phase == "Succeeded", done.explain()
    assert len(done.pods("stage-keyframes")) == 2
    assert stored_digests(s3, root) == reference
    assert_nothing_twice(s3, root)


def test_controller_restart(
    kube: Kube,
    s3: S3,
    source: str,
    root: str,
    restart_controller: list[str],
    reference: dict[str, str],
) -> None:
    name = kube.submit(source=source, root=root, shard_scenes=2)
    running_pod(kube, name, "keyframes")
    subprocess.run(restart_controller, check=True, timeout=120)
    done = kube.wait(name, 1500)
    assert done.phase == "Succeeded", done.explain()
    assert stored_digests(s3, root) == reference
    assert_nothing_twice(s3, root)


def test_storage_away_for_half_a_minute(
    kube: Kube, s3: S3, source: str, root: str, reference: dict[str, str]
) -> None:
    name = kube.submit(source=source, root=root, shard_scenes=2)
    running_pod(kube, name, "keyframes")
    with s3.away(30):
        pass
    done = kube.wait(name, 1500)
    assert done.phase == "Succeeded", done.explain()
    assert stored_digests(s3, root) == reference
    assert_nothing_twice(s3, root)


@pytest.fixture
def kubelet(stop_kubelet: list[str], start_kubelet: list[str]) -> Iterator[None]:
    """Ends with a kubelet that runs."""
    yield
    subprocess.run(start_kubelet, check=True)


@pytest.mark.usefixtures("kubelet")
def test_kubelet_stopped_for_a_minute(
    kube: Kube,
    s3: S3,
    source: str,
    root: str,
    stop_kubelet: list[str],
    start_kubelet: list[str],
    reference: dict[str, str],
) -> None:
    name = kube.submit(source=source, root=root, shard_scenes=2)
    running_pod(kube, name, "keyframes")
    subprocess.run(stop_kubelet, check=True)
    time.sleep(60)
    subprocess.run(start_kubelet, check=True)
    done = kube.wait(name, 1500)
    assert done.phase == "Succeeded", done.explain()
    assert stored_digests(s3, root) == reference
    assert_nothing_twice(s3, root)


def test_cancel_and_resume(
    kube: Kube, s3: S3, source: str, root: str, reference: dict[str, str]
) -> None:
    name = kube.submit(source=source, root=root, shard_scenes=2)
    running_pod(kube, name, "keyframes")
    assert dynamicverse("cancel", name, "--namespace", kube.namespace).code == 0
    assert kube.wait(name, 200).phase == "Failed"
    done = dynamicverse("resume", name, "--namespace", kube.namespace, "--watch", "--json")
    assert done.code == 0, done.out + done.err
    assert stored_digests(s3, root) == reference
    assert_nothing_twice(s3, root)
    assert {stage for stage, _ in stage_ends(s3, root)} == set(stages.NAMES)
