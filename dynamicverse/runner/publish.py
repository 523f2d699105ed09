"""The overview page of a dataset, beside its scenes, wherever the root is."""

from __future__ import annotations

from dynamicverse import stages
from dynamicverse.report.dataset import MAX_SCENES, build_index
from dynamicverse.runner import quarantine, records
from dynamicverse.runner.store import ABANDONED_SECONDS, Store, Workspace, scratch_folder
from dynamicverse.scene import Scene, sanitise


def publish_index(store: Store, dataset: str) -> str:
    """Write `<root>/<dataset>/index.html`; returns where it is."""
    failed = [
        r.model_dump(mode="json", include={"name", "stage", "reason", "message"})
        for r in quarantine.records(store, dataset)
    ]
    store.sweep(dataset, ABANDONED_SECONDS, deep=False)  # earlier pages that were cut short
    with scratch_folder(store) as scratch:
        workspace = Workspace(store, scratch)
        if not workspace.remote:
            return str(build_index(workspace.root, dataset, failed))
        names = (name for name in store.folders(dataset)[:MAX_SCENES] if name == sanitise(name))
        store.concurrently(
            lambda name: _mirror(workspace, Scene(workspace.root, dataset, name)), names
        )
        page = build_index(workspace.root, dataset, failed)
        relative = page.relative_to(workspace.root).as_posix()
        store.push(page, relative)
        return f"{store.url.rstrip('/')}/{relative}"


def _mirror(workspace: Workspace, scene: Scene) -> None:
    """Bring what the overview shows of a scene: some small files and one picture."""
    found = [m for stage in stages.NAMES if (m := records.manifest(workspace, scene, stage))]
    frames = max((m.frames for m in found if m.stage == "ingest"), default=0)
    shown = {
        path.relative_to(workspace.root).as_posix()
        for path in (
            scene.scene_json,
            scene.instance_labels,
            scene.reconstruction_json,
            scene.report,
            scene.rgb(frames // 2),
        )
    }
    outputs = (f for m in found for group in m.outputs.values() for f in group)
    workspace.pull((f.path, f.sha256) for f in outputs if f.path in shown)
