"""Which metrics exist, and which an expression uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from dynamicverse.runner.events import silent
from dynamicverse.telemetry import exposition, pod
from dynamicverse.telemetry.exporter import Exporter

FOLDER = Path(__file__).parent / "expositions"


def _ours() -> set[str]:
    """Names of the exporter's and the pods' samples; counters and histograms by their parts."""
    exporter = Exporter.__new__(Exporter)  # no store: only the names are asked for
    exporter._refreshed = exporter._took = 1.0
    exporter._errors, exporter._left_out, exporter._shown = 0, 0, ()
    families = [*exporter.collect(), *pod.PodMetrics("tracks", silent).registry.collect()]
    families += exposition.of_runs([])
    parts = {
        "counter": ("_total",),
        "gauge": ("",),
        "summary": ("_count", "_sum"),
        "histogram": ("_count", "_sum", "_bucket"),
    }
    return {f.name + part for f in families for part in parts[f.type]}


def _theirs() -> set[str]:
    """Names in the recorded expositions of other programs."""
    found = set()
    for path in FOLDER.glob("*.txt"):
        for family in text_string_to_metric_families(path.read_text()):
            found |= {sample.name for sample in family.samples}
    return found


KNOWN = _ours() | _theirs()


def selectors(expression: Any) -> Iterator[Any]:
    """All vector selectors in a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from selectors(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from selectors(inner)


def used(expr: str) -> set[str]:
    """Names of the metrics that an expression reads."""
    return {str(found.name) for found in selectors(promql_parser.parse(expr))}
