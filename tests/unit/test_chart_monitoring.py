"""helm/dynamicverse-monitoring: its manifests, its rules, and every alert fired by promtool."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import charts
import kubernetes_validate
import pytest
import yaml
from promtool import promtool

from dynamicverse import __version__

CHART = "dynamicverse-monitoring"
FOLDER = charts.CHARTS[CHART]
VALUES = charts.values_files(CHART)
CASES = Path(__file__).with_name("alert_cases.yaml")
ROOT = "exporter.root=s3://bucket/scenes"
needs_helm = pytest.mark.skipif(
    charts.find("helm", *charts.HELM_PLACES) is None,
    reason="no `helm` program (`python tests/get_tools.py`, or set HELM)",
)


def golden(name: str) -> list[charts.Manifest]:
    return charts.documents((FOLDER / "ci" / f"output-{name}.yaml").read_text())


def rules(name: str = "defaults") -> dict[str, Any]:
    found: dict[str, Any] = charts.one(golden(name), "PrometheusRule")["spec"]
    return found


def alerts(name: str = "defaults") -> dict[str, dict[str, Any]]:
    groups = rules(name)["groups"]
    return {r["alert"]: r for group in groups for r in group["rules"] if "alert" in r}


@needs_helm
@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_render_is_the_golden_one(values: Path) -> None:
    expected = charts.documents(charts.output(values).read_text())
    assert charts.render(CHART, values) == expected, "run `python tests/charts.py`"


@needs_helm
@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda p: p.stem if p else "defaults")
def test_lint_is_clean(values: Path | None) -> None:
    extra = ["--values", str(values)] if values else []
    done = charts.helm("lint", "--strict", str(FOLDER), *extra)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_manifests_are_valid(values: Path) -> None:
    for manifest in charts.documents(charts.output(values).read_text()):
        if manifest["apiVersion"].split("/")[0] not in charts.CUSTOM_GROUPS:
            kubernetes_validate.validate(manifest, charts.KUBERNETES, strict=True)


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((FOLDER / "Chart.yaml").read_text())["appVersion"] == __version__
    container = charts.one(golden("defaults"), "Deployment")["spec"]["template"]["spec"]
    assert container["containers"][0]["image"] == f"dynamicverse/control:{__version__}"


def test_with_the_operator_and_without() -> None:
    with_it = {m["kind"] for m in golden("defaults")}
    without = {m["kind"] for m in golden("plain")}
    assert with_it >= {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert not without & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    annotations = charts.one(golden("plain"), "Service")["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"


def plain_files() -> dict[str, str]:
    name = "test-dynamicverse-monitoring-prometheus"
    found: dict[str, str] = charts.one(golden("plain"), "ConfigMap", name)["data"]
    return found


def test_files_for_a_plain_prometheus_are_valid(tmp_path: Path) -> None:
    """Debian's promtool knows no Kubernetes discovery: that part is compared with its fields."""
    for name, text in plain_files().items():
        (tmp_path / name).write_text(text)
    config = yaml.safe_load(plain_files()["dynamicverse.scrape.yaml"])
    for job in config["scrape_configs"]:
        (discovery,) = job.pop("kubernetes_sd_configs")
        assert discovery["role"] in ("pod", "endpoints")
        assert discovery["namespaces"] == {"names": ["vision"]}
    config["rule_files"] = ["dynamicverse.rules.yaml"]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    done = promtool("check", "config", str(tmp_path / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_monitors_select_what_the_chart_and_the_jobs_make() -> None:
    manifests = golden("defaults")
    service = charts.one(manifests, "Service")
    selector = charts.one(manifests, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    pod = charts.one(manifests, "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    stages = charts.one(manifests, "PodMonitor")["spec"]["selector"]["matchLabels"]
    job = yaml.safe_load((charts.ROOT / "jobs" / "tracks.yaml").read_text())
    assert stages.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert not stages.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["defaults", "s3", "plain"])
def test_the_exporter_meets_pod_security_restricted(name: str) -> None:
    pod = charts.one(golden(name), "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = pod["containers"][0]["volumeMounts"]
    assert all(mount.get("readOnly") for mount in mounts if mount["name"] == "data")


@needs_helm
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([], "exporter.root is empty"),
        (["exporter.root=/data"], "set exporter.volume.existingClaim"),
        ([ROOT, 'rules.disabled=["NoSuchAlert"]'], "the alerts are DynamicVerseRunStalled"),
        ([ROOT, "rules.thresholds.failureRation=0.2"], "specifications of the schema"),
        ([ROOT, "operator.interval=often"], "specifications of the schema"),
        ([ROOT, 'stagePods.namespaces=["a.b"]'], "specifications of the schema"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(settings: list[str], sentence: str) -> None:
    done = charts.template(CHART, settings=settings)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_no_token_is_left_in_the_rules() -> None:
    for name in ("defaults", "s3"):
        assert "@" not in yaml.safe_dump(rules(name))
    assert "@" not in plain_files()["dynamicverse.rules.yaml"]


def test_values_reach_the_rules() -> None:
    assert "> 0.05" in alerts("s3")["DynamicVerseFailureRatioHigh"]["expr"]
    assert "DynamicVersePodPending" not in alerts("s3")
    assert alerts("s3")["DynamicVerseVlmDown"]["labels"] == {
        "severity": "critical", "team": "vision"
    }  # fmt: skip
    assert 'namespace=~"vision|vision-test"' in yaml.safe_dump(rules("s3"), width=1000)
    assert 'DCGM_FI_DEV_GPU_UTIL{pod!=""' in plain_files()["dynamicverse.rules.yaml"]


def check_rules(found: dict[str, Any], folder: Path) -> tuple[int, str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(found))
    done = promtool("check", "rules", str(folder / "rules.yaml"))
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["defaults", "s3"])
def test_rules_are_valid(name: str, tmp_path: Path) -> None:
    code, said = check_rules(rules(name), tmp_path)
    assert code == 0, said


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fired: dict[str, set[bool]] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for test in case.get("alert_rule_test", []):
            fired.setdefault(test["alertname"], set()).add(bool(test["exp_alerts"]))
    assert fired == {name: {True, False} for name in alerts()}


def run_cases(found: dict[str, Any], folder: Path) -> tuple[int, str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(found))
    shutil.copy(CASES, folder / "cases.yaml")
    done = promtool("test", "rules", str(folder / "cases.yaml"))
    return done.returncode, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    code, said = run_cases(rules(), tmp_path)
    assert code == 0, said


def test_the_cases_would_notice_alerts_that_never_fire(tmp_path: Path) -> None:
    found = rules()
    for group in found["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["expr"] = f"({rule['expr']}) and on () vector(0) == 1"
    code, said = run_cases(found, tmp_path)
    assert code != 0
    assert {name for name in alerts() if f"alertname: {name}," in said} == set(alerts())


def test_metrics_in_rules_exist_in_code(tmp_path: Path) -> None:
    from metric_names import KNOWN, used

    recorded = {r["record"] for g in rules()["groups"] for r in g["rules"] if "record" in r}
    for group in rules()["groups"]:
        for rule in group["rules"]:
            assert used(rule["expr"]) <= KNOWN | recorded, rule
