"""The ingest stage of a shard: sources become scenes.

Ingest differs from the other stages in what it works on (a source, not a scene) and in what
marks it done: the source record, written after the manifests of all its scenes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dynamicverse.curation import sources
from dynamicverse.errors import InputError, Reason
from dynamicverse.formats import scene_info
from dynamicverse.runner import quarantine, records
from dynamicverse.runner.execute import (
    Attempt,
    Cost,
    Identity,
    SceneReporter,
    ShardWorker,
    persist,
    stop_if_transient,
)
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.meter import Meter
from dynamicverse.runner.plan import PlannedSource, Shard
from dynamicverse.scene import Scene
from dynamicverse.stages import ingest as stage
from dynamicverse.stages.base import StageContext


def ingest_sources(worker: ShardWorker, shard: Shard, ledger: Ledger) -> Counter[Outcome]:
    """Ingest every source of a shard; returns how each ended."""
    counts: Counter[Outcome] = Counter()
    for planned in shard.sources:
        counts[_Intake(worker, planned, shard.shard, ledger).run()] += 1
    return counts


class _Intake:
    """One source, from its check to its record."""

    def __init__(
        self, worker: ShardWorker, planned: PlannedSource, shard: int, ledger: Ledger
    ) -> None:
        self.worker, self.planned, self.shard, self.ledger = worker, planned, shard, ledger
        self.source = planned.resolve()
        self.settings = stage.settings(worker.run.config)
        self.record = records.source_record(worker.run.store, worker.dataset, planned.name)
        self.attempt = Attempt("ingest", planned.name, planned)

    def run(self) -> Outcome:
        worker, attempt = self.worker, self.attempt
        try:
            if self._settled():
                return worker.finish(attempt, self.ledger)
        except Exception as error:  # noqa: BLE001 - becomes a typed record
            stop_if_transient(error)
            worker.quarantine(attempt, error, self.shard, tries=1)
            return worker.finish(attempt, self.ledger)
        return self._ingest()

    def _settled(self) -> bool:
        """True if nothing is to be done: current, or failed before in the same way."""
        self.fingerprint = self.attempt.fingerprint = sources.fingerprint(self.source)
        self.attempt.key = self._key(self.fingerprint)
        if self.record is not None and self._current(self.record):
            self.attempt.outcome = Outcome.CACHED
            return True
        return self.worker.is_quarantined(self.attempt, self.shard)

    def _key(self, identity: str) -> str:
        inputs = {"source": identity, "name": self.planned.name}
        return records.key("ingest", stage.VERSION, self.settings, inputs)

    def _current(self, record: records.SourceRecord) -> bool:
        same = record.fingerprint == self.fingerprint and record.source == self.planned.source
        content = record.sha256 if same else sources.sha256(self.source)
        if record.key != self._key(content):
            return False
        for ingested in record.scenes:
            scene = self._scene(ingested.name)
            found = records.manifest(self.worker.workspace, scene, "ingest")
            if found is None or found.key != record.key:
                return False
            stored = records.stored_files(self.worker.run.store, scene)
            if not records.outputs_present(found, stored):
                return False
        if not same:  # the same content from another place: remember the new one
            update = {"fingerprint": self.fingerprint, "source": self.planned.source}
            records.write_source_record(
                self.worker.run.store, self.worker.dataset, record.model_copy(update=update)
            )
        return True

    def _scene(self, name: str) -> Scene:
        return Scene(self.worker.workspace.root, self.worker.dataset, name)

    def _make_scene(self, name: str) -> Scene:
        """A clean scene for this source; refuses one that belongs to another source."""
        worker = self.worker
        other = records.source_record(worker.run.store, worker.dataset, name)
        if other is not None and other.name != self.planned.name:
            raise InputError(
                f"scene {name} would come from both {self.planned.source} and {other.source}; "
                "rename one of them or choose another --dataset",
                Reason.DUPLICATE_NAME,
            )
        scene = self._scene(name)
        self._clear(scene)
        return scene

    def _clear(self, scene: Scene) -> None:
        """Remove what an earlier ingest of this source wrote."""
        self.worker.sweep(scene)
        workspace = self.worker.workspace
        stored = records.stored_files(self.worker.run.store, scene)
        workspace.discard([records.relative(workspace, scene, "ingest")])
        workspace.discard(records.owned(scene, stage.WRITES, stored))

    def _ingest(self) -> Outcome:
        worker, attempt = self.worker, self.attempt
        worker.begin(attempt)
        reporter = SceneReporter(worker.observer, "ingest", attempt.name)
        context = StageContext(worker.run.config, reporter)
        meter = Meter()
        done, failure, tries = persist(lambda: self._once(context, reporter, meter), reporter)
        scenes, pushed = done or ([], 0)
        if failure is None:
            attempt.outcome = Outcome.DONE
            quarantine.clear(worker.run.store, worker.dataset, "ingest", attempt.name)
            reporter.log(f"done in {meter.seconds:.1f} s, {context.frames} frames")
        else:
            stop_if_transient(failure)
            worker.quarantine(attempt, failure, self.shard, tries)
        for scene in scenes:
            worker.write_log(scene, reporter.lines)
            if worker.pod:
                worker.workspace.evict_scene(scene)
        return worker.finish(
            attempt,
            self.ledger,
            frames=context.frames,
            seconds=round(meter.seconds, 3),
            scenes=[s.name for s in scenes],
            peak_memory=meter.peak_memory_bytes,
            device="cpu",
            tries=tries,
            bytes_in=attempt.bytes_in,
            bytes_out=pushed,
        )

    def _once(
        self, context: StageContext, reporter: SceneReporter, meter: Meter
    ) -> tuple[list[Scene], int]:
        worker = self.worker
        records.remove_source_record(worker.run.store, worker.dataset, self.planned.name)
        local = self._fetch()
        content = sources.sha256(self.source)
        self._refuse_foreign(content)
        scenes = stage.ingest(local, self.planned.name, self._make_scene, context)
        names = {scene.name for scene in scenes}
        for old in self.record.scenes if self.record else []:
            if old.name not in names:
                self._clear(self._scene(old.name))
        key = self._key(content)
        pushed = 0
        ingested = []
        for scene in scenes:
            info = scene_info.read(scene.scene_json)
            frames, verdict = info.frame_count, info.filter
            own = StageContext(
                context.config, reporter, frames=frames, facts={"accepted": verdict.accepted}
            )
            share = frames / max(context.frames, 1)
            pushed += worker.commit(
                scene,
                Identity("ingest", stage.VERSION, stage.WRITES, key, {"source": content}),
                own,
                reporter,
                Cost(meter.seconds * share, meter.peak_memory_bytes),
            )
            ingested.append(
                records.IngestedScene(
                    name=scene.name,
                    frames=frames,
                    accepted=verdict.accepted,
                    reasons=verdict.reasons,
                )
            )
        records.write_source_record(
            worker.run.store,
            worker.dataset,
            records.SourceRecord(
                name=self.planned.name,
                source=self.planned.source,
                kind=self.planned.kind,
                fingerprint=self.fingerprint,
                sha256=content,
                key=key,
                scenes=ingested,
            ),
        )
        return scenes, pushed

    def _refuse_foreign(self, content: str) -> None:
        """The name may belong to another file, ingested in an earlier run."""
        old = self.record
        if old is None or old.source == self.planned.source or old.sha256 == content:
            return
        raise InputError(
            f"scene {old.name} was made from {old.source}, not from {self.planned.source}; "
            "rename one of them or choose another --dataset",
            Reason.DUPLICATE_NAME,
        )

    def _fetch(self) -> Path:
        """The source on the local disk."""
        if "://" not in self.planned.source:
            return Path(self.planned.source)
        target = self.worker.workspace.root / ".sources" / self.planned.name
        local, self.attempt.bytes_in = sources.fetch(self.source, target)
        return local
