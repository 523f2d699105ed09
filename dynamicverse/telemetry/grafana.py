"""Grafana's dashboard model, as far as our dashboards need it: panels, rows, variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 39
COLUMNS = 24
WRITTEN_BY = "Written by `python -m dynamicverse.telemetry.dashboards`."
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """One PromQL expression. legend: with {{label}} of its series; instant: the last value only."""

    expr: str
    legend: str = ""
    instant: bool = False
    heatmap: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel. kind: a panel type of Grafana; width: of 24 columns; text: what it shows.

    steps: from which value on which colour; colours: of series by name.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    text: str = ""
    width: int = 8
    height: int = 8
    stacked: bool = False
    largest: float | None = None
    steps: Sequence[tuple[float, str]] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel at a place of the grid."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [_target(i, query) for i, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": _OPTIONS[self.kind],
        }

    def _overrides(self) -> list[dict[str, Any]]:
        return [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
            }
            for name, colour in self.colours.items()
        ]

    def _defaults(self) -> dict[str, Any]:
        """Units, colours and limits of the values."""
        steps = [{"color": colour, "value": value} for value, colour in self.steps]
        found: dict[str, Any] = {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.steps else "palette-classic"},
            "thresholds": {
                "mode": "absolute",
                "steps": [{"color": "green", "value": None}, *steps],
            },
            "min": 0,
        }
        if self.largest is not None:
            found["max"] = self.largest
        if self.kind == "timeseries":
            found["custom"] = {
                "fillOpacity": 30 if self.stacked else 8,
                "lineWidth": 1,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none"},
            }
        return found


_REDUCE = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_LEGEND = {
    "displayMode": "table",
    "placement": "bottom",
    "showLegend": True,
    "calcs": ["lastNotNull"],
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {
        "reduceOptions": _REDUCE,
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
    },
    "bargauge": {
        "reduceOptions": _REDUCE,
        "displayMode": "gradient",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "fill": "dark-orange",
        },
        "yAxis": {"unit": "s"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False},
    },
}


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label of a metric."""

    name: str
    metric: str
    label: str

    def to_json(self) -> dict[str, Any]:
        """The variable; several values may be chosen, and all are at first."""
        query = f"label_values({self.metric}, {self.label})"
        return {
            "name": self.name,
            "label": self.name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": "variable"},
            "refresh": 2,  # when the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


@dataclass(frozen=True)
class Dashboard:
    """rows: title → panels, in order."""

    uid: str
    title: str
    text: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Sequence[Variable] = field(default=())
    span: str = "now-6h"

    def to_json(self) -> dict[str, Any]:
        """The dashboard as Grafana imports it."""
        return {
            "uid": f"dynamicverse-{self.uid}",
            "title": f"DynamicVerse / {self.title}",
            "description": f"{self.text} {WRITTEN_BY}",
            "tags": ["dynamicverse"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": self.span, "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_datasource(), *(v.to_json() for v in self.variables)]},
            "links": [_link()],
            "annotations": {"list": []},
            "panels": self._panels(),
        }

    def _panels(self) -> list[dict[str, Any]]:
        """Rows and panels, laid out from left to right and top to bottom."""
        made: list[dict[str, Any]] = []
        y = 0
        for title, panels in self.rows:
            made.append(_row(len(made) + 1, title, y))
            y += 1
            x = tallest = 0
            for panel in panels:
                if x + panel.width > COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                made.append(panel.to_json(len(made) + 1, x, y))
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
        return made


def _target(index: int, query: Query) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": query.instant,
        "range": not query.instant,
        "format": "heatmap" if query.heatmap else "time_series",
    }


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        "panels": [],
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _link() -> dict[str, Any]:
    """To the other dashboards, with the time and the choices kept."""
    return {
        "type": "dashboards",
        "title": "DynamicVerse",
        "tags": ["dynamicverse"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "icon": "external link",
        "tooltip": "",
        "url": "",
        "targetBlank": False,
    }
