"""`submit`, `cancel`, `resume`, and the steps that a Workflow's own pods run."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamicverse.cli.console import print_json
from dynamicverse.cli.run import VlmModel, VlmUrl, vlm_settings
from dynamicverse.errors import EXIT_BAD_INPUT, DynamicVerseError

if TYPE_CHECKING:
    from dynamicverse.cluster.workflow import Cluster, State
    from dynamicverse.runner.replay import Replay

app = typer.Typer(help="Steps of a Workflow; its pods call these.", no_args_is_help=True)

Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="The namespace that argo/ is installed in.")
]
Context = Annotated[str | None, typer.Option(help="The kubeconfig context, if not the current.")]
Name = Annotated[str, typer.Argument(help="The Workflow's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def submit(
    root: Annotated[str, typer.Option(help="The output root, as the cluster's pods see it.")],
    source: Annotated[
        list[str] | None, typer.Argument(help="As INPUT of `run`, as the pods see it.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="Name of the dataset.")] = "clips",
    preset: Annotated[str, typer.Option(help="embedded or gpu.")] = "embedded",
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file: section: {key: value}.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="One setting, e.g. tracks.grid_size=30."),
    ] = None,
    vlm_url: VlmUrl = None,
    vlm_model: VlmModel = None,
    stages: Annotated[str, typer.Option(help="all, or stages separated by commas.")] = "all",
    run: Annotated[str, typer.Option(help="Continue this planned run (its URL).")] = "",
    shard_scenes: Annotated[int, typer.Option(min=1, help="Most inputs in one shard.")] = 64,
    gpu_type: Annotated[str, typer.Option(help="nvidia.com/gpu.product of the nodes.")] = "any",
    priority: Annotated[str, typer.Option(help="A PriorityClass for all pods.")] = "",
    storage_secret: Annotated[
        str, typer.Option(help="Secret with the storage's credentials.")
    ] = "dynamicverse-storage",  # noqa: S107 - a name
    namespace: Namespace = "default",
    context: Context = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    json: Json = False,
) -> None:
    """Process a dataset on a Kubernetes cluster with Argo Workflows.

    The configuration is checked here before anything is created; the plan is made in the
    cluster. Given again, only what is left is done.
    """
    import yaml

    from dynamicverse import config as configuration
    from dynamicverse.cluster.workflow import Cluster

    given = vlm_settings(vlm_url, vlm_model)
    chosen = configuration.load(preset, config, [*(settings or []), *given])
    parameters = {
        "source": "\n".join(source or []),
        "root": root,
        "dataset": dataset,
        "preset": preset,
        "settings": yaml.safe_dump(_differences(chosen, preset), default_flow_style=True).strip(),
        "stages": stages,
        "run": run,
        "shard-scenes": str(shard_scenes),
        "gpu-type": gpu_type,
        "priority": priority,
        "storage-secret": storage_secret,
    }
    cluster = Cluster(namespace, context)
    _follow(cluster, [cluster.create(parameters)], watch, json)


def cancel(name: Name, namespace: Namespace = "default", context: Context = None) -> None:
    """Stop a Workflow: pods end within their grace, what is done stays."""
    from dynamicverse.cluster.workflow import Cluster

    for one in Cluster(namespace, context).cancel(name):
        print(f"stopped {one}")


def resume(
    name: Name,
    namespace: Namespace = "default",
    context: Context = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    json: Json = False,
) -> None:
    """Go on with what a cancelled or failed Workflow has left, in a new one."""
    from dynamicverse.cluster.workflow import Cluster

    cluster = Cluster(namespace, context)
    _follow(cluster, [cluster.resume(name)], watch, json)


def replay_on_cluster(
    replays: list[Replay], parameters: dict[str, str], namespace: str, watch: bool, json: bool
) -> None:
    """Take scenes out of quarantine and submit one Workflow for each run they failed in."""
    from dynamicverse.cluster.workflow import Cluster

    cluster = Cluster(namespace)  # before anything leaves quarantine
    if not replays:
        print("nothing to replay", file=sys.stderr)
    names = []
    for one in replays:
        store = one.run.store
        own = {
            "run": f"{store.url.rstrip('/')}/{one.run.folder}",
            "root": store.url,
            "dataset": one.run.plan.dataset,
            "preset": one.run.config.preset,
        }
        one.release()
        try:
            names.append(cluster.create({**parameters, **own}))
        except DynamicVerseError:
            one.withdraw()
            raise
    _follow(cluster, names, watch, json)


def _follow(cluster: Cluster, names: list[str], watch: bool, json: bool) -> None:
    """Print the names of new Workflows; with `watch`, their states, and exit with their end."""
    states = [_watch(cluster, name, json) for name in names] if watch else []
    if json:
        print_json([asdict(s) for s in states] if watch else [{"name": n} for n in names])
    elif not watch:
        print("\n".join(names))
    if any(state.phase != "Succeeded" for state in states):
        sys.exit(EXIT_BAD_INPUT)


def _watch(cluster: Cluster, name: str, quiet: bool) -> State:
    """Follow one Workflow to its end, a line whenever its state changes."""
    last = None
    for state in cluster.watch(name):
        if state != last and not quiet:
            print(f"{name}: {state.phase} {state.progress} {state.message}".rstrip(), flush=True)
        last = state
    assert last is not None
    return last


def _differences(config: object, preset: str) -> dict[str, object]:
    """The settings that differ from the preset's, section by section."""
    from dynamicverse import config as configuration

    assert isinstance(config, configuration.Config)
    base = configuration.load(preset).model_dump(mode="json")
    return _changed(base, config.model_dump(mode="json"))


