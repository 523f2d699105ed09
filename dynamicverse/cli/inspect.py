"""`status`, `validate`, `report`, `schema`, `doctor`: look at results and at the machine."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from dynamicverse.cli.console import print_json, print_table
from dynamicverse.errors import EXIT_BAD_INPUT, ConfigError

if TYPE_CHECKING:
    from dynamicverse.cluster.overview import Overview

Root = Annotated[str, typer.Argument(help="The output root: a folder or an fsspec URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
WATCH_SECONDS = 2.0


def status(
    root: Root,
    run: Annotated[str | None, typer.Option(help="Only this run; all if not given.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until the run is over.")] = False,
    json: Json = False,
) -> None:
    """How far the runs of a root are, from their ledgers."""
    from dynamicverse.cluster import overview
    from dynamicverse.runner import plan
    from dynamicverse.runner.store import Store

    store = Store(root)
    while True:
        runs = [plan.open_named(store, run)] if run else plan.open_all(store)
        if not runs:
            raise ConfigError(f"{root}: no runs there; make one with `dynamicverse run`")
        found = [overview.of_run(one, one.config.cluster.prices) for one in runs]
        if json:
            print_json([status.to_json() for status in found])
        else:
            for one in found:
                _print_status(one)
        if not watch or all(one.status.complete for one in found):
            return
        time.sleep(WATCH_SECONDS)


def _print_status(overview: Overview) -> None:
    found = overview.status
    state = "complete" if found.complete else f"about {found.eta_seconds} s left"
    print(f"{found.run}: {found.sources} sources, {found.scenes} scenes, {state}")
    keys = ("stage", "expected", "done", "cached", "quarantined", "blocked", "rejected")
    more = ("frames", "frames_per_second", "seconds_p50", "seconds_p95")
    rows = [[values[k] for k in (*keys, *more)] for values in (s.to_json() for s in found.stages)]
    print_table([k.replace("_", " ") for k in (*keys, *more)], rows)
    for reason, count in sorted(found.failures.items()):
        print(f"  {count} failed: {reason}")
    if overview.scenes_per_hour is not None:
        print(f"  {overview.scenes_per_hour:.0f} scenes/h")
    for cost in overview.costs:
        price = "no price" if cost.usd is None else f"${cost.usd:.2f}"
        print(f"  {cost.pool}: {cost.hours:.2f} h, {price}")


def validate(root: Root, json: Json = False) -> None:
    """Check every file of a tree against its manifest, its digest and its format."""
    from dynamicverse.runner import validate as checks
    from dynamicverse.runner.store import Store, Workspace, scratch_folder

    store = Store(root)
    findings: list[checks.Finding] = []
    with scratch_folder(store) as scratch:
        workspace = Workspace(store, scratch)
        for scene in checks.scenes(store, workspace):
            findings += checks.check(store, workspace, scene)
            workspace.evict()
    if not findings:
        raise ConfigError(f"{root}: no finished scene there")
    problems = [f for f in findings if f.problem]
    if json:
        print_json([f.to_json() for f in findings])
    else:
        for found in problems:
            print(f"{found.dataset}/{found.scene}: {found.stage}: {found.problem}")
        scenes = len({(f.dataset, f.scene) for f in findings})
        files = sum(f.files for f in findings)
        print(f"{scenes} scenes, {len(findings)} stages, {files} files: {len(problems)} problems")
    if problems:
        sys.exit(EXIT_BAD_INPUT)


def report(
    root: Root,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    json: Json = False,
) -> None:
    """Write the overview page of each dataset: its scenes, and what failed."""
    from dynamicverse.runner import records
    from dynamicverse.runner.publish import publish_index
    from dynamicverse.runner.store import Store

    store = Store(root)
    names = [dataset] if dataset else records.datasets(store)
    if not names:
        raise ConfigError(f"{root}: no datasets there")
    pages = [publish_index(store, name) for name in names]
    if json:
        print_json(pages)
    else:
        print("\n".join(pages))


def schema(
    name: Annotated[str | None, typer.Argument(help="Name of the file format.")] = None,
) -> None:
    """Print the JSON Schema of a file format; without a name, the list of them."""
    import difflib

    from dynamicverse.formats import SCHEMAS

    if name is None:
        print("\n".join(sorted(SCHEMAS)))
        return
    if name not in SCHEMAS:
        near = difflib.get_close_matches(name, list(SCHEMAS), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(SCHEMAS))}"
        raise ConfigError(f"no schema '{name}'; {hint}")
    print_json(SCHEMAS[name].model_json_schema())


def doctor(json: Json = False) -> None:
    """What this machine can run: tools, processors, and each backend with what it lacks."""
    from dynamicverse.runner.doctor import examine

    findings = examine()
    if json:
        print_json([f.to_json() for f in findings])
    else:
        rows = [(f.kind, f.name, "yes" if f.usable else "no", f.detail) for f in findings]
        print_table(("what", "name", "usable", "detail"), rows)
    if any(f.required and not f.usable for f in findings):
        sys.exit(EXIT_BAD_INPUT)
