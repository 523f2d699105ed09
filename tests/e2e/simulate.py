"""The real controller under a large run, with pods that only sleep.

    KUBECONFIG=… python tests/e2e/simulate.py --shards 20 [--image-prefix …] [--image-tag …]

Installs argo/ with every container replaced by `sleep 1`, submits one wave of so many shards,
and prints what one shard costs: pods, seconds, and bytes of the Workflow object. From these
follow the figures for 100,000 scenes in docs/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import build_images as images
import yaml
from harness import Kube, install, run


def sleeping(kube: Kube) -> None:
    """Replace what the installed stages do by a second of sleep."""
    for template in kube.json("workflowtemplates")["items"]:
        name = template["metadata"]["name"]
        if name.startswith("stage-"):
            operations = [
                {
                    "op": "replace",
                    "path": "/spec/templates/0/container/command",
                    "value": ["sleep"],
                },
                {"op": "replace", "path": "/spec/templates/0/container/args", "value": ["1"]},
            ]
            patch = json.dumps(operations)
            kube.kubectl("patch", "workflowtemplate", name, "--type=json", "-p", patch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--image-prefix", default=images.PREFIX)
    parser.add_argument("--image-tag", default="e2e")
    given = parser.parse_args()
    kube = Kube(f"dynamicverse-simulation-{int(time.time()) % 100000}")
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace}})
    with tempfile.TemporaryDirectory() as folder:
        install(kube, Path(folder), given.image_prefix, given.image_tag, {"cpu": "1000"})
    sleeping(kube)
    shards = json.dumps(list(range(given.shards)))
    url = "s3://bucket/scenes/.runs/a-dataset-0123456789"
    name = kube.submit("wave", run=url, shards=shards, dataset="simulation")
    done = kube.wait(name, 7200)
    status = done.object["status"]
    print(yaml.safe_dump({
        "phase": done.phase,
        "shards": given.shards,
        "seconds": done.seconds,
        "pods": len(done.pods()),
        "seconds a pod": round(done.seconds / len(done.pods()), 2),
        "bytes of the object": len(json.dumps(done.object)),
        "bytes of its nodes": len(json.dumps(status.get("nodes", {}))),
        "bytes compressed": len(status.get("compressedNodes", "")),
    }))  # fmt: skip
    run("kubectl", "delete", "namespace", kube.namespace, "--wait=false")


if __name__ == "__main__":
    main()
