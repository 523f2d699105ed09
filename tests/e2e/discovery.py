"""Kubernetes' service discovery for a Prometheus that was built without it, as Debian's is.

Pods and endpoints of a namespace are served as targets with the labels that Prometheus itself
would give them (`__meta_kubernetes_…`), so that the relabelling of a job works as it is written.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Target = dict[str, Any]
META = "__meta_kubernetes_"


def pod_targets(pod: dict[str, Any]) -> Iterator[Target]:
    """The role `pod`: a target for each port of a pod that has an address."""
    address = pod["status"].get("podIP")
    for container in pod["spec"]["containers"] if address else ():
        for port in container.get("ports", []):
            labels = pod_labels(pod) | {
                f"{META}pod_container_name": container["name"],
                f"{META}pod_container_port_name": port.get("name", ""),
                f"{META}pod_container_port_number": str(port["containerPort"]),
            }
            yield {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}


def pod_labels(pod: dict[str, Any]) -> dict[str, str]:
    """What is known of a pod."""
    found = {
        f"{META}namespace": pod["metadata"]["namespace"],
        f"{META}pod_name": pod["metadata"]["name"],
        f"{META}pod_phase": pod["status"]["phase"],
    }
    for kind in ("label", "annotation"):
        for name, value in (pod["metadata"].get(f"{kind}s") or {}).items():
            found[f"{META}pod_{kind}_{re.sub('[^a-zA-Z0-9]', '_', name)}"] = value
    return found


def endpoint_targets(endpoints: dict[str, Any]) -> Iterator[Target]:
    """The role `endpoints`: a target for each address and port of a Service."""
    for subset in endpoints.get("subsets") or ():
        for port in subset.get("ports", []):
            labels = {
                f"{META}namespace": endpoints["metadata"]["namespace"],
                f"{META}service_name": endpoints["metadata"]["name"],
                f"{META}endpoint_port_name": port.get("name", ""),
            }
            for address in subset.get("addresses", []):
                yield {"targets": [f"{address['ip']}:{port['port']}"], "labels": labels}


@contextmanager
def discovery(namespace: str) -> Iterator[str]:
    """Serve the targets of a namespace at URL/pod and URL/endpoints; yields the URL."""
    from kubernetes import client, config

    config.load_config()
    api = client.CoreV1Api()
    roles = {
        "pod": (api.list_namespaced_pod, pod_targets),
        "endpoints": (api.list_namespaced_endpoints, endpoint_targets),
    }

    @lru_cache(maxsize=len(roles))
    def listed(role: str, second: int) -> bytes:
        """For all jobs that ask in this second."""
        ask, targets = roles[role]
        items = json.loads(ask(namespace, resource_version="0", _preload_content=False).data)
        return json.dumps([t for item in items["items"] for t in targets(item)]).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = listed(self.path.strip("/"), int(time.monotonic()))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            with suppress(BrokenPipeError):  # on a busy machine Prometheus may not wait
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def discovered(job: dict[str, Any], url: str) -> dict[str, Any]:
    """A scrape job with its `kubernetes_sd_configs` asked of `discovery` instead."""
    found = {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
    found["http_sd_configs"] = [
        {"url": f"{url}/{wanted['role']}", "refresh_interval": "1s"}
        for wanted in job["kubernetes_sd_configs"]
    ]
    return found


def annotated_pods() -> dict[str, Any]:
    """The usual job for pods whose annotations say where to scrape them."""
    annotation = f"{META}pod_annotation_prometheus_io_"
    return {
        "job_name": "annotated-pods",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": [
            {"source_labels": [f"{annotation}scrape"], "regex": "true", "action": "keep"},
            {"source_labels": [f"{annotation}path"], "regex": "(.+)",
             "target_label": "__metrics_path__"},
            {"source_labels": ["__address__", f"{annotation}port"],
             "regex": r"([^:]+)(?::\d+)?;(\d+)", "replacement": "$1:$2",
             "target_label": "__address__"},
            {"source_labels": [f"{META}namespace"], "target_label": "namespace"},
            {"source_labels": [f"{META}pod_name"], "target_label": "pod"},
        ],
    }  # fmt: skip
