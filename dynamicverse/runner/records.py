"""Keys, manifests and source records: how the runner knows what is done.

A stage's key is a hash of everything that decides its outputs. Its manifest holds the key
and the digests of the outputs, and is written last; a stage is done when its manifest has
the present key and the outputs are there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dynamicverse.formats.manifest import Manifest, OutputFile
from dynamicverse.runner.store import Store, Workspace, dump_json
from dynamicverse.scene import ARTIFACTS, KEY_FRAMES, UNFINISHED, Scene, sanitise


class IngestedScene(BaseModel):
    """One scene that a source gave, and the data filter's verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    frames: int
    accepted: bool
    reasons: list[str] = []


class SourceRecord(BaseModel):
    """What ingest made of one source: `<root>/<dataset>/.sources/<name>.json`, written last.

    fingerprint: a cheap identity (size, time of change) that saves reading the source again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    kind: str
    fingerprint: str
    sha256: str
    key: str
    scenes: list[IngestedScene]


def key(stage: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The content address of a stage's outputs."""
    identity = [stage, version, settings, inputs]
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(files: Iterable[OutputFile]) -> str:
    """The digest of an artifact: over the sorted paths and digests of its files."""
    lines = sorted(f"{f.path} {f.sha256}" for f in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_record(store: Store, dataset: str, name: str) -> SourceRecord | None:
    """What ingest recorded of a source; None when it never finished."""
    data = store.read(_source_path(dataset, name))
    if data is None:
        return None
    try:
        return SourceRecord.model_validate_json(data)
    except ValidationError:
        return None  # unreadable counts as never finished: ingest runs again


def write_source_record(store: Store, dataset: str, record: SourceRecord) -> None:
    store.write(_source_path(dataset, record.name), dump_json(record.model_dump(mode="json")))


def remove_source_record(store: Store, dataset: str, name: str) -> None:
    store.delete([_source_path(dataset, name)])


def _source_path(dataset: str, name: str) -> str:
    return f"{dataset}/.sources/{name}.json"


def datasets(store: Store) -> list[str]:
    """The datasets of a root."""
    return [d for d in store.folders() if d != KEY_FRAMES and d == sanitise(d)]


def relative(workspace: Workspace, scene: Scene, stage: str) -> str:
    """Where a manifest lies, relative to the root."""
    return scene.manifest(stage).relative_to(workspace.root).as_posix()


def manifest(workspace: Workspace, scene: Scene, stage: str) -> Manifest | None:
    """A stage's manifest, also put into the workspace; None when there is no valid one."""
    data = workspace.store.read(relative(workspace, scene, stage))
    if data is None:
        return None
    try:
        found = Manifest.model_validate_json(data)
    except ValidationError:
        return None  # torn or foreign: the stage is not done
    if workspace.remote:
        _keep(scene.manifest(stage), data)
    return found


def write_manifest(workspace: Workspace, scene: Scene, stage: str, data: bytes) -> None:
    """Mark a stage as done, in the store and in the workspace."""
    workspace.store.write(relative(workspace, scene, stage), data)
    if workspace.remote:
        _keep(scene.manifest(stage), data)


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def folders(scene: Scene) -> tuple[str, str]:
    """The folders that hold all of a scene, relative to the root."""
    own = (scene.folder, scene.key_frames_folder)
    first, second = (folder.relative_to(scene.root).as_posix() for folder in own)
    return first, second


def stored_files(store: Store, scene: Scene) -> dict[str, int]:
    """Relative path → bytes of all files of a scene, in two listings."""
    return {path: size for folder in folders(scene) for path, size in store.sizes(folder).items()}


def outputs_present(found: Manifest, files: Mapping[str, int]) -> bool:
    """True if every output that a manifest lists is stored with its size."""
    listed = (f for group in found.outputs.values() for f in group)
    return all(files.get(f.path) == f.bytes for f in listed)


def owned(scene: Scene, artifacts: Iterable[str], files: Iterable[str]) -> list[str]:
    """Those of the stored files that belong to the artifacts."""
    patterns = [p for a in artifacts for p in scene.patterns(a)]
    finished = (f for f in files if not f.endswith(UNFINISHED))
    return [f for f in finished if any(PurePosixPath(f).match(p) for p in patterns)]


def owners(artifacts: Iterable[str]) -> set[str]:
    """The stages that write the artifacts."""
    return {ARTIFACTS[a].stage for a in artifacts}
