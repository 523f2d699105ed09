"""Draw the dashboards of a finished run, with the queries that Grafana would send.

python tests/picture_dashboards.py ROOT OUT      ROOT: an output root with one finished run

The run's ledger is replayed through the exporter, its figures go into a real Prometheus with the
times at which they were true, and every panel is drawn from the answers of that server. Grafana's
server is not needed; the pictures show what its panels would, not how they would look.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import charts
import matplotlib.pyplot as plt
import numpy as np
import yaml
from ledger_replay import Replay
from metric_names import used
from prometheus_server import Prometheus, prometheus
from promtool import promtool

from dynamicverse.runner.store import Store
from dynamicverse.telemetry import dashboards
from dynamicverse.telemetry.exporter import Exporter
from dynamicverse.telemetry.grafana import Dashboard

STEP = 2.0  # s between two scrapes
DRAWN = ("throughput", "run", "stage")  # the others show servers that a run alone has not
SIZE = (0.75, 0.42)  # inches of a cell of the grid
Series = tuple[dict[str, str], np.ndarray, np.ndarray]


def history(root: Path, folder: Path) -> tuple[float, float]:
    """Scrape the run as it grew, into `folder`'s tsdb; returns the first and last time."""
    replay = Replay(root, folder / "replay")
    now = first = replay.next_time - 5 * STEP
    exporter = Exporter(Store(str(replay.root)), clock=lambda: now)
    lines: dict[str, list[str]] = {}
    quiet = 0
    while replay.left or quiet < 10:
        while replay.left and replay.next_time <= now:
            replay.write(1)
        quiet += not replay.left
        exporter.refresh()
        for family in exporter.collect():
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sample.labels.items())
                line = f"{sample.name}{{{labels}}} {sample.value} {now:.3f}"
                lines.setdefault(family.name, []).append(line)
        now += STEP
    text = "\n".join(line for group in lines.values() for line in group) + "\n# EOF\n"
    (folder / "history.om").write_text(text)
    fill("openmetrics", str(folder / "history.om"), str(folder / "tsdb"))
    return first, now


def fill(*arguments: str) -> None:
    done = promtool("tsdb", "create-blocks-from", *arguments)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def record(server: Prometheus, folder: Path, first: float, last: float) -> None:
    """Evaluate the recording rules over the whole time: first those that need no others."""
    text = (charts.CHARTS["dynamicverse-monitoring"] / "ci" / "output-defaults.yaml").read_text()
    groups = charts.one(charts.documents(text), "PrometheusRule")["spec"]["groups"]
    runs = next(g for g in groups if g["name"] == "dynamicverse.runs")
    made = {rule["record"] for rule in runs["rules"]}
    there = {name for name in made if server.query(f"last_over_time({name}[1h] @ {last})")}
    rules = [r for r in runs["rules"] if bool(used(r["expr"]) & made) == bool(there)]
    file = folder / "record.yaml"
    file.write_text(
        yaml.safe_dump({"groups": [{**runs, "interval": f"{int(STEP)}s", "rules": rules}]})
    )
    fill(
        "rules", f"--url={server.url}", f"--start={int(first)}", f"--end={int(last)}",
        f"--eval-interval={int(STEP)}s", f"--output-dir={folder / 'tsdb'}", str(file),
    )  # fmt: skip


def ask(server: Prometheus, expr: str, first: float, last: float) -> Iterator[Series]:
    """(labels, times, values) of a range query."""
    found = server.get("query_range", query=expr, start=str(first), end=str(last), step=str(STEP))
    for one in found["result"]:
        times, values = np.array(one["values"], float).T
        if np.isfinite(values).any():
            yield one["metric"], times - first, values


