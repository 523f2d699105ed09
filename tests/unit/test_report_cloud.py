"""The 4D view's data: decoded again and projected, they must give the rendered pixels."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
from rendered import render
from scene_tree import write_tree

from dynamicverse.formats import fused, poses
from dynamicverse.report import cloud


@pytest.fixture(scope="module")
def scene_parts(tmp_path_factory):
    clip = render(8, (96, 56), "orbit", 1, supersample=1)
    without = ("keyframes", "tracks")
    scene = write_tree(tmp_path_factory.mktemp("cloud"), clip, without=without)
    return clip, fused.read(scene.fused, with_rgbs=False), poses.read(scene.poses)


def decoded(text: str) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, 3)
    return (levels / 65535 * 2 - 1) * cloud.REACH


def test_points_project_to_the_pixels_they_come_from(scene_parts):
    clip, whole, cameras = scene_parts
    data = cloud.payload(whole, cameras, [0, 4], 500, clip.size)
    xyz = decoded(data["dynXyz"])
    rgb = np.frombuffer(base64.b64decode(data["dynRgb"]), np.uint8).reshape(-1, 3)
    first, end = data["dynOffsets"][1:3]  # the second shown frame, frame 4
    camera = np.array(data["cameras"][1])
    eye, axes, (fx, fy, cx, cy) = camera[:3], camera[3:12].reshape(3, 3), camera[12:]
    local = (xyz[first:end] - eye) @ axes.T
    u = np.rint(local[:, 0] / local[:, 2] * fx + cx).astype(int)
    v = np.rint(local[:, 1] / local[:, 2] * fy + cy).astype(int)
    assert len(u) > 20
    inside = (u >= 0) & (u < clip.size[0]) & (v >= 0) & (v < clip.size[1])
    assert inside.all()
    assert (clip.masks[4][v, u] > 0).mean() > 0.97
    assert (np.abs(clip.rgb[4][v, u].astype(int) - rgb[first:end]) == 0).all(1).mean() > 0.97


def test_stage_frame_is_right_handed_level_and_of_unit_size(scene_parts):
    _, whole, cameras = scene_parts
    rotation, centre, scale = cloud.stage_frame(whole, cameras)
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    staged = (whole.static_points - centre) @ rotation.T / scale
    assert np.percentile(np.linalg.norm(staged, axis=1), 90) == pytest.approx(1, abs=0.01)
    assert rotation @ np.array([0.0, -1.0, 0.0]) == pytest.approx([0, 1, 0], abs=0.02)


def test_a_better_vertical_is_used(scene_parts):
    _, whole, cameras = scene_parts
    up = np.array([0.0, -np.cos(0.3), np.sin(0.3)])
    rotation, _, _ = cloud.stage_frame(whole, cameras, up)
    assert rotation @ up == pytest.approx([0, 1, 0], abs=1e-9)


def test_sample_is_bounded_prefers_confidence_and_repeats(scene_parts):
    clip, whole, cameras = scene_parts
    count = len(whole.static_points)
    sure = np.zeros(count, np.float32)
    sure[: count // 2] = 1
    tested = replace(whole, static_confidence=sure)
    near = np.ones(count, bool)
    chosen = cloud._choose_static(tested, near, 300)
    assert len(chosen) == len(set(chosen.tolist())) == 300
    assert (sure[chosen] == 1).mean() > 0.85
    assert (chosen == cloud._choose_static(tested, near, 300)).all()
    data = cloud.payload(whole, cameras, list(range(8)), 300, clip.size)
    assert data["points"] == 300
    assert data["dynOffsets"][-1] <= cloud.MAX_DYNAMIC


def test_far_outliers_are_left_out_not_piled_up(scene_parts):
    clip, whole, cameras = scene_parts
    points = whole.static_points.copy()
    points[::50] *= 1e4
    data = cloud.payload(replace(whole, static_points=points), cameras, [0], 10**6, clip.size)
    xyz = decoded(data["xyz"])
    assert len(xyz) < len(points)
    assert (np.abs(xyz) > 0.999 * cloud.REACH).sum() == 0


def test_nothing_to_show(scene_parts):
    clip, whole, cameras = scene_parts
    empty = replace(whole, static_points=np.zeros((0, 3), np.float32))
    assert cloud.payload(empty, cameras, [0], 100, clip.size) is None


def test_unregistered_frames_have_no_camera(scene_parts):
    clip, whole, cameras = scene_parts
    registered = cameras.registered_F.copy()
    registered[3] = False
    c2w = cameras.c2w_F44.copy()
    c2w[3] = np.nan
    partly = replace(cameras, registered_F=registered, c2w_F44=c2w)
    data = cloud.payload(whole, partly, [2, 3], 100, clip.size)
    assert data["cameras"][0] is not None
    assert data["cameras"][1] is None
    assert np.isfinite(np.array(data["path"])).all()
