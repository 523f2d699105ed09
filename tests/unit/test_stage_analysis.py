"""The analysis stage: what it writes, for clips that move and clips that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from motion_layers import Layer, LayeredClip, iou, with_list
from moving_clips import run_stage
from scene_tree import write_tree

from dynamicverse.errors import ArtifactError
from dynamicverse.formats import masks, objects, validate_artifact
from dynamicverse.scene import Scene

LATER = ("analysis", "segmentation", "tracks", "reconstruction")
MOVER = (Layer(lambda t: (30 + 6 * t, 40), instance=1),)


def scene_of(root: Path, clip: LayeredClip) -> Scene:
    return write_tree(root, with_list(clip), without=LATER)  # type: ignore[arg-type]


def valid(scene: Scene) -> None:
    validate_artifact(scene, "analysis", thorough=True)
    validate_artifact(scene, "motion", thorough=True)


def test_a_mover_is_written(tmp_path: Path) -> None:
    clip = LayeredClip(9, lambda t: (3 * t, 0), MOVER)
    scene = scene_of(tmp_path, clip)
    context, _ = run_stage("analysis", scene)
    valid(scene)
    found = objects.read(scene.dynamic_objects)
    assert [o.tracking_id for o in found.dynamic] == [1]
    scores = [iou(masks.read(scene.motion(t)) > 0, clip.masks[t] > 0) for t in range(9)]
    assert np.mean(scores) > 0.8
    assert context.frames == 9
    assert context.facts == {"objects": 1, "static_scene": False, "camera_motion": "rotation"}


@pytest.mark.parametrize("count", [1, 2, 6])
def test_nothing_moves(tmp_path: Path, count: int) -> None:
    scene = scene_of(tmp_path, LayeredClip(count))
    context, _ = run_stage("analysis", scene)
    valid(scene)
    found = objects.read(scene.dynamic_objects)
    assert found.dynamic == []
    assert scene.files("motion") == []
    assert found.static_scene == (count > 1)  # of one frame it is not known
    assert context.frames == count


def test_labels_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, LayeredClip(3))
    masks.write(scene.motion(1), np.ones((120, 216), np.uint8))
    run_stage("analysis", scene)
    assert scene.files("motion") == []


def test_the_same_scene_gives_the_same_bytes(tmp_path: Path) -> None:
    clip = LayeredClip(8, lambda t: (2 * t, 0), MOVER)
    trees = []
    for name in ("one", "two"):
        scene = scene_of(tmp_path / name, clip)
        run_stage("analysis", scene)
        files = [*scene.files("analysis"), *scene.files("motion")]
        trees.append([p.read_bytes() for p in files])
        assert len(files) == 9
    assert trees[0] == trees[1]


def test_a_flow_field_that_is_missing_is_named(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, LayeredClip(4))
    scene.flow(2, 3).unlink()
    with pytest.raises(ArtifactError, match=r"00003_00004\.png"):
        run_stage("analysis", scene)
