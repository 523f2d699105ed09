"""Scenes that failed: one typed record each, under `<root>/<dataset>/.quarantine/<stage>/`.

A record keeps its scene from being tried again with the same key; `replay` removes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicverse import stages
from dynamicverse.errors import Reason
from dynamicverse.runner.store import Store, dump_json

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 20_000


class Record(BaseModel):
    """Why a scene (for ingest: a source) is in quarantine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    name: str
    source: str
    stage: str
    reason: Reason
    message: str = Field(max_length=MAX_MESSAGE)
    traceback: str = Field(max_length=MAX_TRACEBACK)
    attempt: int
    key: str
    run: str
    shard: int
    time: str


def put(store: Store, record: Record) -> None:
    """Write or replace a record."""
    data = dump_json(record.model_dump(mode="json"))
    store.write(_path(record.dataset, record.stage, record.name), data)


def get(store: Store, dataset: str, stage: str, name: str) -> Record | None:
    """The record of a scene at a stage, or None."""
    return _parse(store.read(_path(dataset, stage, name)))


def clear(store: Store, dataset: str, stage: str, name: str) -> None:
    """Remove a record, if there is one."""
    store.delete([_path(dataset, stage, name)])


def records(store: Store, dataset: str | None = None) -> Iterator[Record]:
    """All records of a root, or of one dataset, in order of dataset, stage and name."""
    for one in [dataset] if dataset else store.folders():
        files = store.sizes(f"{one}/.quarantine")
        order = {stage: i for i, stage in enumerate(stages.NAMES)}
        names = sorted(files, key=lambda f: (order.get(f.split("/")[-2], 99), f))
        contents = store.concurrently(store.read, (f for f in names if f.endswith(".json")))
        yield from filter(None, map(_parse, contents))


def names(store: Store, dataset: str) -> set[tuple[str, str]]:
    """(stage, name) of everything in quarantine, from one listing."""
    found = (PurePosixPath(file) for file in store.sizes(f"{dataset}/.quarantine"))
    return {(file.parent.name, file.stem) for file in found if file.suffix == ".json"}


def now() -> str:
    """The present time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(dataset: str, stage: str, name: str) -> str:
    return f"{dataset}/.quarantine/{stage}/{name}.json"


def _parse(data: bytes | None) -> Record | None:
    if data is None:
        return None
    try:
        return Record.model_validate_json(data)
    except ValidationError:
        return None  # unreadable: the scene is simply tried again
