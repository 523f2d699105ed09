"""The first and the last step of a dataset's Workflow: plan, and sum up."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynamicverse import config as configuration
from dynamicverse import stages
from dynamicverse.cluster import overview
from dynamicverse.cluster.pending import pending
from dynamicverse.config import Config
from dynamicverse.curation import sources
from dynamicverse.errors import ConfigError
from dynamicverse.runner import plan as planning
from dynamicverse.runner.plan import RUNS, Run
from dynamicverse.runner.publish import publish_index
from dynamicverse.runner.store import Store, dump_json


@dataclass(frozen=True)
class Request:
    """What the user asked for; text, as Workflow parameters are.

    source: one input a line. settings: configuration as YAML. stages: `all` or names with
    commas. run: the URL of a run that is planned already; then only root and this count.
    """

    root: str
    source: str = ""
    dataset: str = "clips"
    preset: str = "embedded"
    settings: str = ""
    stages: str = "all"
    run: str = ""
    shard_scenes: int = 64


@dataclass(frozen=True)
class Work:
    """A planned run and the shards that are left. waves: parts of them, when they are many."""

    run: Run
    shards: list[int]
    waves: list[list[int]]

    def outputs(self) -> dict[str, str]:
        """The output parameters of the plan step."""
        waves = [spans(part) for part in self.waves]
        return {
            "run": f"{self.run.store.url.rstrip('/')}/{self.run.folder}",
            "stages": ",".join(self.run.plan.stages),
            "shards": json.dumps([] if self.waves else self.shards),
            "waves": json.dumps(waves),
        }


def spans(shards: list[int]) -> str:
    """Ascending indices as `0-4,7`: short, because it stands in several fields of a Workflow."""
    ends: list[list[int]] = []
    for shard in shards:
        if ends and ends[-1][1] == shard - 1:
            ends[-1][1] = shard
        else:
            ends.append([shard, shard])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


def plan(request: Request, wave_shards: int) -> Work:
    """Plan a run, or open the one that the request names, and find what is left of it.

    More than `wave_shards` shards are cut into waves of at most that many.
    """
    run = _open(request) if request.run else _create(request)
    shards = pending(run)
    waves: list[list[int]] = []
    if len(shards) > wave_shards:
        waves = [shards[i : i + wave_shards] for i in range(0, len(shards), wave_shards)]
    return Work(run, shards, waves)


def _open(request: Request) -> Run:
    """The run that the request names; root and preset decide on pods, so they must be its own."""
    run = planning.open_run(request.run)
    root = run.store.url.rstrip("/")
    if request.root.rstrip("/") != root:
        raise ConfigError(f"run {request.run} lies under root {root}: give root={root}")
    if request.preset != run.config.preset:
        raise ConfigError(
            f"run {run.plan.run} was planned with preset {run.config.preset}: "
            f"give preset={run.config.preset}"
        )
    planning.make_current(run)
    return run


def _create(request: Request) -> Run:
    inputs = [line.strip() for line in request.source.splitlines() if line.strip()]
    if not inputs:
        raise ConfigError("no source: give source=URL, or run=URL of a run that is planned")
    config = load_config(request.preset, request.settings)
    names: tuple[str, ...] = stages.NAMES
    if request.stages != "all":
        names = tuple(name.strip() for name in request.stages.split(","))
    found, ignored = sources.discover(inputs)
    if not found:
        raise ConfigError(f"no video and no frame folder in: {', '.join(inputs)}")
    return planning.create(
        Store(request.root),
        request.dataset,
        config,
        [(source, sources.frames_estimate(source)) for source in found],
        stage_names=names,
        shard_scenes=request.shard_scenes,
        ignored=len(ignored),
    )


def load_config(preset: str, settings: str) -> Config:
    """The configuration from a preset and YAML text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        file.write_text(settings, "utf-8")
        return configuration.load(preset, file)


def remember(run: Run, workflow: str) -> None:
    """Note which run a Workflow works on, for its last step and for `submit --watch`."""
    run.store.write(_note(workflow), dump_json({"run": run.plan.run}))


def run_of(store: Store, workflow: str) -> Run | None:
    """The run that a Workflow works on; None when it never got as far as a plan."""
    data = store.read(_note(workflow))
    return None if data is None else planning.open_named(store, json.loads(data)["run"])


def _note(workflow: str) -> str:
    return f"{RUNS}/.workflows/{workflow}.json"


def finish(store: Store, workflow: str, phase: str, seconds: float) -> dict[str, Any] | None:
    """Write the overview page and `<run>/summary.json`; returns the summary.

    None when the Workflow ended before it had a plan.
    """
    run = run_of(store, workflow)
    if run is None:
        return None
    summary = {
        "workflow": workflow,
        "phase": phase,
        "seconds": seconds,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **overview.of_run(run, run.config.cluster.prices).to_json(),
    }
    store.write(f"{run.folder}/summary.json", dump_json(summary))
    publish_index(store, run.plan.dataset)
    return summary
