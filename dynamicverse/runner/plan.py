"""A run: what is to be done, cut into shards, written under `<root>/.runs/<run>/`.

The run's name is a hash of what it does, so the same command given again is the same run
and continues it. It keeps the shards that it was first cut into: ledgers and settled records
speak of them, whether they were written on one machine or by a cluster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicverse import __version__, stages
from dynamicverse import config as configuration
from dynamicverse.config import Config
from dynamicverse.curation.sources import Source
from dynamicverse.errors import ArtifactError, ConfigError, Reason
from dynamicverse.runner.store import ABANDONED_SECONDS, Store, dump_json
from dynamicverse.scene import KEY_FRAMES, sanitise

RUNS = ".runs"
M = TypeVar("M", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedSource(_Model):
    """One input of a run. `frames` is an estimate, for packing only."""

    source: str
    name: str
    kind: str
    frames: int = Field(ge=0)

    def resolve(self) -> Source:
        return Source(self.source, self.name, self.kind)


class Shard(_Model):
    """The unit of work of one worker or pod."""

    shard: int = Field(ge=0)
    sources: list[PlannedSource]


class Plan(_Model):
    """The whole run; the shards lie beside it."""

    run: str
    dataset: str
    config: dict[str, Any]
    stages: list[str]
    shards: int
    sources: int
    frames: int
    ignored: int = 0
    software: str


@dataclass(frozen=True)
class Run:
    """A run that has been planned, and where it lies."""

    store: Store
    plan: Plan
    config: Config

    @property
    def folder(self) -> str:
        return f"{RUNS}/{self.plan.run}"

    def shard(self, index: int) -> Shard:
        """Read one shard; raises ConfigError when the plan has no such shard."""
        data = self.store.read(_shard_path(self.folder, index))
        if data is None:
            raise ConfigError(
                f"run {self.plan.run} has no shard {index} (it has {self.plan.shards})"
            )
        return _parse(Shard, data, _shard_path(self.folder, index))


def create(
    store: Store,
    dataset: str,
    config: Config,
    sources: Sequence[tuple[Source, int]],
    *,
    stage_names: Sequence[str] = stages.NAMES,
    shard_frames: int = 20_000,
    shard_scenes: int = 64,
    ignored: int = 0,
) -> Run:
    """Plan a run and write it.

    sources: with the estimated number of frames of each.
    A shard takes sources in order until it has `shard_frames` frames or `shard_scenes`; a run
    that is planned already keeps its shards.
    """
    if dataset == KEY_FRAMES:
        raise ConfigError(f"dataset '{dataset}': that name is taken by the tree's own folder")
    if dataset != sanitise(dataset):
        raise ConfigError(f"dataset '{dataset}': use letters, digits, '.', '_' and '-'")
    if not sources:
        raise ConfigError("nothing to do: no video and no frame folder among the inputs")
    unknown = set(stage_names) - set(stages.NAMES)
    if unknown:
        stages.get(sorted(unknown)[0])
    planned = [PlannedSource(source=s.url, name=s.name, kind=s.kind, frames=n) for s, n in sources]
    values = config.model_dump(mode="json")
    identity = [
        dataset,
        _decisive(config),
        list(stage_names),
        [(p.source, p.name) for p in planned],
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = f"{RUNS}/{dataset}-{digest[:10]}"
    shards = _count_shards(store, folder)
    if shards is None:
        cut = _pack(planned, shard_frames, shard_scenes)
        store.concurrently(lambda shard: _write_shard(store, folder, shard), cut)
        shards = len(cut)
    plan = Plan(
        run=f"{dataset}-{digest[:10]}",
        dataset=dataset,
        config=values,
        stages=[n for n in stages.NAMES if n in stage_names],
        shards=shards,
        sources=len(planned),
        frames=sum(p.frames for p in planned),
        ignored=ignored,
        software=f"dynamicverse {__version__}",
    )
    run = Run(store, plan, config)
    make_current(run)
    store.write(f"{folder}/plan.json", dump_json(plan.model_dump()))  # last: the shards are there
    return run


def make_current(run: Run) -> None:
    """The outputs of the dataset are going to be those of this run's configuration.

    They lie where another configuration has put its own. What this run knew as settled is then
    forgotten: its stages look at the manifests again. What killed writers left of the run's own
    files goes, too.
    """
    for place in (run.folder, f"{run.plan.dataset}/.sources", f"{run.plan.dataset}/.quarantine"):
        run.store.sweep(place, ABANDONED_SECONDS)
    note = f"{RUNS}/.current/{run.plan.dataset}.json"
    digest = hashlib.sha256(json.dumps(_decisive(run.config), sort_keys=True).encode()).hexdigest()
    data = dump_json({"configuration": digest})
    if run.store.read(note) != data:
        run.store.delete(run.store.sizes(f"{run.folder}/settled"))
        run.store.write(note, data)


def _decisive(config: Config) -> dict[str, Any]:
    """The settings on which outputs depend."""
    values = config.model_dump(mode="json")
    decisive = {section: v for section, v in values.items() if section != "cluster"}
    return {**decisive, "vlm": config.vlm.decisive()}


def open_run(url: str) -> Run:
    """Open a run by its URL, `<root>/.runs/<run>`.

    Raises ConfigError when nothing is planned there.
    """
    root, marker, name = url.rstrip("/").rpartition(f"/{RUNS}/")
    if not marker or "/" in name:
        raise ConfigError(f"{url}: not a run (expected ROOT/{RUNS}/NAME, as `plan` prints it)")
    return open_named(Store(root), name)


def open_named(store: Store, name: str) -> Run:
    """Open a run of a root by its name."""
    path = f"{RUNS}/{name}/plan.json"
    data = store.read(path)
    if data is None:
        raise ConfigError(f"{store.url}/{path}: no plan there; make one with `dynamicverse plan`")
    return _run(store, path, data)


def open_all(store: Store) -> list[Run]:
    """All runs of a root, in order of their names."""
    return [_run(store, f"{RUNS}/{name}/plan.json", data) for name, data in _plans(store)]


def list_runs(store: Store) -> list[str]:
    """The names of all runs of a root."""
    return [name for name, _ in _plans(store)]


def _plans(store: Store) -> list[tuple[str, bytes]]:
    """Name and plan of all runs; one whose planning was cut short has no plan yet."""
    names = store.folders(RUNS)
    plans = store.concurrently(lambda name: store.read(f"{RUNS}/{name}/plan.json"), names)
    return [(name, data) for name, data in zip(names, plans, strict=True) if data is not None]


def _run(store: Store, path: str, data: bytes) -> Run:
    plan = _parse(Plan, data, path)
    return Run(store, plan, configuration.validate(plan.config))


def _shard_path(folder: str, index: int) -> str:
    return f"{folder}/shards/{index:05d}.json"


def _count_shards(store: Store, folder: str) -> int | None:
    """Into how many shards a run was cut when it was planned before; None if it was not."""
    data = store.read(f"{folder}/plan.json")
    try:
        return None if data is None else _parse(Plan, data, folder).shards
    except ArtifactError:
        return None  # of another version of the package


def _write_shard(store: Store, folder: str, shard: Shard) -> None:
    store.write(_shard_path(folder, shard.shard), dump_json(shard.model_dump()))


def _pack(planned: Sequence[PlannedSource], most_frames: int, most_scenes: int) -> list[Shard]:
    shards: list[list[PlannedSource]] = [[]]
    frames = 0
    for source in planned:
        full = len(shards[-1]) >= most_scenes or frames + source.frames > most_frames
        if shards[-1] and full:
            shards.append([])
            frames = 0
        shards[-1].append(source)
        frames += source.frames
    return [Shard(shard=index, sources=members) for index, members in enumerate(shards)]


def _parse(model: type[M], data: bytes, path: str) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ArtifactError(f"{path}: {where}: {first['msg']}", Reason.INVALID_ARTIFACT) from error
