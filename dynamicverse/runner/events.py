"""What a worker tells whoever watches: plain values, cheap to send through a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from dynamicverse.runner.ledger import Outcome


@dataclass(frozen=True)
class Event:
    """One thing that happened to a scene (for ingest: a source) at a stage.

    A start carries the key and the source, so that a watcher can record a crash.
    """

    kind: Literal["start", "progress", "warning", "finish"]
    stage: str
    name: str
    done: int = 0
    total: int = 0
    key: str = ""
    source: str = ""
    outcome: Outcome | None = None
    reason: str = ""
    message: str = ""
    seconds: float = 0.0
    frames: int = 0


class Observer(Protocol):
    """Receives the events of one worker; called from several threads."""

    def __call__(self, event: Event) -> None: ...


def silent(event: Event) -> None:
    """An observer that wants to know nothing."""
