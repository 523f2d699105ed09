"""How the commands speak: errors in one line, tables, JSON, progress bars."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamicverse.errors import EXIT_BAD_INPUT, EXIT_TRANSIENT, DynamicVerseError

if TYPE_CHECKING:
    from dynamicverse.runner.events import Event, Observer


MAX_TERMINATION_MESSAGE = 1000  # characters; Kubernetes keeps 4096 bytes


def fail(error: DynamicVerseError) -> int:
    """Print an error as one line; returns the exit code that its reason asks for.

    A pod's container also leaves it where Kubernetes looks for the reason of an end.
    """
    text = " ".join(str(error).split())
    print(f"dynamicverse: error: {text}", file=sys.stderr)
    if log := os.environ.get("DYNAMICVERSE_TERMINATION_LOG"):
        Path(log).write_text(text[:MAX_TERMINATION_MESSAGE], "utf-8")
    return EXIT_TRANSIENT if error.reason.transient else EXIT_BAD_INPUT


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True, allow_nan=False)
    print()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table: numbers to the right, readable in a terminal and in a log."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows) and rows
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(units: int, quiet: bool) -> Iterator[Observer]:
    """Bars for a run with `units` (source, stage) steps; on a terminal only.

    Warnings and failures are printed in either case, one line each, to standard error.
    """
    if quiet or not sys.stderr.isatty():
        yield _print_problem
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True, highlight=False)
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    total = bars.add_task("all", total=units)
    active: dict[tuple[str, str], Any] = {}

    def observe(event: Event) -> None:
        name = (event.stage, event.name)
        if event.kind == "start":
            active[name] = bars.add_task(f"{event.name}: {event.stage}", total=None)
        elif event.kind == "progress" and name in active:
            bars.update(active[name], completed=event.done, total=event.total or None)
        elif event.kind == "warning":
            console.print(_problem(event), markup=False)
        elif event.kind == "finish":
            if name in active:
                bars.remove_task(active.pop(name))
            bars.advance(total)
            if event.reason:
                console.print(_problem(event), markup=False)

    with bars:
        yield observe


def _print_problem(event: Event) -> None:
    if event.kind == "warning" or (event.kind == "finish" and event.reason):
        print(_problem(event), file=sys.stderr)


def _problem(event: Event) -> str:
    what = f"failed ({event.reason})" if event.reason else "warning"
    return f"{event.name}: {event.stage}: {what}: {event.message}"
