"""The real controller under a large run, with pods that only sleep.

    KUBECONFIG=… PYTHONPATH=images python tests/e2e/simulate.py [--shards 12] [--waves 30]

Installs argo/ with every stage replaced by `sleep 1` and runs one wave of so many shards, then a
dataset of so many waves that have nothing to do. Prints what a shard and a wave cost: pods,
seconds, bytes of the Workflow object; and from these the figures for 100,000 scenes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import build_images as images
import yaml
from harness import Kube, Workflow, install, run

from dynamicverse.cluster.planning import spans

SCENES, SHARD_SCENES = 100_000, 64
RUN = "s3://some-bucket/some/folder/scenes/.runs/a-dataset-0123456789"
PLAN = """mkdir -p /tmp/outputs && cd /tmp/outputs && printf %s "$0" >run && \\
printf %s "$1" >waves && printf %s none >stages && printf %s '[]' >shards"""


def replace_commands(kube: Kube, waves: int, shards: int) -> None:
    """Stages sleep a second; the plan writes so many waves; the last step does nothing."""
    numbers = [list(range(i * shards, (i + 1) * shards)) for i in range(waves)]
    planned = json.dumps([spans(part) for part in numbers])
    for template in kube.json("workflowtemplates")["items"]:
        name = template["metadata"]["name"]
        commands = {"main": ["sleep", "1"]} if name.startswith("stage-") else {}
        if name == "dataset":
            commands = {"plan": ["sh", "-c", PLAN, RUN, planned], "finish": ["true"]}
        operations = []
        for index, part in enumerate(template["spec"]["templates"]):
            if part["name"] in commands:
                at = f"/spec/templates/{index}/container"
                command = commands[part["name"]]
                operations += [
                    {"op": "replace", "path": f"{at}/command", "value": command[:1]},
                    {"op": "replace", "path": f"{at}/args", "value": command[1:]},
                ]
        if operations:
            patch = json.dumps(operations)
            kube.kubectl("patch", "workflowtemplate", name, "--type=json", "-p", patch)


def measure(done: Workflow, parts: int) -> dict[str, Any]:
    """What one Workflow of so many parts cost."""
    nodes = compact([n for n in nodes_of(done) if "waves" in n["name"] or "shards" in n["name"]])
    return {
        "phase": done.phase,
        "seconds": done.seconds,
        "pods": len(done.pods()),
        "bytes": compact(done.object),
        "bytes a part": round(nodes / parts),
        "bytes besides": compact(done.object) - nodes,
        "compressed": "compressedNodes" in done.object["status"],
    }


def nodes_of(done: Workflow) -> list[dict[str, Any]]:
    return list(done.object["status"].get("nodes", {}).values())


def compact(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--waves", type=int, default=30)
    parser.add_argument("--image-prefix", default=images.PREFIX)
    parser.add_argument("--image-tag", default="e2e")
    given = parser.parse_args()
    kube = Kube(f"dynamicverse-simulation-{int(time.time()) % 100000}")
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace}})
    with tempfile.TemporaryDirectory() as folder:
        install(kube, Path(folder), given.image_prefix, given.image_tag, {"cpu": "1000"})
    replace_commands(kube, given.waves, given.shards)
    name = kube.submit("wave", run=RUN, shards=spans(list(range(given.shards))))
    wave = measure(kube.wait(name, 3600), given.shards)
    name = kube.submit("dataset", root="s3://some-bucket/some/folder/scenes")
    dataset = measure(kube.wait(name, 3600), given.waves)
    waves = -(-SCENES // SHARD_SCENES // given.shards)
    print(yaml.safe_dump({
        f"a wave of {given.shards} shards": wave,
        f"a dataset of {given.waves} waves": dataset,
        f"{SCENES} scenes": {
            "waves": waves,
            "stage pods": -(-SCENES // SHARD_SCENES) * 9,
            "bytes of a wave": wave["bytes"],
            "bytes of the dataset": dataset["bytes besides"] + waves * dataset["bytes a part"],
        },
    }, sort_keys=False))  # fmt: skip
    run("kubectl", "delete", "namespace", kube.namespace, "--wait=false")


if __name__ == "__main__":
    main()
