"""Carry out one stage for one shard: the same code on a laptop and in a pod.

While a scene is computed, the inputs of the next are pulled and the outputs of the last are
validated, digested and pushed. A scene that fails goes into quarantine and the shard goes
on; storage or a service that stays away stops the shard with `TransientError`.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from dynamicverse import __version__, formats
from dynamicverse.errors import (
    DynamicVerseError,
    MissingModelError,
    Reason,
    reason_of,
)
from dynamicverse.formats.manifest import Manifest, OutputFile
from dynamicverse.runner import quarantine, records, settled
from dynamicverse.runner.events import Event, Observer, silent
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.plan import PlannedSource, Run
from dynamicverse.runner.starts import MAX_CRASHES, Starts
from dynamicverse.runner.store import ABANDONED_SECONDS, Workspace, dump_json, sha256
from dynamicverse.scene import Scene
from dynamicverse.stages.base import StageContext

ATTEMPTS = 3
BACKOFF_SECONDS = 2.0
T = TypeVar("T")


class TransientError(DynamicVerseError):
    """The shard could not be finished now; another try continues it (exit code 75)."""

    reason = Reason.STORAGE


@dataclass
class Attempt:
    """One scene (for ingest: one source) at one stage, from its check to its record.

    fingerprint (ingest only): the source's cheap identity; empty when it cannot be read.
    """

    stage: str
    name: str
    source: PlannedSource
    scene: Scene | None = None
    key: str = ""
    fingerprint: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    outcome: Outcome | None = None  # set when there is nothing to compute
    message: str = ""
    reason: str = ""
    bytes_in: int = 0


@dataclass(frozen=True)
class Identity:
    """What a manifest says of the work: the stage, its key and what the key rests on."""

    stage: str
    version: int
    writes: tuple[str, ...]
    key: str
    inputs: dict[str, str]


@dataclass(frozen=True)
class Cost:
    """What the work took: wall seconds, peak resident bytes."""

    seconds: float
    peak_memory: int


class SceneReporter:
    """The stage's voice: progress and warnings to the observer, lines to the scene's log."""

    def __init__(self, observer: Observer, stage: str, name: str) -> None:
        self._observer, self._stage, self._name = observer, stage, name
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def progress(self, done: int, total: int) -> None:
        self._observer(Event("progress", self._stage, self._name, done=done, total=total))

    def log(self, message: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.lines.append(f"{now} {self._stage}: {' '.join(message.split())}\n")

    def warn(self, message: str) -> None:
        self.log(f"warning: {message}")
        self.warnings.append(message)
        self._observer(Event("warning", self._stage, self._name, message=message))


class ShardWorker:
    """Executes stages for the shards of one run, in one process.

    pod: nobody here watches over this process, so its starts are written for the next one; and
    pulled and pushed files do not stay in the workspace, because another pod does the next stage.
    """

    def __init__(
        self, run: Run, workspace: Workspace, observer: Observer = silent, pod: bool = False
    ) -> None:
        self.run, self.workspace, self.observer, self.pod = run, workspace, observer, pod
        self.dataset = run.plan.dataset

    def execute(self, stage_name: str, shard_index: int) -> Counter[Outcome]:
        """Bring every scene of the shard past the stage, and record it as settled; returns how
        each ended.

        Raises TransientError when storage or a service stays away, MissingModelError or
        ConfigError when the stage cannot run here at all.
        """
        shard = self.run.shard(shard_index)
        where = (self.run.store, self.run.folder, stage_name, shard_index)
        with Ledger(*where) as ledger, Starts(*where, written=self.pod) as self.starts:
            if stage_name == "ingest":
                from dynamicverse.runner.intake import ingest_sources

                counts = ingest_sources(self, shard, ledger)
            else:
                from dynamicverse.runner.scene_stage import SceneStage

                counts = SceneStage(self, stage_name, shard_index, ledger).run(shard.sources)
        settled.record(self.run, stage_name, shard_index)
        return counts

    def sweep(self, scene: Scene) -> None:
        """Remove what killed writers left of a scene. A local run is alone on its dataset; a pod
        may not be: the one before it, on a node that was lost, may still be writing."""
        for folder in records.folders(scene):
            self.run.store.sweep(folder, ABANDONED_SECONDS if self.pod else 0.0)

    def begin(self, attempt: Attempt) -> None:
        """The work on a scene begins: told to the observer, and to whoever comes after a crash."""
        self.starts.begin(attempt.name, attempt.key)
        self.observer(start_of(attempt))

    def finish(self, attempt: Attempt, ledger: Ledger, **facts: Any) -> Outcome:
        """Write the end of an attempt to the ledger and tell the observer."""
        assert attempt.outcome is not None
        record = {
            "name": attempt.name,
            "source": attempt.source.name,
            "outcome": attempt.outcome,
            "key": attempt.key,
            **({"reason": attempt.reason} if attempt.reason else {}),
            **({"fingerprint": attempt.fingerprint} if attempt.fingerprint else {}),
            **facts,
        }
        ledger.add(**record)
        self.starts.end(attempt.name, attempt.key)
        self.observer(
            Event(
                "finish",
                attempt.stage,
                attempt.name,
                outcome=attempt.outcome,
                reason=attempt.reason,
                message=attempt.message,
                seconds=facts.get("seconds", 0.0),
                frames=facts.get("frames", 0),
            )
        )
        return attempt.outcome

    def quarantine(self, attempt: Attempt, error: BaseException, shard: int, tries: int) -> None:
        """Record a failure; the attempt's outcome becomes QUARANTINED."""
        attempt.outcome = Outcome.QUARANTINED
        attempt.reason = reason_of(error).value
        attempt.message = one_line(error)
        trace = "".join(traceback.format_exception(error))
        quarantine.put(
            self.run.store,
            quarantine.Record(
                dataset=self.dataset,
                name=attempt.name,
                source=attempt.source.source,
                stage=attempt.stage,
                reason=reason_of(error),
                message=attempt.message[: quarantine.MAX_MESSAGE],
                traceback=trace[-quarantine.MAX_TRACEBACK :],
                attempt=tries,
                key=attempt.key,
                run=self.run.plan.run,
                shard=shard,
                time=quarantine.now(),
            ),
        )

    def is_quarantined(self, attempt: Attempt, shard: int) -> bool:
        """True (and the outcome set) if the same work failed before and would fail again."""
        crashes = self.starts.crashes(attempt.name, attempt.key)
        record = quarantine.get(self.run.store, self.dataset, attempt.stage, attempt.name)
        if record is None or record.key != attempt.key or record.reason.transient:
            if crashes < MAX_CRASHES:
                return False
            text = f"the process died {crashes} times while it worked on this"
            error = DynamicVerseError(text, Reason.CRASHED)
            self.quarantine(attempt, error, shard, tries=crashes)
            return True
        attempt.outcome, attempt.reason = Outcome.QUARANTINED, record.reason.value
        attempt.message = f"{record.message} (failed before; `quarantine replay` tries again)"
        return True

    def commit(
        self,
        scene: Scene,
        identity: Identity,
        context: StageContext,
        reporter: SceneReporter,
        cost: Cost,
    ) -> int:
        """Validate, digest and push what a stage wrote, then its manifest; returns bytes."""
        outputs: dict[str, list[OutputFile]] = {}
        for artifact in identity.writes:
            formats.validate_artifact(scene, artifact)
            outputs[artifact] = [
                OutputFile(
                    path=path.relative_to(scene.root).as_posix(),
                    bytes=path.stat().st_size,
                    sha256=sha256(path),
                )
                for path in scene.files(artifact)
            ]
        files = [f for group in outputs.values() for f in group]
        pushed = self.workspace.push((f.path, f.sha256) for f in files)
        manifest = Manifest(
            stage=identity.stage,
            version=identity.version,
            key=identity.key,
            inputs=identity.inputs,
            outputs=outputs,
            seconds=round(cost.seconds, 3),
            device=getattr(context.backend, "device", "cpu"),
            peak_memory_bytes=cost.peak_memory,
            frames=context.frames,
            warnings=reporter.warnings,
            facts=context.facts,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            software=_software(),
        )
        data = dump_json(manifest.model_dump(mode="json"))
        records.write_manifest(self.workspace, scene, identity.stage, data)
        return pushed

    def write_log(self, scene: Scene, lines: list[str]) -> None:
        """Append to the scene's readable log."""
        relative = scene.log.relative_to(scene.root).as_posix()
        store = self.run.store
        so_far = b"" if store.local is not None else store.read(relative) or b""
        store.append(relative, "".join(lines).encode(), so_far)


