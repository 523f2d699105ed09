"""One stage over the scenes of one shard: prepare, compute, finish."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dynamicverse import backends, stages
from dynamicverse.errors import ArtifactError, DynamicVerseError
from dynamicverse.formats.manifest import OutputFile
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
from dynamicverse.runner.flight import SharedTime, ahead, in_flight
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.meter import Meter
from dynamicverse.runner.plan import PlannedSource
from dynamicverse.scene import Scene
from dynamicverse.stages.base import StageContext


class SceneStage:
    """One stage over the scenes of one shard.

    Inputs are brought and outputs taken away by one thread each; in between, as many scenes
    are computed at a time as the stage's `concurrency` allows.
    """

    def __init__(self, worker: ShardWorker, stage: str, shard: int, ledger: Ledger) -> None:
        self.worker, self.shard, self.ledger = worker, shard, ledger
        self.stage = stages.get(stage)
        self.settings = self.stage.settings(worker.run.config)
        self.backend: Any = None
        self.loaded = False
        self.loading = threading.Lock()
        self.shared_time = SharedTime()
        self.counts: Counter[Outcome] = Counter()
        self.stopped: DynamicVerseError | None = None

    def run(self, sources: list[PlannedSource]) -> Counter[Outcome]:
        width = self.stage.concurrency(self.worker.run.config)
        with ThreadPoolExecutor(1) as stage_in, ThreadPoolExecutor(1) as stage_out:
            pending: Future[Outcome] | None = None
            for finish in in_flight(self._todo(sources, stage_in), self._compute, width):
                self._settle(pending)
                pending = stage_out.submit(finish)
            self._settle(pending)
        if self.stopped is not None:
            raise self.stopped
        return self.counts

    def _todo(
        self, sources: list[PlannedSource], stage_in: ThreadPoolExecutor
    ) -> Iterator[Attempt]:
        """Prepared attempts that need computing; those that do not are finished here."""
        for attempt in ahead(self._attempts(sources), self._prepare, stage_in):
            if self.stopped is not None:
                return
            if attempt.outcome is None:
                yield attempt
            else:
                self.counts[self.worker.finish(attempt, self.ledger)] += 1

    def _settle(self, pending: Future[Outcome] | None) -> None:
        """Count how a scene ended. After an error that stops the shard no scene is begun, but
        those under way are brought to their end."""
        if pending is None:
            return
        try:
            self.counts[pending.result()] += 1
        except DynamicVerseError as error:
            self.stopped = self.stopped or error

    def _attempts(self, sources: list[PlannedSource]) -> Iterator[Attempt]:
        """One attempt a scene; a source that gave no scene is blocked as a whole."""
        worker = self.worker
        skip_rejected = worker.run.config.ingest.filter.on_reject == "skip"
        for source in sources:
            record = records.source_record(worker.run.store, worker.dataset, source.name)
            if record is None:
                yield Attempt(self.stage.name, source.name, source, outcome=Outcome.BLOCKED)
                continue
            for ingested in record.scenes:
                scene = Scene(worker.workspace.root, worker.dataset, ingested.name)
                attempt = Attempt(self.stage.name, ingested.name, source, scene)
                if skip_rejected and not ingested.accepted:
                    attempt.outcome = Outcome.REJECTED
                    attempt.message = "; ".join(ingested.reasons)
                yield attempt

    def _prepare(self, attempt: Attempt) -> Attempt:
        """Decide whether there is anything to do; if so, bring the inputs here."""
        if attempt.outcome is not None or attempt.scene is None:
            return attempt
        worker, scene = self.worker, attempt.scene
        workspace = worker.workspace
        worker.sweep(scene)
        wanted = (*self.stage.reads, *self.stage.optional)
        upstream = {
            owner: found
            for owner in sorted(records.owners(wanted))
            if (found := records.manifest(workspace, scene, owner))
        }
        inputs: dict[str, list[OutputFile]] = {
            artifact: found.outputs.get(artifact, [])
            for artifact in wanted
            for owner, found in upstream.items()
            if artifact in found.outputs
        }
        missing = sorted(set(self.stage.reads) - set(inputs))
        if missing:
            attempt.outcome = Outcome.BLOCKED
            attempt.message = f"waits for {', '.join(sorted(records.owners(missing)))}"
            return attempt
        attempt.inputs = {a: records.digest(f) for a, f in inputs.items()}
        attempt.key = records.key(
            self.stage.name, self.stage.version, self.settings, attempt.inputs
        )
        stored = records.stored_files(worker.run.store, scene)
        done = records.manifest(workspace, scene, self.stage.name)
        if done and done.key == attempt.key and records.outputs_present(done, stored):
            attempt.outcome = Outcome.CACHED
            return attempt
        if worker.is_quarantined(attempt, self.shard):
            return attempt
        workspace.discard([records.relative(workspace, scene, self.stage.name)])
        workspace.discard(records.owned(scene, self.stage.writes, stored))
        try:
            attempt.bytes_in = workspace.pull(
                (f.path, f.sha256) for group in inputs.values() for f in group
            )
        except (ArtifactError, FileNotFoundError) as error:
            worker.quarantine(attempt, error, self.shard, tries=1)
        return attempt

    def _compute(self, attempt: Attempt) -> Callable[[], Outcome]:
        """Run the stage in this thread; returns what remains to be done in another."""
        assert attempt.scene is not None
        scene, worker = attempt.scene, self.worker
        worker.begin(attempt)
        load_seconds = self._load()
        reporter = SceneReporter(worker.observer, self.stage.name, attempt.name)
        context = StageContext(worker.run.config, reporter, self.backend)
        meter, begun = Meter(), self.shared_time.begin()
        _, error, tries = persist(lambda: self.stage.run(scene, context), reporter)
        for note in backends.noted(self.backend):
            reporter.warn(note)
        pod_seconds = self.shared_time.end(begun)
        cost = Cost(meter.seconds, meter.peak_memory_bytes)
        stage = self.stage
        identity = Identity(stage.name, stage.version, stage.writes, attempt.key, attempt.inputs)

        def finish() -> Outcome:
            failure = error
            pushed = 0
            if failure is None:
                try:
                    pushed = worker.commit(scene, identity, context, reporter, cost)
                    quarantine.clear(worker.run.store, worker.dataset, stage.name, attempt.name)
                    attempt.outcome = Outcome.DONE
                    reporter.log(f"done in {cost.seconds:.1f} s, {context.frames} frames")
                except (DynamicVerseError, OSError) as caught:
                    failure = caught
            if failure is not None:
                stop_if_transient(failure)
                # what was half written must not look like a result to the stages that follow
                stored = records.stored_files(worker.run.store, scene)
                worker.workspace.discard(records.owned(scene, stage.writes, stored))
                worker.quarantine(attempt, failure, self.shard, tries)
                reporter.log(f"failed ({attempt.reason}): {attempt.message}")
            worker.write_log(scene, reporter.lines)
            if worker.pod:
                worker.workspace.evict_scene(scene)
            return worker.finish(
                attempt,
                self.ledger,
                frames=context.frames,
                seconds=round(cost.seconds, 3),
                pod_seconds=round(pod_seconds, 3),
                load_seconds=round(load_seconds, 3),
                peak_memory=cost.peak_memory,
                device=getattr(self.backend, "device", "cpu"),
                tries=tries,
                bytes_in=attempt.bytes_in,
                bytes_out=pushed,
            )

        return finish

    def _load(self) -> float:
        """Load the backend once, when the first scene needs it."""
        with self.loading:
            if self.loaded:
                return 0.0
            start = time.perf_counter()
            self.backend = self.stage.load(self.worker.run.config)
            self.loaded = True
            return time.perf_counter() - start
