"""A scene that kills its process takes no other scene with it."""

from __future__ import annotations

import os
from pathlib import Path

from program import ClipMaker, dynamicverse, finished, within

# with some before the one that crashes and one after it; what follows is slow and shows no more
STAGES = ("ingest", "keyframes", "analysis", "segmentation", "tracks", "depth")

# read by every Python process that has this folder on its path: makes the tracker die
POISON = """
import os, signal
import dynamicverse.stages as stages
get = stages.get
def poisoned(name):
    stage = get(name)
    if name != "tracks":
        return stage
    run = stage.run
    def die(scene, context):
        if scene.name == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        run(scene, context)
    import dataclasses
    return dataclasses.replace(stage, run=die)
stages.get = poisoned
"""


def test_a_poison_scene_is_quarantined_as_crashed(tmp_path: Path, clip: ClipMaker) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON)
    inputs = [str(clip(name, frames=4, size=(160, 96))) for name in ("poison", "healthy")]
    out = tmp_path / "out"
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    result = dynamicverse(
        "run", *inputs, "--out", str(out), "--stages", ",".join(STAGES), "--json",
        env={"PYTHONPATH": path},
    )  # fmt: skip
    assert result.code == 0, result.err
    (record,) = result.json()["failed"]
    assert (record["name"], record["stage"], record["reason"]) == ("poison", "tracks", "crashed")
    assert record["attempt"] == 2
    assert finished(out, "healthy") == set(STAGES)
    cured = within("quarantine", "replay", str(out), "--workers", "0", "--json")
    assert cured.json() == []
    assert finished(out, "poison") == set(STAGES)
