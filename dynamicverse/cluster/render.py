"""Argo's stage templates, made from the plain Jobs: `python -m dynamicverse.cluster.render`.

`jobs/<stage>.yaml` is the one source of a stage's image, command, resources and security
settings. Here each becomes a WorkflowTemplate in `argo/stages/`, with what only a workflow
has: parameters, retries by exit code, a semaphore for its GPU pool, labels for cost.
`--check` writes nothing and fails when a generated file no longer matches its Job.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dynamicverse import stages
from dynamicverse.errors import ConfigError

HEADER = "# Generated from jobs/{stage}.yaml by `make generate`. Do not edit.\n"
GPU = "nvidia.com/gpu"
STORAGE = "dynamicverse-storage"

# Global parameters that stage templates use; whoever refers to them must declare them.
PARAMETERS: Mapping[str, str] = {
    "dataset": "clips",
    "preset": "embedded",
    "gpu-type": "any",
    "priority": "",
    "storage-secret": STORAGE,
}
POOL = "{{=workflow.parameters.preset == 'gpu' ? workflow.parameters['gpu-type'] : 'cpu'}}"
# 75: try again. 143: ended by SIGTERM. -1: no exit code known. 132 … 139: crashed or out of memory;
# a scene that does it twice goes into quarantine (runner/starts.py). 65 (bad input or
# configuration) is never tried again.
RETRY: Mapping[str, Any] = {
    "limit": "20",  # more than an hour: preempted again and again, or storage is away
    "expression": (
        'lastRetry.status == "Error" || asInt(lastRetry.exitCode) in [-1, 75, 143]'
        " || (asInt(lastRetry.exitCode) in [132, 134, 135, 136, 137, 139] && asInt(retries) < 6)"
    ),
    "backoff": {"duration": "5s", "factor": "2", "cap": "5m"},
}
ARGUMENTS = {
    "$(RUN)": "{{inputs.parameters.run}}",
    "$(JOB_COMPLETION_INDEX)": "{{inputs.parameters.shard}}",
}


def workflow_template(stage: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """The WorkflowTemplate `stage-<stage>` that does in a workflow what the Job does alone."""
    pod = job["spec"]["template"]
    labels = pod["metadata"]["labels"]
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTemplate",
        "metadata": {"name": f"stage-{stage}", "labels": dict(labels)},
        "spec": {
            "entrypoint": "main",
            "arguments": {
                "parameters": [
                    {"name": "run"},
                    {"name": "shard"},
                    *({"name": name, "value": value} for name, value in PARAMETERS.items()),
                ]
            },
            "serviceAccountName": "dynamicverse-workflow",
            "templates": [_template(pod["spec"], labels)],
        },
    }


def _template(pod: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    container = dict(pod["containers"][0])
    limits = dict(container["resources"]["limits"])
    gpus = limits.pop(GPU, None)
    container["resources"] = {**container["resources"], "limits": limits}
    container["args"] = [ARGUMENTS.get(a, a) for a in container["args"]]
    # the run is a parameter here, and so is the name of the storage's Secret
    given = [s for s in container["envFrom"] if s.get("secretRef", {}).get("name") != STORAGE]
    container["envFrom"] = [
        {"secretRef": {"name": "{{workflow.parameters.storage-secret}}", "optional": True}},
        *(source for source in given if "secretRef" in source),
    ]
    template = {
        "name": "main",
        "inputs": {"parameters": [{"name": "run"}, {"name": "shard"}]},
        "metadata": {
            "labels": {**labels, "dynamicverse.io/dataset": "{{workflow.parameters.dataset}}"}
        },
        "priorityClassName": "{{workflow.parameters.priority}}",
        "activeDeadlineSeconds": str(pod["activeDeadlineSeconds"]),
        # the container that decodes strangers' media has no token; only Argo's executor has one
        "automountServiceAccountToken": False,
        "executor": {"serviceAccountName": "dynamicverse-executor"},
        "retryStrategy": dict(RETRY),
        "securityContext": pod["securityContext"],
        "container": container,
        "volumes": pod["volumes"],
        "podSpecPatch": _pod_patch(pod, gpus),
    }
    if gpus:
        container["env"] = [*container["env"], {"name": "DYNAMICVERSE_POOL", "value": POOL}]
        template["tolerations"] = pod["tolerations"]
        template["synchronization"] = {
            "semaphores": [{"configMapKeyRef": {"name": "dynamicverse-pools", "key": POOL}}]
        }
    return template


def _pod_patch(pod: Mapping[str, Any], gpus: str | None) -> str:
    """What Argo's template has no field for, and numbers that depend on a parameter."""
    patch = yaml.safe_dump(
        {key: pod[key] for key in ("enableServiceLinks", "terminationGracePeriodSeconds")}
    )
    if gpus is None:
        return str(patch)
    is_gpu = "workflow.parameters.preset == 'gpu'"
    kind = "workflow.parameters['gpu-type']"
    return (
        f"{patch}"
        "containers:\n"
        "- name: main\n"
        "  resources:\n"
        f"    limits: {{{GPU}: \"{{{{={is_gpu} ? '{gpus}' : '0'}}}}\"}}\n"
        f"nodeSelector: {{{{={is_gpu} && {kind} != 'any'"
        f" ? '{{{GPU}.product: ' + toJson({kind}) + '}}' : '{{}}'}}}}\n"
    )


def render(jobs: Path) -> dict[str, str]:
    """Stage → text of its generated file. Raises ConfigError for a Job that is not there."""
    texts = {}
    for stage in stages.NAMES:
        source = jobs / f"{stage}.yaml"
        if not source.is_file():
            raise ConfigError(f"{source}: no such file; run this in the project's folder")
        job = yaml.safe_load(source.read_text("utf-8"))
        body = yaml.dump(workflow_template(stage, job), Dumper=_Plain, sort_keys=False, width=100)
        texts[stage] = HEADER.format(stage=stage) + body
    return texts


class _Plain(yaml.SafeDumper):
    """Writes every value out (no anchors) and long texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Plain.add_representer(str, _text)


def main(arguments: Sequence[str]) -> int:
    """Write the generated files, or with `--check` compare them by meaning."""
    target = Path("argo/stages")
    stale = []
    for stage, text in render(Path("jobs")).items():
        path = target / f"{stage}.yaml"
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        elif not path.is_file() or yaml.safe_load(path.read_text()) != yaml.safe_load(text):
            stale.append(str(path))
    if stale:
        print(f"not as their jobs say (run `make generate`): {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
