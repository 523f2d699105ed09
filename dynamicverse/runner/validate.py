"""Check a whole output tree: every file that a manifest lists, against its digest and format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from dynamicverse import formats, stages
from dynamicverse.errors import ArtifactError
from dynamicverse.runner import records
from dynamicverse.runner.store import Store, Workspace, sha256
from dynamicverse.scene import Scene, sanitise


@dataclass(frozen=True)
class Finding:
    """What is known of one stage of one scene. problem is empty where all is well."""

    dataset: str
    scene: str
    stage: str
    files: int
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def scenes(store: Store, workspace: Workspace) -> Iterator[Scene]:
    """All scenes of a root that at least one stage has finished."""
    for dataset in records.datasets(store):
        for name in store.folders(dataset):
            if name == sanitise(name):
                scene = Scene(workspace.root, dataset, name)
                if any(records.manifest(workspace, scene, stage) for stage in stages.NAMES):
                    yield scene


def check(store: Store, workspace: Workspace, scene: Scene) -> Iterator[Finding]:
    """One finding a finished stage of a scene."""
    for stage in stages.NAMES:
        manifest = records.manifest(workspace, scene, stage)
        if manifest is None:
            continue
        files = [f for group in manifest.outputs.values() for f in group]
        finding = Finding(scene.dataset, scene.name, stage, len(files))
        try:
            workspace.pull((f.path, f.sha256) for f in files)
            for file in files:
                path = scene.root / file.path
                if not path.is_file():
                    raise ArtifactError(f"{file.path}: listed in the manifest but not there")
                if sha256(path) != file.sha256:
                    raise ArtifactError(f"{file.path}: changed since the {stage} stage wrote it")
            for artifact in manifest.outputs:
                formats.validate_artifact(scene, artifact, thorough=True)
        except ArtifactError as error:
            finding = Finding(scene.dataset, scene.name, stage, len(files), str(error))
        yield finding
