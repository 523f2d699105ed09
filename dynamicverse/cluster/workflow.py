"""Workflows of a dataset on a cluster: create, look, cancel, resume. No Argo server needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dynamicverse.errors import ConfigError, DynamicVerseError, Reason

GROUP, VERSION, PLURAL = "argoproj.io", "v1alpha1", "workflows"
LABEL = {"app.kubernetes.io/name": "dynamicverse"}
PARENT = "dynamicverse.io/parent"
ENDED = ("Succeeded", "Failed", "Error")
POLL_SECONDS = 5.0
MAX_LABEL = 63


@dataclass(frozen=True)
class State:
    """Where a Workflow stands. message: why it failed or what its pods wait for, in one line."""

    name: str
    phase: str
    progress: str
    message: str = ""
    pods: int = 0

    @property
    def ended(self) -> bool:
        return self.phase in ENDED


def manifest(parameters: dict[str, str], labels: dict[str, str] | None = None) -> dict[str, Any]:
    """The Workflow to create: a reference to the template `dataset` and its parameters.

    Empty parameters are left to the template's own defaults.
    """
    dataset = parameters.get("dataset", "clips")
    if len(dataset) > MAX_LABEL:
        raise ConfigError(f"dataset '{dataset}': on a cluster at most {MAX_LABEL} characters")
    stem = "".join(c if c.isalnum() else "-" for c in dataset.lower()).strip("-")[:30] or "dataset"
    given = [{"name": name, "value": value} for name, value in parameters.items() if value]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Workflow",
        "metadata": {"generateName": f"{stem}-", "labels": {**LABEL, **(labels or {})}},
        "spec": {"workflowTemplateRef": {"name": "dataset"}, "arguments": {"parameters": given}},
    }


def state_of(workflow: dict[str, Any]) -> State:
    """Read a Workflow object."""
    status = workflow.get("status", {})
    nodes = list((status.get("nodes") or {}).values())
    pods = [node for node in nodes if node.get("type") == "Pod"]
    failed = [n for n in pods if n.get("phase") in ("Failed", "Error") and n.get("message")]
    failed.sort(key=lambda node: str(node.get("finishedAt") or ""))
    reason = f"{failed[-1]['displayName']}: {failed[-1]['message']}" if failed else ""
    phase = status.get("phase", "Pending")
    waiting = "" if phase in ENDED else _waiting(pods)
    return State(
        name=workflow["metadata"]["name"],
        phase=phase,
        progress=status.get("progress", "0/0"),
        message=" ".join((waiting or reason or status.get("message", "")).split()),
        pods=len(pods),
    )


def _waiting(pods: list[dict[str, Any]]) -> str:
    """What keeps pods from starting: no node that fits, no image. Empty if nothing does.

    Argo ends no Workflow for that, since a node may come; but somebody should know. A pod that
    starts just now has a reason without a detail; one that waits for its pool has a lock.
    """
    stuck = [
        pod
        for pod in pods
        if pod.get("phase") == "Pending"
        and ": " in pod.get("message", "")
        and not pod.get("synchronizationStatus")
    ]
    if not stuck:
        return ""
    more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
    return f"{stuck[0]['displayName']} waits: {stuck[0]['message']}{more}"


@dataclass
class Cluster:
    """The Workflows of one namespace, through the Kubernetes API."""

    namespace: str
    context: str | None = None
    _api: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise ConfigError("pip install 'dynamicverse[cluster]' to work with a cluster") from (
                error
            )
        try:
            config.load_config(context=self.context)
        except config.ConfigException as error:
            raise ConfigError(f"no cluster: {' '.join(str(error).split())}") from error
        self._api = client.CustomObjectsApi()

    def create(self, parameters: dict[str, str], labels: dict[str, str] | None = None) -> str:
        """Create a Workflow; returns its name."""
        body = manifest(parameters, labels)
        made = self._call("create_namespaced_custom_object", body=body)
        return str(made["metadata"]["name"])

    def get(self, name: str) -> dict[str, Any]:
        """The Workflow object."""
        return self._call("get_namespaced_custom_object", name=name)

    def watch(self, name: str, seconds: float = POLL_SECONDS) -> Iterator[State]:
        """The state, again and again until the Workflow has ended."""
        while True:
            state = state_of(self.get(name))
            yield state
            if state.ended:
                return
            time.sleep(seconds)

    def cancel(self, name: str) -> list[str]:
        """Stop a Workflow and its waves: running pods get their grace, the report is written.

        Returns the names of what was stopped.
        """
        stopped: list[str] = []
        left = [name]
        while left:  # a wave may be created while its parent is being stopped
            for one in left:
                stop = {"spec": {"shutdown": "Stop"}}
                self._call("patch_namespaced_custom_object", name=one, body=stop)
            stopped += left
            waves = self._call("list_namespaced_custom_object", label_selector=f"{PARENT}={name}")
            names = [wave["metadata"]["name"] for wave in waves.get("items", [])]
            left = [one for one in names if one not in stopped]
        return stopped

    def resume(self, name: str) -> str:
        """A new Workflow for the same work: what is done costs nothing. Returns its name."""
        workflow = self.get(name)
        if not state_of(workflow).ended:
            raise ConfigError(f"workflow {name} has not ended; cancel it first")
        arguments = workflow["spec"].get("arguments", {}).get("parameters", [])
        return self.create({p["name"]: str(p.get("value", "")) for p in arguments})

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = getattr(self._api, method)(GROUP, VERSION, self.namespace, PLURAL, **arguments)
        except ApiException as error:
            name = arguments.get("name", "")
            if error.status == 404 and name:
                raise ConfigError(f"no workflow {name} in namespace {self.namespace}") from error
            if error.status == 404:
                raise ConfigError("this cluster has no Argo Workflows: install it first") from error
            detail = " ".join(str(error.reason or error.body).split())
            if error.status == 429 or error.status >= 500:
                raise DynamicVerseError(
                    f"the cluster does not serve now ({error.status}): {detail}", Reason.SERVICE
                ) from error
            raise ConfigError(f"the cluster refused ({error.status}): {detail}") from error
        except HTTPError as error:
            raise DynamicVerseError(f"the cluster does not answer: {error}", Reason.SERVICE) from (
                error
            )
        return dict(answer)
