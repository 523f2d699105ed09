"""`quarantine list|show|replay`: the scenes that failed."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamicverse.cli.console import print_json, print_table, progress
from dynamicverse.errors import ConfigError

app = typer.Typer(help="Scenes that failed: why, and try them again.", no_args_is_help=True)

Root = Annotated[str, typer.Argument(help="The output root: a folder or an fsspec URL.")]
Dataset = Annotated[str | None, typer.Option(help="Only this dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_(root: Root, dataset: Dataset = None, json: Json = False) -> None:
    """One line a failed scene."""
    from dynamicverse.runner import quarantine
    from dynamicverse.runner.store import Store

    found = list(quarantine.records(Store(root), dataset))
    if json:
        print_json([r.model_dump(mode="json", exclude={"traceback"}) for r in found])
        return
    if not found:
        print("nothing in quarantine")
        return
    columns = ("dataset", "scene", "stage", "reason", "tries", "message")
    rows = [(r.dataset, r.name, r.stage, r.reason.value, r.attempt, r.message) for r in found]
    print_table(columns, rows)


@app.command()
def show(
    root: Root,
    scene: Annotated[str, typer.Argument(help="Name of the scene or source.")],
    dataset: Dataset = None,
    json: Json = False,
) -> None:
    """Everything known of a failed scene, with the traceback."""
    from dynamicverse.runner import quarantine
    from dynamicverse.runner.store import Store

    found = [r for r in quarantine.records(Store(root), dataset) if r.name == scene]
    if not found:
        raise ConfigError(f"{scene} is not in quarantine; see `dynamicverse quarantine list`")
    if json:
        print_json([r.model_dump(mode="json") for r in found])
        return
    for record in found:
        for key, value in record.model_dump(mode="json").items():
            print(f"{key}: {value}" if key != "traceback" else f"traceback:\n{value}")


@app.command()
def replay(
    root: Root,
    scenes: Annotated[list[str] | None, typer.Argument(help="Only these; all if none.")] = None,
    dataset: Dataset = None,
    workers: Annotated[int, typer.Option(min=0, help="Scenes at a time.")] = 1,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Do it on the cluster, in this namespace."),
    ] = None,
    gpu_type: Annotated[str, typer.Option(help="On the cluster: as for `submit`.")] = "any",
    priority: Annotated[str, typer.Option(help="On the cluster: as for `submit`.")] = "",
    storage_secret: Annotated[
        str, typer.Option(help="On the cluster: as for `submit`.")
    ] = "dynamicverse-storage",  # noqa: S107 - a name
    watch: Annotated[bool, typer.Option("--watch", help="On the cluster: wait for it.")] = False,
    json: Json = False,
) -> None:
    """Try failed scenes again, with the configuration of their own run."""
    from dynamicverse.runner.local import LocalRunner
    from dynamicverse.runner.replay import replays
    from dynamicverse.runner.store import Store

    store = Store(root)
    if namespace is not None:
        from dynamicverse.cli.cluster import replay_on_cluster

        parameters = {
            "gpu-type": gpu_type,
            "priority": priority,
            "storage-secret": storage_secret,
        }
        planned = replays(store, dataset, scenes)
        replay_on_cluster(planned, parameters, namespace, watch, json)
        return
    planned = replays(store, dataset, scenes)
    for one in planned:
        one.release()
        run = one.run
        with progress(run.plan.sources * len(run.plan.stages), quiet=json) as observer:
            LocalRunner(run, workers, observer)()
    list_(root, dataset, json) if planned else print("nothing to replay")
