"""Bad inputs, killed pods, and parts of the cluster that go away."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from harness import Kube, Workflow, wait_for
from program import dynamicverse
from s3_server import S3
from test_dataset import stored_digests

SHARDS = 3
STAGES = ("ingest", "keyframes", "depth")  # enough to be disturbed; all of them: test_dataset.py


@pytest.fixture(scope="module")
def reference(
    s3: S3, source: str, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Path → digest of the outputs that every disturbed run must reach in the end."""
    from program import digests

    root = tmp_path_factory.mktemp("reference")
    done = dynamicverse("run", str(clips), "--out", str(root), "--stages", ",".join(STAGES))
    assert done.code == 0, done.err
    return digests(root)


class Disturbed:
    """A dataset of six scenes under way in three shards."""

    def __init__(self, kube: Kube, s3: S3, source: str, root: str, shard_scenes: int = 2) -> None:
        self.kube, self.s3, self.root = kube, s3, root
        self.name = kube.submit(
            source=source, root=root, shard_scenes=shard_scenes, stages=",".join(STAGES)
        )

    def running(self, stage: str) -> str:
        """Name of a pod of a stage whose main container runs."""
        labels = f"workflows.argoproj.io/workflow={self.name},app.kubernetes.io/component={stage}"

        def find() -> str | None:
            for pod in self.kube.pods(labels):
                for container in pod["status"].get("containerStatuses", []):
                    if container["name"] == "main" and "running" in container["state"]:
                        return str(pod["metadata"]["name"])
            return None

        found: str = wait_for(f"a running {stage} pod", find, 400, every=0.2)
        return found

    def phase(self) -> str:
        return str(self.kube.workflow(self.name)["status"]["phase"])

    def manifests(self, stage: str) -> dict[str, bytes]:
        """Path → content of what a stage has finished so far."""
        fs = self.s3.fs()
        return {
            p: fs.cat_file(p) for p in fs.glob(f"{self.root}/clips/*/.dynamicverse/{stage}.json")
        }

    def completes(self, reference: dict[str, str]) -> Workflow:
        """The Workflow when it has ended: all outputs there, nothing computed twice."""
        done = self.kube.wait(self.name, 900)
        assert done.phase == "Succeeded", done.explain()
        self.is_complete(reference)
        return done

    def is_complete(self, reference: dict[str, str]) -> None:
        assert stored_digests(self.s3, self.root) == reference
        ends = stage_ends(self.s3, self.root)
        assert {stage for stage, _ in ends} == set(STAGES)
        for scene, outcomes in ends.items():
            assert outcomes.count("done") <= 1, (scene, outcomes)


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    return f"s3://scenes/{re.sub('[^a-z]+', '-', request.node.name)}"


def stage_ends(s3: S3, root: str) -> dict[tuple[str, str], list[str]]:
    """(stage, scene) → its outcomes in the ledger, in order."""
    import json

    fs, found = s3.fs(), dict[tuple[str, str], list[str]]()
    for path in sorted(fs.glob(f"{root}/.runs/*/ledger/*/*.jsonl")):
        for line in fs.cat_file(path).splitlines():
            record = json.loads(line)
            found.setdefault((record["stage"], record["name"]), []).append(record["outcome"])
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
    name = kube.submit(source=f"s3://{folder}", root=root, shard_scenes=2, stages=",".join(STAGES))
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


@pytest.fixture
def disturbed(kube: Kube, s3: S3, source: str, root: str) -> Disturbed:
    return Disturbed(kube, s3, source, root)


COPIES = 3  # of every clip, so that a pod is busy for long enough to be caught at it


@pytest.mark.parametrize("how", ["killed", "preempted"])
def test_a_pod_that_goes_is_tried_again(
    kube: Kube, s3: S3, clips: Path, source: str, root: str, how: str
) -> None:
    """One pod for all scenes goes when it is done with some of them."""
    fs = s3.fs()
    for clip, copy in product(sorted(clips.iterdir()), range(COPIES)):
        fs.put_file(str(clip), f"clips/{how}/{clip.stem}-{copy}.mp4")
    disturbed = Disturbed(kube, s3, f"s3://clips/{how}", root, shard_scenes=100)
    wait_for("a scene past keyframes", lambda: disturbed.manifests("keyframes"), 400, every=0.2)
    pod = disturbed.running("keyframes")
    kill = ["--grace-period=0", "--force"] if how == "killed" else ["--wait=false"]
    kube.kubectl("delete", "pod", pod, *kill)
    finished = disturbed.manifests("keyframes")
    scenes = COPIES * len(list(clips.iterdir()))
    assert 0 < len(finished) < scenes, "not in the middle"
    done = kube.wait(disturbed.name, 900)
    assert done.phase == "Succeeded", done.explain()
    # a retry, or the same try in a new pod of the same name: both are Argo's ways. A second pod
    # has been here if it has found what the first one had finished
    ends = stage_ends(s3, root)
    scenes_finished = {path.split("/")[-3] for path in finished}
    assert all("cached" in ends["keyframes", scene] for scene in scenes_finished), ends
    now = disturbed.manifests("keyframes")
    assert {path: now[path] for path in finished} == finished, "computed twice"
    valid = dynamicverse("validate", root)
    assert valid.code == 0, valid.out
    assert valid.out.startswith(f"{scenes} scenes")


@pytest.fixture
def kubelet(stop_kubelet: list[str], start_kubelet: list[str]) -> Iterator[None]:
    """Ends with a kubelet that runs."""
    yield
    subprocess.run(start_kubelet, check=True)


@pytest.mark.usefixtures("kubelet")
def test_parts_of_the_cluster_go_away(
    disturbed: Disturbed,
    s3: S3,
    restart_controller: list[str],
    stop_kubelet: list[str],
    start_kubelet: list[str],
    reference: dict[str, str],
) -> None:
    """In one run: storage gone for 30 s, the kubelet for 60 s, the controller restarted."""
    disturbed.running("keyframes")
    with s3.away(30):
        assert disturbed.phase() == "Running"
    subprocess.run(stop_kubelet, check=True)
    time.sleep(60)
    assert disturbed.phase() == "Running"
    subprocess.run(start_kubelet, check=True)
    subprocess.run(restart_controller, check=True, timeout=120)
    disturbed.completes(reference)


def test_cancel_and_resume(kube: Kube, disturbed: Disturbed, reference: dict[str, str]) -> None:
    disturbed.running("keyframes")
    assert dynamicverse("cancel", disturbed.name, "--namespace", kube.namespace).code == 0
    assert kube.wait(disturbed.name, 200).phase == "Failed"
    done = dynamicverse(
        "resume", disturbed.name, "--namespace", kube.namespace, "--watch", "--json"
    )
    assert done.code == 0, done.out + done.err
    disturbed.is_complete(reference)