def _changed(base: dict[str, object], now: dict[str, object]) -> dict[str, object]:
    changed: dict[str, object] = {}
    for key, value in now.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _changed(old, value):
                changed[key] = inner
        elif value != old:
            changed[key] = value
    return changed


@app.command("plan")
def plan_step(
    root: Annotated[str, typer.Option()],
    outputs: Annotated[Path, typer.Option(help="Folder for the step's output parameters.")],
    workflow: Annotated[str, typer.Option(help="The Workflow's name.")],
    source: Annotated[str, typer.Option(help="One input a line.")] = "",
    dataset: Annotated[str, typer.Option()] = "clips",
    preset: Annotated[str, typer.Option()] = "embedded",
    settings: Annotated[str, typer.Option(help="Configuration as YAML.")] = "",
    stages: Annotated[str, typer.Option()] = "all",
    run: Annotated[str, typer.Option()] = "",
    shard_scenes: Annotated[int, typer.Option(min=1)] = 64,
    wave_shards: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    """Plan, and write what the following steps need."""
    from dynamicverse.cluster import planning

    request = planning.Request(root, source, dataset, preset, settings, stages, run, shard_scenes)
    work = planning.plan(request, wave_shards)
    planning.remember(work.run, workflow)
    outputs.mkdir(parents=True, exist_ok=True)
    for name, value in work.outputs().items():
        (outputs / name).write_text(value, "utf-8")
    total = work.run.plan.shards
    print(f"run {work.run.plan.run}: {len(work.shards)} of {total} shards have work left")


@app.command("finish")
def finish_step(
    root: Annotated[str, typer.Option()],
    workflow: Annotated[str, typer.Option()],
    status: Annotated[str, typer.Option()],
    seconds: Annotated[float, typer.Option()] = 0.0,
) -> None:
    """Write the overview page and the run's summary."""
    from dynamicverse.cluster import planning
    from dynamicverse.runner.store import Store

    summary = planning.finish(Store(root), workflow, status, seconds)
    if summary is None:
        print(f"workflow {workflow} ended ({status}) before it had a plan: nothing to sum up")
    else:
        print_json(summary)
