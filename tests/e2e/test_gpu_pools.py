"""GPU-requesting templates schedule where GPUs are, and pools hold to their semaphores."""

from __future__ import annotations

import time

import pytest
from conftest import POOLS
from harness import Kube, run, wait_for
from program import dynamicverse
from s3_server import S3

PODS = 3


@pytest.fixture(scope="module")
def gpu_node() -> str:
    """A node that advertises at least three GPUs, labelled as pool-a and (one of them) pool-b."""
    import json

    for node in json.loads(run("kubectl", "get", "nodes", "-o", "json"))["items"]:
        if int(node["status"]["allocatable"].get("nvidia.com/gpu", "0")) >= 3:
            return str(node["metadata"]["name"])
    pytest.skip("no node advertises nvidia.com/gpu: 3 or more")


@pytest.fixture(scope="module")
def planned(s3: S3, source: str) -> str:
    """A run of six shards, planned with the embedded preset; only its resources are GPU ones."""
    done = dynamicverse("plan", source, "--root", "s3://scenes/gpu", "--shard-scenes", "1")
    assert done.code == 0, done.err
    return done.out.strip()


@pytest.mark.parametrize("pool", ["pool-a", "pool-b"])
def test_a_pool_holds_to_its_semaphore(kube: Kube, gpu_node: str, planned: str, pool: str) -> None:
    run("kubectl", "label", "node", gpu_node, f"nvidia.com/gpu.product={pool}", "--overwrite")
    names = [
        kube.submit("stage-depth", run=planned, shard=shard, preset="gpu", gpu_type=pool)
        for shard in range(PODS)
    ]
    most, gpus = 0, set()
    end = time.monotonic() + 240
    while time.monotonic() < end:
        pods = kube.pods(f"workflows.argoproj.io/workflow in ({','.join(names)})")
        alive = [p for p in pods if p["status"]["phase"] in ("Pending", "Running")]
        most = max(most, len(alive))
        for pod in pods:
            (main,) = [c for c in pod["spec"]["containers"] if c["name"] == "main"]
            gpus.add(main["resources"]["limits"].get("nvidia.com/gpu"))
            assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": pool}
        phases = [kube.workflow(n).get("status", {}).get("phase") for n in names]
        if all(p == "Succeeded" for p in phases):
            break
        assert not {"Failed", "Error"} & {str(p) for p in phases}, phases
        time.sleep(0.5)
    else:
        pytest.fail(f"not finished: {phases}")
    assert most == int(POOLS[pool])
    assert gpus == {"1"}


def test_an_unknown_gpu_type_is_refused_by_name(kube: Kube, planned: str) -> None:
    name = kube.submit("stage-depth", run=planned, shard=0, preset="gpu", gpu_type="no-such-gpu")

    def message() -> str | None:
        status = kube.workflow(name).get("status", {})
        texts = [status.get("message", "")]
        texts += [n.get("message", "") for n in status.get("nodes", {}).values()]
        return next((t for t in texts if "no-such-gpu" in t), None)

    wait_for("a message that names the pool", message, 30)
