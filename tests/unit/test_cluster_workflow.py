"""The Workflow object that is created, and how one is read; no cluster."""

from __future__ import annotations

from typing import Any

import pytest

from dynamicverse.cluster import workflow
from dynamicverse.errors import ConfigError


def test_manifest_refers_to_the_template_and_gives_only_what_was_given() -> None:
    made = workflow.manifest({"root": "s3://out", "dataset": "Street_1", "priority": ""})
    assert made["spec"] == {
        "workflowTemplateRef": {"name": "dataset"},
        "arguments": {
            "parameters": [
                {"name": "root", "value": "s3://out"},
                {"name": "dataset", "value": "Street_1"},
            ]
        },
    }
    assert made["metadata"]["generateName"] == "street-1-"


def test_a_name_that_no_label_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="63 characters"):
        workflow.manifest({"root": "s3://out", "dataset": "x" * 64})


def _node(kind: str, phase: str, message: str = "", finished: str = "") -> dict[str, Any]:
    return {"type": kind, "phase": phase, "message": message, "displayName": f"{kind}-{phase}",
            "finishedAt": finished}  # fmt: skip


def test_state_tells_the_last_failure_in_one_line() -> None:
    nodes = {
        "a": _node("Pod", "Succeeded"),
        "b": _node("Pod", "Failed", "main: Error (exit code 75): storage away", "2026-01-01"),
        "c": _node("Pod", "Failed", "main: Error (exit code 65):\n unknown key", "2026-01-02"),
        "d": _node("DAG", "Failed", "child failed", "2026-01-03"),
    }
    state = workflow.state_of(
        {
            "metadata": {"name": "x"},
            "status": {"phase": "Failed", "progress": "1/3", "nodes": nodes},
        }
    )
    assert state.ended
    assert state.pods == 3
    assert state.message == "Pod-Failed: main: Error (exit code 65): unknown key"


def test_state_tells_what_pods_wait_for() -> None:
    nodes = {
        "a": _node("Pod", "Failed", "main: Error (exit code 75): storage away", "2026-01-01"),
        "b": _node("Pod", "Pending", "ContainerCreating"),
        "c": _node("Pod", "Pending", "Waiting for ns/ConfigMap/pools/any lock. Lock status: 0/8")
        | {"synchronizationStatus": {"waiting": "ns/ConfigMap/pools/any"}},
    }
    status = {"phase": "Running", "progress": "1/3", "nodes": nodes}
    found = {"metadata": {"name": "x"}, "status": status}
    assert (
        workflow.state_of(found).message == "Pod-Failed: main: Error (exit code 75): storage away"
    )
    nodes["d"] = _node("Pod", "Pending", "Unschedulable: 0/3 nodes are available: 3 no GPU.")
    assert workflow.state_of(found).message == (
        "Pod-Pending waits: Unschedulable: 0/3 nodes are available: 3 no GPU."
    )
    nodes["e"] = _node("Pod", "Pending", "ImagePullBackOff: Back-off pulling image")
    assert workflow.state_of(found).message.endswith("3 no GPU. (and 1 more)")
    status["phase"] = "Failed"
    assert workflow.state_of(found).message.startswith("Pod-Failed")


def test_a_workflow_that_the_controller_has_not_seen_is_pending() -> None:
    state = workflow.state_of({"metadata": {"name": "x"}})
    assert (state.phase, state.progress, state.ended) == ("Pending", "0/0", False)


class Api:
    """Records calls; answers from a script."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.calls = answers, list[tuple[str, dict[str, Any]]]()

    def __getattr__(self, method: str) -> Any:
        def call(*_: str, **arguments: Any) -> Any:
            self.calls.append((method, arguments))
            return self.answers[method]

        return call


def cluster(api: Api) -> workflow.Cluster:
    made = object.__new__(workflow.Cluster)
    made.namespace, made.context, made._api = "ns", None, api
    return made


def test_cancel_stops_the_waves_too() -> None:
    waves = {"items": [{"metadata": {"name": "x-0"}}, {"metadata": {"name": "x-1"}}]}
    api = Api({"list_namespaced_custom_object": waves, "patch_namespaced_custom_object": {}})
    assert cluster(api).cancel("x") == ["x", "x-0", "x-1"]
    patches = [a for m, a in api.calls if m == "patch_namespaced_custom_object"]
    assert [p["name"] for p in patches] == ["x", "x-0", "x-1"]
    assert all(p["body"] == {"spec": {"shutdown": "Stop"}} for p in patches)


def test_resume_submits_the_same_parameters_again() -> None:
    old = workflow.manifest({"root": "s3://out", "source": "s3://in", "dataset": "clips"})
    old["metadata"]["name"] = "clips-old"
    old["status"] = {"phase": "Failed"}
    made = {"metadata": {"name": "clips-new"}}
    api = Api({"get_namespaced_custom_object": old, "create_namespaced_custom_object": made})
    assert cluster(api).resume("clips-old") == "clips-new"
    body = api.calls[-1][1]["body"]
    assert body["spec"] == old["spec"]


def test_resume_refuses_a_running_workflow() -> None:
    running = {"metadata": {"name": "x"}, "spec": {}, "status": {"phase": "Running"}}
    api = Api({"get_namespaced_custom_object": running})
    with pytest.raises(ConfigError, match="cancel it first"):
        cluster(api).resume("x")
