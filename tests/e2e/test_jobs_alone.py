"""`kubectl create -f jobs/<stage>.yaml`, each stage by itself, without Argo."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from harness import ROOT, Kube, wait_for
from program import dynamicverse
from s3_server import S3

from dynamicverse import stages

pytestmark = pytest.mark.unshaken  # nothing here needs Argo or an answer in time


@pytest.fixture(scope="module")
def planned(kube: Kube, s3: S3, source: str) -> str:
    """A run of one scene, named in the ConfigMap that the Jobs read."""
    root = "s3://scenes/jobs"
    done = dynamicverse("plan", f"{source}/orbit.mp4", "--root", root)
    assert done.code == 0, done.err
    kube.kubectl(
        "create", "configmap", "dynamicverse-run", f"--from-literal=RUN={done.out.strip()}"
    )
    return root


def job(stage: str, prefix: str, tag: str) -> dict[str, Any]:
    """The Job as shipped, with this test's image and a size for small nodes."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "jobs" / f"{stage}.yaml").read_text())
    container = loaded["spec"]["template"]["spec"]["containers"][0]
    container["image"] = f"{prefix}/{stage}:{tag}"
    container["resources"]["requests"] = {"cpu": "50m", "memory": "64Mi"}
    container["resources"]["limits"].pop("nvidia.com/gpu", None)
    return loaded


def create(kube: Kube, text: str) -> str:
    """`kubectl create -f` a Job; its name."""
    return kube.kubectl("create", "-f", "-", "-o", "name", text=text).strip().rpartition("/")[2]


def test_every_stage_by_itself(
    kube: Kube, s3: S3, planned: str, request: pytest.FixtureRequest
) -> None:
    prefix, tag = (request.config.getoption(f"--image-{o}") for o in ("prefix", "tag"))
    for stage in stages.NAMES:
        text = yaml.safe_dump(job(stage, prefix, tag))
        name = create(kube, text)

        def ended(name: str = name) -> list[str]:
            conditions = kube.job(name)["status"].get("conditions", [])
            return [c["type"] for c in conditions if c["type"] in ("Complete", "Failed")]

        end = wait_for(f"job {name}", ended, 240)
        assert end == ["Complete"], (stage, kube.kubectl("logs", f"job/{name}"))
    valid = dynamicverse("validate", planned)
    assert valid.code == 0, valid.out
    assert valid.out.startswith("1 scenes, 9 stages")


def test_wrong_input_fails_the_job_at_once(
    kube: Kube, planned: str, request: pytest.FixtureRequest
) -> None:
    prefix, tag = (request.config.getoption(f"--image-{o}") for o in ("prefix", "tag"))
    broken = job("keyframes", prefix, tag)
    container = broken["spec"]["template"]["spec"]["containers"][0]
    container["args"][-1] = "7"  # the plan has one shard
    name = create(kube, yaml.safe_dump(broken))

    def failed() -> dict[str, Any] | None:
        status: dict[str, Any] = kube.job(name)["status"]
        return status if any(c["type"] == "Failed" for c in status.get("conditions", [])) else None

    status = wait_for(f"job {name} to fail", failed, 90)
    assert status["failed"] == 1
