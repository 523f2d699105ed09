"""A cluster to test on: kubectl and argo as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from build_images import TARGETS

ROOT = Path(__file__).parents[2]
Measured = Callable[[str], None]  # takes a figure for the end of the run
ENDED = ("Succeeded", "Failed", "Error")


def run(*command: str, timeout: float = 120, text: str | None = None) -> str:
    """Run a program; its standard output. An error carries what it said."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(what: str, condition: Callable[[], Any], seconds: float, every: float = 1.0) -> Any:
    """Ask until the answer is true; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"timed out after {seconds:.0f} s: {what}")


@cache
def _api() -> Any:
    from kubernetes import client, config

    config.load_kube_config()
    return client.ApiClient()


@dataclass(frozen=True)
class Kube:
    """One namespace of the cluster that KUBECONFIG names."""

    namespace: str

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return run("kubectl", "-n", self.namespace, *arguments, text=text)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def ask(self, group: str, path: str, **query: str) -> Any:
        """What the API server answers about a path below this namespace, e.g. `jobs/plan`.

        For what is asked again and again: each call of kubectl starts a process.
        """
        url = f"/{group}/namespaces/{self.namespace}/{path}"
        found = _api().call_api(
            url, "GET", query_params=list(query.items()), auth_settings=["BearerToken"],
            _preload_content=False, _return_http_data_only=True, _request_timeout=60,
        )  # fmt: skip
        return json.loads(found.data)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))

    def submit(self, template: str = "dataset", **parameters: object) -> str:
        """`argo submit --from`, as the documentation says it; returns the Workflow's name."""
        given = [f"{name.replace('_', '-')}={value}" for name, value in parameters.items()]
        options = [option for value in given for option in ("-p", value)]
        command = ["argo", "submit", "-n", self.namespace, "--from", f"workflowtemplate/{template}"]
        return run(*command, "-o", "name", *options).strip().splitlines()[-1]

    def workflow(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("apis/argoproj.io/v1alpha1", f"workflows/{name}")
        return found

    def job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("apis/batch/v1", f"jobs/{name}")
        return found

    def wait(self, name: str, seconds: float) -> Workflow:
        """Wait until a Workflow has ended."""

        def ended() -> dict[str, Any] | None:
            found = self.workflow(name)
            return found if found.get("status", {}).get("phase") in ENDED else None

        return Workflow(wait_for(f"workflow {name}", ended, seconds))

    def pods(self, selector: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("api/v1", "pods", labelSelector=selector)["items"]
        return found


@dataclass(frozen=True)
class Workflow:
    """A Workflow object that has ended."""

    object: dict[str, Any]

    @property
    def phase(self) -> str:
        return str(self.object["status"]["phase"])

    @property
    def seconds(self) -> float:
        from datetime import datetime

        status = self.object["status"]
        start, end = (datetime.fromisoformat(status[k]) for k in ("startedAt", "finishedAt"))
        return (end - start).total_seconds()

    def pods(self, template: str | None = None) -> list[dict[str, Any]]:
        """Its pod nodes; of one template (`stage-depth`, `plan`) if given."""
        nodes = self.object["status"].get("nodes", {}).values()

        def name(node: dict[str, Any]) -> str:
            return str(node.get("templateRef", {}).get("name", node.get("templateName")))

        return [n for n in nodes if n["type"] == "Pod" and template in (None, name(n))]

    def explain(self) -> str:
        """What to read when it did not end as it should."""
        lines = [f"{self.object['metadata']['name']}: {self.phase}"]
        lines += [
            f"{n['displayName']}: {n['phase']}: {n.get('message', '')}"
            for n in self.object["status"].get("nodes", {}).values()
            if n["phase"] in ("Failed", "Error")
        ]
        return "\n".join(lines)


def install(
    kube: Kube, folder: Path, prefix: str, tag: str, pools: dict[str, str], *components: str
) -> None:
    """Install argo/ through an overlay: these images, and small requests for small nodes."""
    names = [
        {"name": f"dynamicverse/{t}", "newName": f"{prefix}/{t}", "newTag": tag} for t in TARGETS
    ]
    # weights among pods and all else on the node: far less, and the pods starve
    small = {"cpu": "50m", "memory": "64Mi"}
    lower = [{"op": "replace", "path": "/spec/templates/0/container/resources/requests",
              "value": small}]  # fmt: skip
    steps = [
        {"op": "replace", "path": f"/spec/templates/{i}/container/resources/requests",
         "value": small} for i in (1, 3)
    ]  # fmt: skip
    steps.append({"op": "replace", "path": "/spec/parallelism", "value": 6})
    argo = os.path.relpath(ROOT / "argo", folder)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": kube.namespace,
        "resources": [argo],
        "components": [f"{argo}/components/{component}" for component in components],
        "images": names,
        "patches": [
            _patch("WorkflowTemplate", "stage-.*", lower),
            _patch("WorkflowTemplate", "dataset", steps),
            _patch("ConfigMap", "dynamicverse-pools",
                   [{"op": "replace", "path": "/data", "value": pools}]),
        ],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))


def _patch(kind: str, name: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"target": {"kind": kind, "name": name}, "patch": yaml.safe_dump(operations)}
