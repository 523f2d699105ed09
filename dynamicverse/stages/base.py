"""What a stage is: it reads artifacts of a scene, computes, and writes artifacts.

A stage knows nothing of runs, shards, manifests or remote storage: the runner gives it a
`Scene` on a local disk whose input artifacts are present, and afterwards validates, digests
and uploads what it wrote. Backends are loaded once a shard through `Stage.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dynamicverse.config import Config
from dynamicverse.scene import Scene


class Reporter(Protocol):
    """Where a stage says how far it is; the runner's implementation feeds bars and ledger."""

    def progress(self, done: int, total: int) -> None: ...
    def log(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


@dataclass
class StageContext:
    """What a stage works with besides the scene.

    `facts` are small JSON values for the manifest and the ledger (counts, verdicts);
    `frames` must be set by the stage to the number of frames it processed.
    """

    config: Config
    reporter: Reporter
    backend: Any = None
    frames: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def progress(self, done: int, total: int) -> None:
        self.reporter.progress(done, total)

    def log(self, message: str) -> None:
        """A line for the readable processing log."""
        self.reporter.log(message)

    def warn(self, message: str) -> None:
        """A line for the log, the manifest and the report: something the user should know."""
        self.reporter.warn(message)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    version: raise it whenever the outputs for the same inputs change; it enters the key.
    reads, writes: names in `dynamicverse.scene.ARTIFACTS`.
    optional: artifacts that are used where they exist; without them the stage still runs.
    settings: the part of the configuration that decides the outputs; it enters the key.
    load: loads the backend, once a shard; may raise MissingModelError.
    run: computes the outputs of one scene; raises DynamicVerseError.
    concurrency: how many scenes may be in `run` at a time, in threads: more than one where it
    waits for a service.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    settings: Callable[[Config], Mapping[str, Any]]
    run: Callable[[Scene, StageContext], None]
    load: Callable[[Config], Any] = lambda config: None
    optional: tuple[str, ...] = ()
    concurrency: Callable[[Config], int] = lambda config: 1
