"""What came of a run, scene by scene, from the manifests' facts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynamicverse.formats.manifest import Manifest
from dynamicverse.runner import quarantine, records
from dynamicverse.runner.plan import Run
from dynamicverse.runner.quarantine import Record
from dynamicverse.runner.records import IngestedScene
from dynamicverse.runner.store import Workspace
from dynamicverse.scene import Scene

MAX_REPORTS = 10


@dataclass(frozen=True)
class SceneSummary:
    """One scene. seconds: compute time of all its stages. None where a stage has not been."""

    name: str
    frames: int
    seconds: float
    frames_per_second: float
    rejected: str  # the data filter's reasons, empty where it accepts
    objects: int | None
    registered: int | None
    status: str | None
    report: str | None


@dataclass(frozen=True)
class RunSummary:
    """All scenes of a run, and what is in quarantine."""

    scenes: list[SceneSummary]
    failed: list[Record]

    def to_json(self) -> dict[str, Any]:
        return {
            "scenes": [asdict(s) for s in self.scenes],
            "failed": [r.model_dump(mode="json", exclude={"traceback"}) for r in self.failed],
        }

    def table(self) -> tuple[tuple[str, ...], list[list[object]]]:
        """Columns and rows for people."""
        columns = ("scene", "frames", "seconds", "frames/s", "objects", "cameras", "reconstruction")
        rows: list[list[object]] = [
            [
                s.name,
                s.frames,
                round(s.seconds, 1),
                round(s.frames_per_second, 2),
                s.objects,
                s.registered,
                "rejected by the data filter" if s.rejected else s.status,
            ]
            for s in self.scenes
        ]
        return columns, rows

    def lines(self) -> Iterator[str]:
        """Where the first reports are, what was rejected and what failed."""
        reports = [scene.report for scene in self.scenes if scene.report]
        for report in reports[:MAX_REPORTS]:
            yield f"report: {report}"
        if len(reports) > MAX_REPORTS:
            yield f"… and {len(reports) - MAX_REPORTS} more"
        for scene in self.scenes:
            if scene.rejected:
                yield f"rejected: {scene.name}: {scene.rejected}"
        for record in self.failed:
            yield f"failed: {record.name} at {record.stage} ({record.reason}): {record.message}"


def summarise(run: Run) -> RunSummary:
    """Read the source records, manifests and quarantine records of a run."""
    store, dataset = run.store, run.plan.dataset
    ingested: list[IngestedScene] = []
    sources = [s for i in range(run.plan.shards) for s in run.shard(i).sources]
    for source in sources:
        record = records.source_record(store, dataset, source.name)
        ingested += record.scenes if record else []
    wanted = {s.name for s in ingested} | {s.name for s in sources}
    failed = [r for r in quarantine.records(store, dataset) if r.name in wanted]
    return RunSummary([_scene(run, scene) for scene in ingested], failed)


def _scene(run: Run, ingested: IngestedScene) -> SceneSummary:
    name, frames, store = ingested.name, ingested.frames, run.store
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(store, Path(scratch))
        scene = Scene(workspace.root, run.plan.dataset, name)
        found = {
            stage: manifest
            for stage in run.plan.stages
            if (manifest := records.manifest(workspace, scene, stage))
        }
    seconds = sum(m.seconds for m in found.values())
    report = None
    if "report" in found:
        relative = scene.report.relative_to(scene.root).as_posix()
        report = str(store.local / relative) if store.local else f"{store.url}/{relative}"
    return SceneSummary(
        name=name,
        frames=frames,
        seconds=seconds,
        frames_per_second=frames / seconds if seconds else 0.0,
        rejected="" if ingested.accepted else "; ".join(ingested.reasons),
        objects=_fact(found, "segmentation", "objects"),
        registered=_fact(found, "reconstruction", "registered"),
        status=_fact(found, "reconstruction", "status"),
        report=report,
    )


def _fact(found: dict[str, Manifest], stage: str, name: str) -> Any:
    return found[stage].facts.get(name) if stage in found else None