def text_of(value: float, unit: str) -> str:
    """A value with its unit, short."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s":
        return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"
    if unit == "currencyUSD":
        return f"${value:.4f}" if value < 0.1 else f"${value:.2f}"
    if unit in ("bytes", "Bps"):
        return f"{value / 1e6:.0f} MB{'/s' if unit == 'Bps' else ''}"
    return f"{value:.3g}"


def name_of(labels: dict[str, str], legend: str) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda m: labels.get(m[1], ""), legend)


def draw_panel(axes: Any, panel: dict[str, Any], answers: list[tuple[str, list[Series]]]) -> None:
    """One panel from the answers to its queries: (legend, series)."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(panel["title"], fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    series = [(name_of(ls, legend), t, v) for legend, found in answers for ls, t, v in found]
    if panel["type"] in ("stat", "bargauge"):  # what is true at the end
        end = max((t[-1] for _, t, _ in series), default=0.0)
        series = [one for one in series if one[1][-1] == end]
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", color="grey", transform=axes.transAxes)
        axes.set_axis_off()
    elif panel["type"] == "stat":
        last = text_of(series[-1][2][-1], unit)
        axes.text(0.5, 0.4, last, ha="center", fontsize=16, transform=axes.transAxes)
        axes.set_axis_off()
    elif panel["type"] == "bargauge":
        names = [name for name, _, _ in series]
        bars = axes.barh(names, [v[-1] for _, _, v in series], color="tab:green")
        axes.bar_label(bars, [text_of(v[-1], unit) for _, _, v in series], fontsize=6)
        axes.invert_yaxis()
    elif panel["type"] == "heatmap":
        draw_heatmap(axes, answers[0][1])
    else:
        stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
        colours = {o["matcher"]["options"]: o["properties"][0]["value"]["fixedColor"]
                   for o in panel["fieldConfig"]["overrides"]}  # fmt: skip
        draw_lines(axes, series, stacked, colours)
        axes.yaxis.set_major_formatter(lambda value, _: text_of(value, unit))


def draw_lines(
    axes: Any,
    series: list[tuple[str, np.ndarray, np.ndarray]],
    stacked: bool,
    colours: dict[str, str],
) -> None:
    if stacked:
        times = max((t for _, t, _ in series), key=len)
        values = [np.interp(times, t, np.nan_to_num(v), left=0) for _, t, v in series]
        names = [name for name, _, _ in series]
        chosen = [colours[name] for name in names] if colours else None
        axes.stackplot(times, values, labels=names, colors=chosen, alpha=0.7)
    else:
        for name, times, values in series:
            axes.plot(times, values, label=name, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s", fontsize=6, loc="right")
    axes.legend(fontsize=5, ncols=2, loc="upper left", framealpha=0.5)


def draw_heatmap(axes: Any, found: list[Series]) -> None:
    ordered = sorted(found, key=lambda one: float(one[0]["le"].replace("+Inf", "inf")))
    times = max((t for _, t, _ in ordered), key=len)
    table = np.array([np.interp(times, t, v, left=0) for _, t, v in ordered])
    axes.pcolormesh(
        times, np.arange(len(ordered)), np.diff(table, axis=0, prepend=0), cmap="Oranges"
    )
    axes.set_yticks(np.arange(len(ordered)), [labels["le"] for labels, _, _ in ordered])


def answers_of(
    server: Prometheus, dashboard: Dashboard, panel: dict[str, Any], first: float, last: float
) -> list[tuple[str, list[Series]]]:
    """(legend, series) of each query of a panel, all values of the variables chosen."""
    answers = []
    for query in panel["targets"]:
        expr = query["expr"].replace("$__rate_interval", "30s")
        for variable in dashboard.variables:
            expr = expr.replace(f"${variable.name}", ".*")
        answers.append((query["legendFormat"], list(ask(server, expr, first, last))))
    return answers


def draw(server: Prometheus, dashboard: Dashboard, target: Path, first: float, last: float) -> None:
    """One dashboard as a PNG, down to the last panel that has data."""
    panels = [p for p in dashboard.to_json()["panels"] if p["type"] != "row"]
    answers = [answers_of(server, dashboard, panel, first, last) for panel in panels]
    bottoms = [
        panel["gridPos"]["y"] + panel["gridPos"]["h"]
        for panel, found in zip(panels, answers, strict=True)
        if any(series for _, series in found)
    ]
    rows = max(bottoms)
    figure = plt.figure(figsize=(24 * SIZE[0], (rows + 2) * SIZE[1]))
    figure.suptitle(dashboard.to_json()["title"], fontsize=11, y=1 - 0.4 / (rows + 2))
    for panel, found in zip(panels, answers, strict=True):
        at = panel["gridPos"]
        if at["y"] < rows:
            place = ((at["x"] + 1.4) / 24.5, 1 - (at["y"] + at["h"] + 0.6) / (rows + 2),
                     (at["w"] - 1.8) / 24.5, (at["h"] - 1.6) / (rows + 2))  # fmt: skip
            draw_panel(figure.add_axes(place), panel, found)
    figure.savefig(target, dpi=80)
    plt.close(figure)


def main(root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, last = history(root, folder)
        for _ in range(2):
            with prometheus(folder, {"groups": []}, {}) as server:
                record(server, folder, first, last)
        with prometheus(folder, {"groups": []}, {}) as server:
            for dashboard in dashboards.ALL:
                if dashboard.uid in DRAWN:
                    draw(server, dashboard, out / f"{dashboard.uid}.png", first, last)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
