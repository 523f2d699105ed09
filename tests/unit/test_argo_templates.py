"""argo/: generated from jobs/, accepted by `argo lint`, and broken variants are caught."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicverse import stages
from dynamicverse.cluster import render

ROOT = Path(__file__).parents[2]
ARGO = ROOT / "argo"
HAND_WRITTEN = ("dataset", "wave", "scene-pipeline")
BUILT = Path.home() / ".cache" / "dynamicverse-cluster" / "tools"


def tool(name: str, built: str) -> str:
    """A program on the PATH, named by an environment variable, or built beside the cluster."""
    found = os.environ.get(name.upper()) or shutil.which(name)
    if found is None and (BUILT / built).is_file():
        found = str(BUILT / built)
    if found is None:
        pytest.skip(f"no `{name}` program (set {name.upper()} or put it on the PATH)")
    return found


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ARGO / f"{name}.yaml").read_text())
    return found


def all_templates() -> list[dict[str, Any]]:
    return [load(n) for n in (*HAND_WRITTEN, *(f"stages/{s}" for s in stages.NAMES))]


def template_files(folder: Path) -> list[Path]:
    files = [folder / f"{name}.yaml" for name in HAND_WRITTEN]
    return [*files, *sorted((folder / "stages").glob("*.yaml"))]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("argo", "argo/argo"), "lint", "--offline", *map(str, template_files(folder))]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ARGO, tmp_path / "argo"))


def test_generated_files_are_what_the_jobs_say() -> None:
    for stage, text in render.render(ROOT / "jobs").items():
        assert load(f"stages/{stage}") == yaml.safe_load(text), "run `make generate`"


def test_drift_is_noticed(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "jobs", copy.parent / "jobs")
    monkeypatch.chdir(copy.parent)
    assert render.main(["--check"]) == 0
    path = copy / "stages" / "tracks.yaml"
    path.write_text(path.read_text().replace("readOnlyRootFilesystem: true", "privileged: true"))
    assert render.main(["--check"]) == 1
    assert "tracks.yaml" in capsys.readouterr().err


def test_lint_is_clean() -> None:
    done = lint(ARGO)
    assert done.returncode == 0, done.stdout + done.stderr


def _edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return edit


BROKEN: dict[str, Callable[[Path], None]] = {
    "misspelt field": _edit("dataset.yaml", "podGC:", "podGc2:"),
    "removed in 4.0": _edit("stages/tracks.yaml", "semaphores:\n      - configMapKeyRef:",
                            "semaphore:\n        configMapKeyRef:"),
    "no such template": _edit("scene-pipeline.yaml", "name: stage-depth,", "name: stage-dept,"),
    "no such template inside": _edit("wave.yaml", "template: shard", "template: shards"),
    "no such dependency": _edit("scene-pipeline.yaml", "depends: tracks && depth",
                                "depends: tracks && deep"),
    "no such parameter": _edit("dataset.yaml", "{{workflow.parameters.root}}",
                               "{{workflow.parameters.roots}}"),
    "no such output": _edit("dataset.yaml", "outputs.parameters.waves}}",
                            "outputs.parameters.wave}}"),
    "undeclared input": _edit("stages/report.yaml", "{{inputs.parameters.shard}}",
                              "{{inputs.parameters.index}}"),
    "missing argument": _edit("dataset.yaml", '- {name: shard, value: "{{item}}"}', ""),
    "no such exit handler": _edit("dataset.yaml", "onExit: finish", "onExit: finished"),
}  # fmt: skip


def undeclared(folder: Path) -> set[str]:
    """Workflow parameters that a template refers to and does not declare: lint lets them pass."""
    found = set()
    for path in template_files(folder):
        text = path.read_text()
        spec = yaml.safe_load(text)["spec"]
        declared = {p["name"] for p in spec["arguments"]["parameters"]}
        used = re.findall(r"workflow\.parameters(?:\.([\w-]+)|\['+([\w-]+)'+\])", text)
        found |= {a or b for a, b in used} - declared
    return found


def test_every_workflow_parameter_is_declared() -> None:
    assert undeclared(ARGO) == set()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_variant_is_caught(name: str, copy: Path) -> None:
    BROKEN[name](copy)
    assert lint(copy).returncode != 0 or undeclared(copy)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def test_nothing_that_argo_4_removed() -> None:
    removed = {"schedule", "mutex", "semaphore", "podPriority"}
    for template in all_templates():
        assert not removed & set(_keys(template))


def test_parameters_of_stages_are_declared_by_every_caller() -> None:
    for name in HAND_WRITTEN:
        declared = {p["name"] for p in load(name)["spec"]["arguments"]["parameters"]}
        assert set(render.PARAMETERS) <= declared, name


def test_defaults_agree() -> None:
    for name in HAND_WRITTEN:
        for parameter in load(name)["spec"]["arguments"]["parameters"]:
            if parameter["name"] in render.PARAMETERS:
                assert parameter["value"] == render.PARAMETERS[parameter["name"]]


def test_every_stage_is_in_the_pipeline_after_the_stages_it_reads() -> None:
    from dynamicverse.scene import ARTIFACTS

    tasks = {t["name"]: t for t in load("scene-pipeline")["spec"]["templates"][0]["dag"]["tasks"]}
    assert set(tasks) == set(stages.NAMES)

    def before(name: str) -> set[str]:
        direct = set(re.findall(r"[a-z]+", tasks[name].get("depends", "")))
        return direct.union(*(before(d) for d in direct))

    for name in stages.NAMES[1:]:
        stage = stages.get(name)
        needed = {ARTIFACTS[a].stage for a in (*stage.reads, *stage.optional)}
        assert needed <= before(name), name


def test_every_container_names_its_command_and_meets_restricted() -> None:
    for workflow in all_templates():
        for template in workflow["spec"]["templates"]:
            container = template.get("container")
            if container is None:
                continue
            assert container["command"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert template["securityContext"]["runAsNonRoot"] is True
            assert template["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            assert template["retryStrategy"]["limit"]
            # the token of the Kubernetes API is not in the container that reads strangers' files
            assert template["automountServiceAccountToken"] is False
            assert template["executor"] == {"serviceAccountName": "dynamicverse-executor"}


@pytest.mark.parametrize(
    ("status", "code", "retries", "again"),
    [
        ("Failed", "75", "0", True),
        ("Failed", "143", "3", True),
        ("Failed", "137", "0", True),
        ("Failed", "137", "6", False),
        ("Failed", "139", "2", True),
        ("Failed", "65", "0", False),
        ("Failed", "1", "0", False),
        ("Failed", "64", "0", False),
        ("Error", "65", "0", True),
        ("Failed", "-1", "0", True),
    ],
)
def test_retry_by_exit_code(status: str, code: str, retries: str, again: bool) -> None:
    """The expression, read as Python; the e2e tests see the controller decide the same."""
    expression = str(render.RETRY["expression"])
    python = expression.replace("||", "or").replace("&&", "and").replace("asInt", "int")
    python = python.replace("lastRetry.status", "status").replace("lastRetry.exitCode", "code")
    assert eval(python, {"status": status, "code": code, "retries": retries}) is again


def test_the_dataset_retries_like_its_stages() -> None:
    for template in load("dataset")["spec"]["templates"]:
        if "container" in template:
            expression = " ".join(template["retryStrategy"]["expression"].split())
            assert expression == render.RETRY["expression"]
            assert template["retryStrategy"]["limit"] == render.RETRY["limit"]


def test_roles_are_minimal() -> None:
    roles = {
        r["metadata"]["name"]: r["rules"]
        for r in yaml.safe_load_all((ARGO / "rbac.yaml").read_text())
        if r["kind"] == "Role"
    }
    assert roles["dynamicverse-executor"] == [
        {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"],
         "verbs": ["create", "patch"]}
    ]  # fmt: skip
    assert "*" not in {v for rules in roles.values() for rule in rules for v in rule["verbs"]}


def test_kustomization_holds_everything_and_sets_images(tmp_path: Path) -> None:
    shutil.copytree(ARGO, tmp_path / "argo")
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [argo]\n"
        "components: [argo/components/shared-volume, argo/components/weights-cache]\n"
        "images:\n- {name: dynamicverse/depth, newName: mirror/depth, newTag: test}\n"
    )
    command = [tool("kubectl", "k8s/kubectl"), "kustomize", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    made = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(done.stdout)}
    names = {f"stage-{s}" for s in stages.NAMES} | set(HAND_WRITTEN)
    assert {n for k, n in made if k == "WorkflowTemplate"} == names
    depth = made["WorkflowTemplate", "stage-depth"]["spec"]["templates"][0]
    assert depth["container"]["image"] == "mirror/depth:test"
    assert {"name": "data", "mountPath": "/data"} in depth["container"]["volumeMounts"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in depth["volumes"] if len(v) == 2
              and "persistentVolumeClaim" in v}  # fmt: skip
    assert claims == {"dynamicverse-data", "dynamicverse-weights"}
