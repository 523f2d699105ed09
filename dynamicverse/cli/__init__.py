"""The `dynamicverse` command. Each module holds one group of commands and stays thin."""

from __future__ import annotations

import sys

import typer

from dynamicverse import __version__
from dynamicverse.cli import cluster, evaluate, exporter, inspect, quarantine, run, synth, weights
from dynamicverse.cli.console import fail
from dynamicverse.errors import DynamicVerseError

app = typer.Typer(
    name="dynamicverse",
    help="From any monocular video to a 4D scene: keyframes, moving objects, masks, tracks, "
    "depth, cameras, a fused point cloud over time, and captions.\n\n"
    "Start with:  dynamicverse run clip.mp4 --out data\n\n"
    "Exit codes: 0 finished (failed scenes are in quarantine), 65 bad input or configuration, "
    "75 try again later.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"dynamicverse {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks of errors."),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Options of every command."""
    global _debug
    _debug = debug


_debug = False

app.command("run", rich_help_panel="Make scenes")(run.run)
app.command("plan", rich_help_panel="Make scenes")(run.plan)
app.command("stage", rich_help_panel="Make scenes")(run.stage)
app.command("submit", rich_help_panel="On a cluster")(cluster.submit)
app.command("cancel", rich_help_panel="On a cluster")(cluster.cancel)
app.command("resume", rich_help_panel="On a cluster")(cluster.resume)
app.command("exporter", rich_help_panel="On a cluster")(exporter.exporter)
app.add_typer(cluster.app, name="cluster", hidden=True)
app.command("status", rich_help_panel="Look at results")(inspect.status)
app.command("validate", rich_help_panel="Look at results")(inspect.validate)
app.command("report", rich_help_panel="Look at results")(inspect.report)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel="Look at results")
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Measure")
app.command("synth", rich_help_panel="Measure")(synth.synth)
app.command("schema", rich_help_panel="About the program")(inspect.schema)
app.add_typer(weights.app, name="weights", rich_help_panel="About the program")
app.command("doctor", rich_help_panel="About the program")(inspect.doctor)


def main() -> None:
    """Entry point: errors become one line and an exit code."""
    try:
        app(standalone_mode=True)
    except DynamicVerseError as error:
        if _debug:
            raise
        sys.exit(fail(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command continues where it was", file=sys.stderr)
        sys.exit(130)
