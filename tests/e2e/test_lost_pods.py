"""Pods that are killed or preempted in the middle of their work."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from disturbed import Disturbed, stage_ends
from harness import Kube, wait_for
from program import dynamicverse
from s3_server import S3

COPIES = 2  # of every clip, so that a pod is busy for long enough to be caught at it


@pytest.mark.parametrize("how", ["killed", "preempted"])
def test_a_pod_that_goes_is_tried_again(
    kube: Kube, s3: S3, clips: Path, source: str, root: str, how: str
) -> None:
    """One pod for all scenes goes when it is done with some of them."""
    fs = s3.fs()
    for clip, copy in product(sorted(clips.iterdir()), range(COPIES)):
        fs.put_file(str(clip), f"clips/{how}/{clip.stem}-{copy}.mp4")
    disturbed = Disturbed(kube, s3, f"s3://clips/{how}", root, shard_scenes=100)
    wait_for("a scene past keyframes", lambda: disturbed.manifests("keyframes"), 400, every=0.5)
    pod = disturbed.running("keyframes")
    kill = ["--grace-period=0", "--force"] if how == "killed" else ["--wait=false"]
    kube.kubectl("delete", "pod", pod, *kill)
    finished = disturbed.manifests("keyframes")
    scenes = COPIES * len(list(clips.iterdir()))
    assert 0 < len(finished) < scenes, "not in the middle"
    done = kube.wait(disturbed.name, 900)
    assert done.phase == "Succeeded", done.explain()
    # a retry, or the same try in a new pod of the same name: both are Argo's ways. A second pod
    # has been here if it has found what the first one had finished
    ends = stage_ends(s3, root)
    scenes_finished = {path.split("/")[-3] for path in finished}
    assert all("cached" in ends["keyframes", scene] for scene in scenes_finished), ends
    now = disturbed.manifests("keyframes")
    assert {path: now[path] for path in finished} == finished, "computed twice"
    valid = dynamicverse("validate", root)
    assert valid.code == 0, valid.out
    assert valid.out.startswith(f"{scenes} scenes")
