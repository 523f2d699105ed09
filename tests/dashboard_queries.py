"""What the dashboards and rules ask, ready for a real Prometheus that watches a short run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynamicverse.telemetry import dashboards


@dataclass(frozen=True)
class Asked:
    """One query of a panel. instant: of the last moment alone, not of the time shown."""

    dashboard: str
    panel: str
    expr: str
    instant: bool


def panels(rate_interval: str) -> list[Asked]:
    """Every query of every dashboard, with all values of the variables chosen."""
    found = []
    for dashboard in dashboards.ALL:
        for panel in dashboard.to_json()["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"].replace("$__rate_interval", rate_interval)
                for variable in dashboard.variables:
                    expr = expr.replace(f"${variable.name}", ".*")
                instant = bool(target.get("instant")) or panel["type"] == "stat"
                found.append(Asked(dashboard.uid, panel["title"], expr, instant))
    return found


def variables() -> list[tuple[str, str, str]]:
    """(dashboard and variable, label, a query with a series for each of its values)."""
    found = []
    for dashboard in dashboards.ALL:
        for variable in dashboard.variables:
            metric = variable.metric
            for other in dashboard.variables:
                metric = metric.replace(f"${other.name}", ".*")
            name = f"{dashboard.uid}: {variable.name}"
            found.append((name, variable.label, f"count by ({variable.label}) ({metric})"))
    return found


def impatient(rules: dict[str, Any]) -> dict[str, Any]:
    """The same rules, evaluated every second, with alerts that fire at once."""
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule.pop("for", None)
    return rules


def eventually(condition: Callable[[], bool], seconds: float = 30.0, what: str = "") -> None:
    """Ask until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


def answered(asked: list[Asked], ask: Callable[[Asked], object], seconds: float = 30.0) -> None:
    """Every query has data in the end. Raises AssertionError that names those without."""
    empty = asked

    def all_answered() -> bool:
        nonlocal empty
        empty = [one for one in empty if not ask(one)]
        return not empty

    try:
        eventually(all_answered, seconds)
    except AssertionError:
        raise AssertionError("no data: " + "\n".join(map(str, empty))) from None
