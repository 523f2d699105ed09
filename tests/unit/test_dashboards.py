"""Grafana's dashboards: as generated, of Grafana's schema, with queries that can be answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import charts
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units
from metric_names import KNOWN, selectors, used

from dynamicverse import stages
from dynamicverse.telemetry import dashboards, figures, grafana

FILES = sorted((charts.ROOT / dashboards.FOLDER).glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in FILES}
VARIABLE = re.compile(r"\$(\w+)")
LABELS = {
    "dataset", "run", "stage", "state", "outcome", "reason", "direction", "pool", "le",
    "model_name", "finished_reason", "namespace", "pod", "gpu", "Hostname", "instance",
}  # fmt: skip


def recorded() -> set[str]:
    text = (charts.CHARTS["dynamicverse-monitoring"] / "files" / "rules.yaml").read_text()
    groups = yaml.safe_load(text)["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def panels(name: str) -> list[dict[str, Any]]:
    return [p for p in DASHBOARDS[name]["panels"] if p["type"] != "row"]


def expressions() -> list[tuple[str, str, str]]:
    """(dashboard, panel, expression without variables) of every target."""
    return [
        (name, panel["title"], grafana_to_promql(target["expr"]))
        for name in DASHBOARDS
        for panel in panels(name)
        for target in panel["targets"]
    ]


def grafana_to_promql(expr: str) -> str:
    """What Grafana sends to Prometheus when all values are chosen."""
    return VARIABLE.sub(".*", expr.replace("$__rate_interval", "1m"))


def test_the_five_dashboards_are_there() -> None:
    assert set(DASHBOARDS) == {"throughput", "run", "stage", "vlm", "gpus"}


def test_files_are_as_generated() -> None:
    for name, text in dashboards.render().items():
        path = charts.ROOT / dashboards.FOLDER / name
        assert path.read_text("utf-8") == text, grafana.WRITTEN_BY


def test_drift_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dashboards.main(["--check"]) == 1
    assert dashboards.main([]) == 0
    assert dashboards.main(["--check"]) == 0
    path = tmp_path / dashboards.FOLDER / "run.json"
    path.write_text(path.read_text("utf-8").replace("Progress", "Regress"))
    assert dashboards.main(["--check"]) == 1
    assert "run.json" in capsys.readouterr().err


def missing(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where something of ours is absent or different in theirs."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return [path]
        return [m for key, v in ours.items() for m in missing(v, theirs.get(key), f"{path}.{key}")]
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return [path]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [m for i, (a, b) in pairs for m in missing(a, b, f"{path}[{i}]")]
    return [] if ours == theirs else [path]


def through_grafanas_model(value: dict[str, Any]) -> Any:
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(model.Dashboard.from_json(value)))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_own_model_keeps_everything(name: str) -> None:
    """Grafana's generated types read it; a field they do not know, or misplaced, is lost."""
    assert missing(DASHBOARDS[name], through_grafanas_model(DASHBOARDS[name])) == []


def test_the_model_would_notice_a_misspelt_field() -> None:
    broken = json.loads(json.dumps(DASHBOARDS["run"]))
    broken["panels"][1]["gridPoss"] = broken["panels"][1].pop("gridPos")
    broken["panels"][2]["fieldConfig"]["defaults"]["units"] = "s"
    lost = missing(broken, through_grafanas_model(broken))
    assert [path.rsplit(".", 1)[1] for path in lost] == ["gridPoss", "units"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_ids_and_places(name: str) -> None:
    found = DASHBOARDS[name]
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    assert found["uid"] == f"dynamicverse-{name}"
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= grafana.COLUMNS
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells


def test_units_are_grafanas() -> None:
    known = {v for k, v in vars(units).items() if isinstance(v, str) and not k.startswith("_")}
    for name in DASHBOARDS:
        for panel in panels(name):
            assert panel["fieldConfig"]["defaults"]["unit"] in known, panel["title"]


@pytest.mark.parametrize(("name", "title", "expr"), expressions())
def test_expression_is_promql_over_known_metrics(name: str, title: str, expr: str) -> None:
    unknown = used(expr) - KNOWN - recorded()
    assert not unknown, f"{name}: {title}: {unknown}"


@pytest.mark.parametrize(("name", "title", "expr"), expressions())
def test_matchers_use_labels_and_values_that_exist(name: str, title: str, expr: str) -> None:
    values = {
        "state": {*figures.OUTCOMES, exposition_pending()},
        "outcome": set(figures.OUTCOMES),
        "stage": set(stages.NAMES),
    }
    for selector in selectors(promql_parser.parse(expr)):
        for matcher in selector.matchers.matchers:
            assert matcher.name in LABELS, f"{name}: {title}: {matcher.name}"
            if matcher.name in values and matcher.value != ".*":
                assert matcher.value in values[matcher.name], f"{name}: {title}: {matcher.value}"


def exposition_pending() -> str:
    from dynamicverse.telemetry.exposition import PENDING

    return PENDING


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_declared_and_used(name: str) -> None:
    found = DASHBOARDS[name]
    declared = {v["name"] for v in found["templating"]["list"]}
    text = json.dumps({**found, "templating": None})
    mentioned = set(VARIABLE.findall(text)) | set(re.findall(r"\$\{(\w+)\}", text))
    assert mentioned - {"__rate_interval"} == declared
    for variable in found["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.match(r"label_values\(([\w:]+)", variable["query"]["query"])
            assert metric is not None
            assert metric[1] in KNOWN | recorded()


@pytest.mark.parametrize(
    "wanted",
    [
        "Scenes per hour", "Frames per second", "Time left", "Progress", "GPU seconds a scene",
        "Dollars a scene", "Seconds a scene, median and 95th percentile", "Failures by reason",
        "In quarantine", "Tries beyond the first", "Waiting for a node",
        "Share of the time that loads models", "Bytes from and to storage",
        "Running and waiting", "Time to the first token", "Tokens per second", "Cache hits",
        "Allocated and busy",
    ],
)  # fmt: skip
def test_what_the_engineers_ask_for_is_shown(wanted: str) -> None:
    assert wanted in {panel["title"] for name in DASHBOARDS for panel in panels(name)}
