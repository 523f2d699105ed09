"""A dataset that is disturbed while it runs, and must reach the same end."""

from __future__ import annotations

import json

from harness import Kube, Workflow, wait_for
from s3_server import S3

from dynamicverse.formats.manifest import Manifest
from dynamicverse.scene import ARTIFACTS

STAGES = ("ingest", "keyframes", "depth")  # enough to be disturbed; all of them: test_dataset.py


class Disturbed:
    """A dataset of six scenes under way in three shards."""

    def __init__(self, kube: Kube, s3: S3, source: str, root: str, shard_scenes: int = 2) -> None:
        self.kube, self.s3, self.root = kube, s3, root
        self._fs = s3.fs()  # one for all: each new one starts a client
        self.name = kube.submit(
            source=source, root=root, shard_scenes=shard_scenes, stages=",".join(STAGES)
        )

    def running(self, stage: str) -> str:
        """Name of a pod of a stage whose main container runs."""
        labels = f"workflows.argoproj.io/workflow={self.name},app.kubernetes.io/component={stage}"

        def find() -> str | None:
            for pod in self.kube.pods(labels):
                for container in pod["status"].get("containerStatuses", []):
                    if container["name"] == "main" and "running" in container["state"]:
                        return str(pod["metadata"]["name"])
            return None

        found: str = wait_for(f"a running {stage} pod", find, 400, every=0.5)
        return found

    def phase(self) -> str:
        return str(self.kube.workflow(self.name)["status"]["phase"])

    def manifests(self, stage: str) -> dict[str, bytes]:
        """Path → content of what a stage has finished so far."""
        found = self._fs.glob(f"{self.root}/clips/*/.dynamicverse/{stage}.json")
        return {path: self._fs.cat_file(path) for path in found}

    def completes(self, reference: dict[str, str]) -> Workflow:
        """The Workflow when it has ended: all outputs there, nothing computed twice."""
        done = self.kube.wait(self.name, 900)
        assert done.phase == "Succeeded", done.explain()
        self.is_complete(reference)
        return done

    def is_complete(self, reference: dict[str, str]) -> None:
        assert stored_digests(self.s3, self.root) == reference
        ends = stage_ends(self.s3, self.root)
        assert {stage for stage, _ in ends} == set(STAGES)
        for scene, outcomes in ends.items():
            assert outcomes.count("done") <= 1, (scene, outcomes)


def stage_ends(s3: S3, root: str) -> dict[tuple[str, str], list[str]]:
    """(stage, scene) → its outcomes in the ledger, in order."""
    fs, found = s3.fs(), dict[tuple[str, str], list[str]]()
    for path in sorted(fs.glob(f"{root}/.runs/*/ledger/*/*.jsonl")):
        for line in fs.cat_file(path).splitlines():
            record = json.loads(line)
            found.setdefault((record["stage"], record["name"]), []).append(record["outcome"])
    return found


def stored_digests(s3: S3, root: str) -> dict[str, str]:
    """Path → sha256 of every reproducible output, as the manifests on S3 list them."""
    fs, found = s3.fs(), {}
    for path in fs.glob(f"{root}/clips/*/.dynamicverse/*.json"):
        manifest = Manifest.model_validate_json(fs.cat_file(path))
        for artifact, files in manifest.outputs.items():
            if ARTIFACTS[artifact].reproducible:
                found.update({f.path: f.sha256 for f in files})
    return found