@cache
def _software() -> dict[str, str]:
    """Versions of what decides the arithmetic; a slim image has not all of it."""
    found = {"dynamicverse": __version__}
    for name in ("numpy", "scipy", "opencv-python-headless", "torch", "av"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def start_of(attempt: Attempt) -> Event:
    """The event that says that an attempt's work begins."""
    source = attempt.source.source
    return Event("start", attempt.stage, attempt.name, key=attempt.key, source=source)


def persist(
    action: Callable[[], T], reporter: SceneReporter
) -> tuple[T | None, Exception | None, int]:
    """Do something, again where the fault may pass; its result, last error and the tries."""
    for tries in range(1, ATTEMPTS + 1):
        try:
            return action(), None, tries
        except Exception as error:  # noqa: BLE001 - becomes a typed record
            if not reason_of(error).transient or tries == ATTEMPTS:
                return None, error, tries
            reporter.warn(f"try {tries} failed: {one_line(error)}")
            time.sleep(BACKOFF_SECONDS * 4 ** (tries - 1))
    raise AssertionError("unreachable")


def stop_if_transient(error: BaseException) -> None:
    """Storage or a service that stays away is not the scene's fault: stop the shard."""
    if isinstance(error, MissingModelError):
        raise error
    if reason_of(error) in (Reason.STORAGE, Reason.SERVICE):
        raise TransientError(one_line(error), reason_of(error)) from error


def one_line(error: BaseException) -> str:
    """An exception as one line; unexpected ones with their type."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, DynamicVerseError) else f"{type(error).__name__}: {text}"
