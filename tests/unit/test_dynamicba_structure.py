"""Triangulation and resection against exact geometry."""

from __future__ import annotations

import numpy as np
import pytest
from camera_clips import FOCAL, film, pan, room, walk

from dynamicverse.dynamicba.bundle.blocks import Observations
from dynamicverse.dynamicba.bundle.solver import Structure
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.resection import pose_errors, resect
from dynamicverse.dynamicba.cameras.triangulation import (
    reprojection_errors,
    triangulate,
    triangulation_angles,
)
from dynamicverse.geometry.lie import rotation_angle, se3_inverse, so3_exp


def scene(noise: float, outliers: float = 0.0) -> tuple[Observations, Structure, np.ndarray]:
    clip = film(walk(20), room(300), noise=noise, outliers=outliers)
    w2c = se3_inverse(clip.c2w_F44)
    seen = TrackGraph(clip.tracks).observations(np.arange(20), 6)
    truth = Structure(w2c[:, :3, :3], w2c[:, :3, 3], clip.points_N3, FOCAL)
    return seen, truth, np.unique(seen.point_M)


def test_points_are_exact_without_noise() -> None:
    seen, truth, tracks = scene(0.0)
    points = triangulate(seen, truth, 300, 1.0)
    np.testing.assert_allclose(points[tracks], truth.points_N3[tracks], atol=2e-3)
    assert np.isnan(points[np.setdiff1d(np.arange(300), tracks)]).all()
    assert np.nanmax(reprojection_errors(points, seen, truth)) < 1e-3


def test_an_outlying_observation_does_not_move_a_point() -> None:
    seen, truth, tracks = scene(0.3)
    first = np.unique(seen.point_M, return_index=True)[1]
    seen.xy_M2[first + 2] += 60.0
    points = triangulate(seen, truth, 300, 1.0)
    error = np.linalg.norm(points - truth.points_N3, axis=1)[tracks]
    depth = truth.points_N3[tracks, 2]
    assert np.median(error / depth) < 0.01
    assert np.mean(error / depth < 0.05) > 0.95


def test_without_parallax_points_are_far_and_fit() -> None:
    clip = film(pan(12), room(200), noise=0.0)
    w2c = se3_inverse(clip.c2w_F44)
    seen = TrackGraph(clip.tracks).observations(np.arange(12), 3)
    cameras = Structure(w2c[:, :3, :3], w2c[:, :3, 3], clip.points_N3, FOCAL)
    points = triangulate(seen, cameras, 200, 1.0)
    assert np.nanmax(reprojection_errors(points, seen, cameras)) < 0.01
    assert np.isfinite(points[np.unique(seen.point_M)]).all()


def test_angles_are_those_between_the_rays() -> None:
    seen, truth, tracks = scene(0.0)
    found = triangulation_angles(seen, truth, 300)
    centres = -np.einsum("fji,fj->fi", truth.R_F33, truth.t_F3)
    for track in tracks[:20]:
        rays = truth.points_N3[track] - centres[seen.frame_M[seen.point_M == track]]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angle = np.arccos(np.clip(rays @ rays[0], -1, 1)).max()
        assert found[track] == pytest.approx(angle, abs=1e-4)


@pytest.mark.parametrize("outliers", [0.0, 0.3, 0.5])
def test_a_pose_from_points(outliers: float) -> None:
    rng = np.random.default_rng(3)
    points = room(200)
    R, t = so3_exp([0.1, -0.2, 0.05]), np.array([0.3, -0.1, 0.5])
    camera = points @ R.T + t
    xy = FOCAL * camera[:, :2] / camera[:, 2:] + rng.normal(0, 0.4, (200, 2))
    wrong = rng.random(200) < outliers
    xy[wrong] += rng.uniform(20, 80, (int(wrong.sum()), 2))
    found = resect(points, xy, FOCAL, 3.0, [(np.eye(3), np.zeros(3))])
    assert found is not None
    assert np.degrees(rotation_angle(found.R.T @ R)) < 0.1
    assert np.linalg.norm(found.t - t) < 0.02
    assert found.inlier_N[~wrong].mean() > 0.99
    assert not found.inlier_N[wrong].any()


def test_a_pose_needs_eight_points() -> None:
    assert resect(room(7), np.zeros((7, 2)), FOCAL, 3.0, []) is None


def test_behind_the_camera_is_infinitely_wrong() -> None:
    behind = np.array([[0.0, 0.0, -2.0]])
    assert np.isinf(pose_errors(behind, np.zeros((1, 2)), FOCAL, np.eye(3), np.zeros(3)))[0]
    seen = Observations(np.array([0]), np.array([0]), np.zeros((1, 2)), np.ones(1))
    cameras = Structure(np.eye(3)[None], np.zeros((1, 3)), behind, FOCAL)
    assert np.isinf(reprojection_errors(behind, seen, cameras))[0]
