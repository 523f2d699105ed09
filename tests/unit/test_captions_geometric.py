"""The geometric captioner and the captions stage: whole captions, and degenerate clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rendered import render
from scene_tree import write_tree

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.geometric import GeometricCaptioner
from dynamicverse.config import load
from dynamicverse.formats import captions as captions_file
from dynamicverse.formats import masks, poses, validate_artifact
from dynamicverse.stages import captions
from dynamicverse.stages.base import StageContext

SLOW = ("keyframes",)  # exact flow takes long and is not used here


class Quiet:
    def progress(self, done: int, total: int) -> None: ...
    def log(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


def caption(scene):
    context = StageContext(load(), Quiet(), GeometricCaptioner(load().captions))
    captions.run(scene, context)
    validate_artifact(scene, "captions")
    return captions_file.read(scene.captions), context


@pytest.fixture(scope="module")
def orbit():
    return render(16, (96, 56), "orbit", 2, supersample=1)


@pytest.fixture(scope="module")
def tree(orbit, tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tree"), orbit, without=SLOW)


def test_a_whole_scene(tree):
    found, context = caption(tree)
    assert {o.instance_id for o in found.objects} == {1, 2}
    assert "unknown" in found.objects[0].text
    assert set(found.camera.labels) <= v.VOCABULARY
    assert found.camera.segments[-1].last_frame == 15
    assert found.camera.source == "geometric: recovered trajectory"
    assert found.scene.facts["moving_objects"] == 2
    assert "16 frames" in found.scene.text
    assert context.frames == 16
    assert context.facts["objects"] == 2
    rows = captions_file.read_csv(tree.object_captions)
    assert rows == {o.instance_id: o.text for o in found.objects}


def test_same_inputs_give_the_same_bytes(tree):
    caption(tree)
    first = tree.captions.read_bytes(), tree.object_captions.read_bytes()
    caption(tree)
    assert (tree.captions.read_bytes(), tree.object_captions.read_bytes()) == first


def test_depth_range_is_that_of_the_scene(tree, orbit):
    found, _ = caption(tree)
    true_Z = np.concatenate([d[m == 0] for d, m in zip(orbit.depth, orbit.masks, strict=True)])
    assert found.scene.facts["depth"]["median"] == pytest.approx(np.median(true_Z), rel=0.1)
    assert found.scene.facts["depth"]["unit"] == "relative"
    assert "metre" not in found.scene.text


def test_object_course_says_where_it_enters_and_leaves(tmp_path, orbit):
    scene = write_tree(tmp_path, orbit, without=SLOW)
    y, x = np.mgrid[:56, :96]
    for i in range(16):
        ids_HW = np.zeros((56, 96), np.uint8)
        if 3 <= i <= 11:
            ids_HW[np.hypot(x - (11.5 * (i - 3)), y - 28) < 7] = 1
        masks.write(scene.mask(i), ids_HW)
    found, _ = caption(scene)
    text = found.objects[0].text
    assert "enters at the left edge" in text
    assert "moves from left to right" in text
    assert "leaves at the right edge" in text
    assert "frames 3 to 11" in text
    assert found.objects[0].facts["frames_seen"] == 9
    assert found.objects[1].text.endswith("no mask shows it.")


def test_a_category_of_another_backend_is_kept_and_none_is_invented(tmp_path, orbit):
    scene = write_tree(tmp_path, orbit, without=SLOW, object_name="red toy", category="toy")
    found, _ = caption(scene)
    assert "red toy 1" in found.objects[0].text
    assert "not named" not in found.scene.text


@pytest.mark.parametrize(
    ("status", "labels", "words"),
    [
        ("static_camera", ["static", "no-motion"], "stands still"),
        ("failed", [], "its path was not recovered"),
        ("too_short", [], "its path was not recovered"),
    ],
)
def test_reconstructions_without_a_path(tmp_path, orbit, status, labels, words):
    found, _ = caption(write_tree(tmp_path, orbit, without=SLOW, status=status))
    assert found.camera.labels == labels
    assert words in found.camera.text
    assert "depth" not in found.scene.facts


def test_rotation_only_says_what_cannot_be_seen(tmp_path):
    clip = render(12, (64, 40), "rotation", 0, supersample=1)
    found, _ = caption(write_tree(tmp_path, clip, without=SLOW, status="rotation_only"))
    travels = {name for pair in v.TRAVELS for name in pair} | set(v.ARCS)
    assert not travels & set(found.camera.labels)
    assert "pan-right" in found.camera.labels
    assert "parallax" in found.camera.text
    assert found.objects == []
    assert "Nothing was found to move" in found.scene.text


def test_a_stretch_without_poses_has_no_segment(tmp_path):
    clip = render(40, (48, 32), "dolly", 0, supersample=1)
    scene = write_tree(tmp_path, clip, without=(*SLOW, "tracks"))
    whole = poses.read(scene.poses)
    lost = np.arange(40) >= 20
    c2w_F44 = np.where(lost[:, None, None], np.nan, whole.c2w_F44)
    poses.write(scene.poses, replace(whole, c2w_F44=c2w_F44, registered_F=~lost))
    found, _ = caption(scene)
    assert [(s.first_frame, s.last_frame) for s in found.camera.segments] == [(0, 19)]
    assert "In 20 of 40 frames its path was not recovered." in found.camera.text
    assert [s["pose_known"] for s in found.camera.facts["segments"]] == [True, False]


def test_without_a_reconstruction_the_analysis_speaks(tmp_path, orbit):
    found, _ = caption(write_tree(tmp_path, orbit, without=(*SLOW, "reconstruction", "tracks")))
    assert found.camera.source == "geometric: image motion"
    assert found.camera.facts == {"camera_motion": "moving"}


def test_one_frame(tmp_path, orbit):
    clip = replace(
        orbit,
        rgb=orbit.rgb[:1],
        depth=orbit.depth[:1],
        masks=orbit.masks[:1],
        c2w_F44=orbit.c2w_F44[:1],
        times=orbit.times[:1],
    )
    found, _ = caption(write_tree(tmp_path, clip, without=SLOW, status="too_short"))
    assert found.camera.text == "One frame has no camera motion."
    assert found.camera.segments == []
    assert "single frame" in found.scene.text


def test_without_a_rate_nothing_is_said_about_speed(tmp_path, orbit):
    found, _ = caption(write_tree(tmp_path, orbit, without=SLOW, rate=None))
    assert not set(found.camera.labels) & {*v.SPEEDS, *v.STEADINESS}
    assert " s)" not in found.camera.text
    assert "seconds" not in found.scene.facts
