"""`run`, `plan` and `stage`: the commands that make scenes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamicverse.cli.console import print_json, print_table, progress
from dynamicverse.errors import EXIT_BAD_INPUT, EXIT_TRANSIENT, ConfigError

if TYPE_CHECKING:
    from dynamicverse.config import Config
    from dynamicverse.runner.plan import Run

Preset = Annotated[
    str,
    typer.Option(
        help="embedded: CPU, no weights. gpu: the paper's models, some of them non-commercial."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML file: section: {key: value}.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="One setting, e.g. tracks.grid_size=30."),
]
Stages = Annotated[str | None, typer.Option(help="Only these stages, separated by commas.")]
Dataset = Annotated[str, typer.Option(help="Name of the dataset: a folder below the root.")]
VlmUrl = Annotated[
    str | None,
    typer.Option(help="An OpenAI-compatible API, with /v1 [DashScope, by DASHSCOPE_API_KEY]."),
]
VlmModel = Annotated[str | None, typer.Option(help="The model's name at that API.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def run(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Videos, frame folders, folders of them, URLs, or a list file (.txt, .jsonl).",
        ),
    ],
    out: Annotated[str, typer.Option(help="The output root: a folder or an fsspec URL.")],
    dataset: Dataset = "clips",
    preset: Preset = "embedded",
    config: ConfigFile = None,
    settings: Settings = None,
    flow_model: Annotated[
        str | None, typer.Option(help="dis, or unimatch, raft, gmflow with weights.")
    ] = None,
    grid_size: Annotated[
        int | None, typer.Option(help="Grid of point tracks along the longer side [50].")
    ] = None,
    interval: Annotated[
        int | None, typer.Option(help="Seed new tracks every so many frames [10].")
    ] = None,
    opt_intrinsics: Annotated[
        bool | None,
        typer.Option("--opt-intrinsics/--no-opt-intrinsics", help="Estimate the focal length."),
    ] = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    stages: Stages = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Scenes at a time; 0 works inside this process.")
    ] = 1,
    json: Json = False,
) -> None:
    """Turn videos into 4D scenes on this machine.

    Give the same command again after a crash or a change: only what is not done is done.

    [bold]Examples[/bold]

      dynamicverse run clip.mp4 --out data

      dynamicverse run clips/ --out data --dataset street --workers 2

      dynamicverse run frames/rgb --out s3://bucket/data --set tracks.grid_size=30
    """
    from dynamicverse.runner.local import LocalRunner
    from dynamicverse.runner.publish import publish_index
    from dynamicverse.runner.store import Store
    from dynamicverse.runner.summary import summarise

    shortcuts = {
        "keyframes.flow_model": flow_model,
        "tracks.grid_size": grid_size,
        "tracks.interval": interval,
        "reconstruction.opt_intrinsics": opt_intrinsics,
    }
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    given += vlm_settings(vlm_url, vlm_model)
    chosen = _config(preset, config, [*(settings or []), *given])
    planned = _plan(inputs, Store(out), dataset, chosen, stages, per_shard=None)
    _exit_on_sigterm()
    with progress(planned.plan.sources * len(planned.plan.stages), quiet=json) as observer:
        counts = LocalRunner(planned, workers, observer)()
    index = publish_index(planned.store, dataset)
    summary = summarise(planned)
    if json:
        print_json({"run": planned.plan.run, "counts": dict(counts), **summary.to_json()})
    else:
        columns, rows = summary.table()
        print_table(columns, rows)
        print("\n".join(summary.lines()))
        print(f"overview: {index}")
    if not summary.scenes:
        sys.exit(EXIT_BAD_INPUT)


def plan(
    source: Annotated[list[str], typer.Argument(help="As INPUT of `run`.")],
    root: Annotated[str, typer.Option(help="The output root: a folder or an fsspec URL.")],
    dataset: Dataset = "clips",
    preset: Preset = "embedded",
    config: ConfigFile = None,
    settings: Settings = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    stages: Stages = None,
    shard_scenes: Annotated[int, typer.Option(min=1, help="Most inputs in one shard.")] = 64,
    json: Json = False,
) -> None:
    """Cut a dataset into shards for a cluster; prints the run's URL for `stage --run`."""
    from dynamicverse.runner.store import Store

    given = vlm_settings(vlm_url, vlm_model)
    chosen = _config(preset, config, [*(settings or []), *given])
    planned = _plan(source, Store(root), dataset, chosen, stages, per_shard=shard_scenes)
    url = f"{planned.store.url.rstrip('/')}/{planned.folder}"
    if json:
        print_json({"url": url, **planned.plan.model_dump(mode="json")})
    else:
        print(url)


def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The stage, e.g. keyframes.")],
    run: Annotated[str, typer.Option(help="The run's URL, as `plan` printed it.")],
    shard: Annotated[int, typer.Option(min=0, help="Index of the shard.")],
    json: Json = False,
) -> None:
    """Carry out one stage for one shard of a run: what a pod does."""
    from dynamicverse.cluster.pod import reporting
    from dynamicverse.runner import plan as planning
    from dynamicverse.runner.execute import ShardWorker
    from dynamicverse.runner.store import Workspace, scratch_folder
    from dynamicverse.telemetry.pod import pod_metrics

    _exit_on_sigterm()
    opened = planning.open_run(run)
    sources = len(opened.shard(shard).sources)
    with (
        scratch_folder(opened.store) as scratch,
        progress(sources, quiet=json) as observer,
        pod_metrics(name, reporting(observer, sources)) as observe,
    ):
        worker = ShardWorker(opened, Workspace(opened.store, scratch), observe, pod=True)
        counts = worker.execute(name, shard)
    if json:
        print_json({"stage": name, "shard": shard, "counts": dict(counts)})
    else:
        print(f"{name} shard {shard}: {', '.join(f'{n} {o}' for o, n in sorted(counts.items()))}")


def vlm_settings(url: str | None, model: str | None) -> list[str]:
    """The options of the VLM service as settings; quoted, for YAML would read some as numbers."""
    import json

    given = {"vlm.url": url, "vlm.model": model}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def _exit_on_sigterm() -> None:
    """Preemption: drop the present scene, keep what is done, say "try again later"."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TRANSIENT))


def _config(preset: str, file: Path | None, settings: list[str]) -> Config:
    from dynamicverse import config

    return config.load(preset, file, settings)


def _plan(
    inputs: list[str],
    store: object,
    dataset: str,
    config: Config,
    stages: str | None,
    per_shard: int | None,
) -> Run:
    """Discover the inputs and plan a run; tells of inputs that were passed over."""
    from dynamicverse import stages as known
    from dynamicverse.curation import sources
    from dynamicverse.runner import plan as planning
    from dynamicverse.runner.store import Store

    assert isinstance(store, Store)
    names = tuple(s.strip() for s in stages.split(",")) if stages else known.NAMES
    found, ignored = sources.discover(inputs)
    if ignored:
        examples = ", ".join(ignored[:3]) + (", …" if len(ignored) > 3 else "")
        print(f"passed over {len(ignored)} files that are not media: {examples}", file=sys.stderr)
    if not found:
        raise ConfigError(f"no video and no frame folder in: {', '.join(inputs)}")
    if per_shard is None:  # on one machine: see results early, load models seldom
        per_shard = 1 if config.preset == "embedded" else 8
    weights = [(source, sources.frames_estimate(source)) for source in found]
    return planning.create(
        store,
        dataset,
        config,
        weights,
        stage_names=names,
        shard_scenes=per_shard,
        ignored=len(ignored),
    )
