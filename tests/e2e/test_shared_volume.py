"""The other way to store: folders on a volume that all pods mount, and no object store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import POOLS, new_namespace
from harness import Kube, install, run
from program import digests, dynamicverse


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that the pods see as /data."""
    parent: Path | None = request.config.getoption("--node-folder")
    if parent is None:
        pytest.skip("no --node-folder: a folder that this machine shares with the node")
    found = parent / "dynamicverse-shared-volume"
    found.mkdir(parents=True)
    found.chmod(0o777)
    yield found
    shutil.rmtree(found)


@pytest.fixture
def mounted(
    kube: Kube, folder: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Kube]:
    """A second namespace whose pods mount the folder. `kube`: the images are there."""
    found = new_namespace("dynamicverse-volume")
    size = {"storage": "1Gi"}
    access = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    name = found.namespace
    found.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {"capacity": size, **access, "hostPath": {"path": str(folder)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "dynamicverse-data"},
            "spec": {"resources": {"requests": size}, **access, "volumeName": name},
        },
    )
    prefix, tag = (request.config.getoption(f"--image-{o}") for o in ("prefix", "tag"))
    install(found, tmp_path, prefix, tag, POOLS, "shared-volume")
    yield found
    run("kubectl", "delete", "namespace", name, "--wait=false")
    run("kubectl", "delete", "persistentvolume", name, "--wait=false")


def test_a_dataset_on_a_shared_volume(
    mounted: Kube, folder: Path, clips: Path, tmp_path: Path
) -> None:
    clip = min(clips.iterdir())
    (folder / "clips").mkdir()
    shutil.copy(clip, folder / "clips")
    stages = "ingest,keyframes"
    name = mounted.submit(source="/data/clips", root="/data/scenes", stages=stages)
    done = mounted.wait(name, 400)
    assert done.phase == "Succeeded", done.explain()
    local = dynamicverse("run", str(clip), "--out", str(tmp_path / "local"), "--stages", stages)
    assert local.code == 0, local.err
    assert digests(folder / "scenes") == digests(tmp_path / "local")
    valid = dynamicverse("validate", str(folder / "scenes"))
    assert valid.code == 0, valid.out
