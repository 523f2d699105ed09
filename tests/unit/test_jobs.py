"""The plain Jobs: valid for the API server, locked down, and alike where they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dynamicverse import __version__, stages

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.34"
VLM_STAGES = {"analysis", "captions"}
GPU_STAGES = {"keyframes", "segmentation", "tracks", "depth", "reconstruction", "captions"}


def job(stage: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "jobs" / f"{stage}.yaml").read_text())
    return loaded


def pod(stage: str) -> dict[str, Any]:
    spec: dict[str, Any] = job(stage)["spec"]["template"]["spec"]
    return spec


def test_there_is_one_job_a_stage() -> None:
    assert {p.stem for p in (ROOT / "jobs").glob("*.yaml")} == set(stages.NAMES)


@pytest.mark.parametrize("stage", stages.NAMES)
def test_job_is_valid(stage: str) -> None:
    kubernetes_validate.validate(job(stage), KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backoffLimitPerIndexx"), 1),
        (("spec", "template", "spec", "restartpolicy"), "Never"),
        (("spec", "completions"), "one"),
    ],
)
def test_validation_catches_mistakes(path: tuple[str, ...], value: object) -> None:
    broken = job("ingest")
    target = broken
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.parametrize("stage", stages.NAMES)
def test_job_works_on_the_shard_of_its_index(stage: str) -> None:
    spec = job(stage)["spec"]
    assert spec["completionMode"] == "Indexed"
    container = pod(stage)["containers"][0]
    assert container["args"] == [
        "stage", stage, "--run", "$(RUN)", "--shard", "$(JOB_COMPLETION_INDEX)"
    ]  # fmt: skip
    assert container["image"] == f"dynamicverse/{stage}:{__version__}"


@pytest.mark.parametrize("stage", stages.NAMES)
def test_job_meets_pod_security_restricted(stage: str) -> None:
    spec = pod(stage)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    allowed = {"emptyDir", "persistentVolumeClaim"}
    assert all(set(v) - {"name"} <= allowed for v in spec["volumes"])
    assert all(v["emptyDir"]["sizeLimit"] for v in spec["volumes"])


@pytest.mark.parametrize("stage", stages.NAMES)
def test_exit_65_is_final_and_preemption_is_free(stage: str) -> None:
    final, preempted = job(stage)["spec"]["podFailurePolicy"]["rules"]
    assert final["action"] == "FailIndex"
    assert final["onExitCodes"] == {"containerName": "main", "operator": "In", "values": [65]}
    assert preempted["action"] == "Ignore"
    assert preempted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


@pytest.mark.parametrize("stage", stages.NAMES)
def test_gpu_stages_ask_for_a_gpu(stage: str) -> None:
    limits = pod(stage)["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == ("1" if stage in GPU_STAGES else None)
    assert ("tolerations" in pod(stage)) == (stage in GPU_STAGES)


def test_jobs_differ_only_in_image_arguments_and_size() -> None:
    """What is common is written nine times; this holds the copies together."""
    texts = set()
    for stage in stages.NAMES:
        one = job(stage)
        spec = one["spec"]["template"]["spec"]
        spec.pop("tolerations", None)
        spec["volumes"] = [v["name"] for v in spec["volumes"] if v["name"] != "weights"]
        container = spec["containers"][0]
        container.pop("resources")
        container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] != "weights"]
        vlm = {"secretRef": {"name": "dynamicverse-vlm", "optional": True}}
        assert (vlm in container["envFrom"]) == (stage in VLM_STAGES)
        container["envFrom"] = [source for source in container["envFrom"] if source != vlm]
        texts.add(yaml.safe_dump(one).replace(stage, "STAGE"))
    assert len(texts) == 1


def test_the_job_that_fills_the_weights_claim() -> None:
    folder = ROOT / "argo" / "components" / "weights-cache"
    loaded = yaml.safe_load((folder / "pull-weights.yaml").read_text())
    kubernetes_validate.validate(loaded, KUBERNETES, strict=True)
    spec, other = loaded["spec"]["template"]["spec"], pod("depth")
    main, depth = spec["containers"][0], other["containers"][0]
    assert main["image"] == depth["image"]
    assert spec["securityContext"] == other["securityContext"]
    assert main["securityContext"] == depth["securityContext"]
    assert main["args"] == ["weights", "pull", "--preset", "gpu", "--to", "/weights"]
    claim = spec["volumes"][1]["persistentVolumeClaim"]["claimName"]
    assert f"claimName: {claim}" in (folder / "kustomization.yaml").read_text()
    assert main["volumeMounts"][1]["mountPath"] == "/weights"  # HF_HOME of the images
