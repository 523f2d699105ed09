"""Triangulation and resection against exact geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from camera_clips import FOCAL, film, pan, room, walk

from dynamicverse.dynamicba.bundle.blocks import Observations
from dynamicverse.dynamicba.bundle.solver import Structure
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.resection import pose_errors, resect
from dynamicverse.dynamicba.cameras.triangulation import (
    agreement,
    reprojection_errors,
    triangulate,
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
    found = agreement(truth.points_N3, seen, truth, np.inf).angle_N
    centres = -np.einsum("fji,fj->fi", truth.R_F33, truth.t_F3)
    for track in tracks[:20]:
        rays = truth.points_N3[track] - centres[seen.frame_M[seen.point_M == track]]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        angle = np.arccos(np.clip(rays @ rays[0], -1, 1)).max()
        assert found[track] == pytest.approx(angle, abs=1e-4)


def test_rays_that_do_not_agree_have_no_part_in_the_angle() -> None:
    seen, truth, tracks = scene(0.0)
    first = np.unique(seen.point_M, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(seen)), first)
    wrong = replace(seen, xy_M2=seen.xy_M2.copy())
    wrong.xy_M2[first] += 60.0
    found = agreement(truth.points_N3, wrong, truth, 3.0)
    assert (found.error_M[first] > 50).all()
    without = agreement(truth.points_N3, seen.select(others), truth, 3.0)
    np.testing.assert_allclose(found.error_M[others], without.error_M)
    np.testing.assert_array_equal(found.angle_N, without.angle_N)
    np.testing.assert_array_equal(found.angle_N[np.setdiff1d(np.arange(300), tracks)], 0)


def test_agreement_needs_observations_in_the_order_of_points() -> None:
    seen, truth, _ = scene(0.0)
    with pytest.raises(ValueError, match="sorted"):
        agreement(truth.points_N3, seen.select(np.arange(len(seen))[::-1]), truth, 3.0)


def test_thinned_tracks_are_the_longest_of_each_cell() -> None:
    graph = TrackGraph(film(walk(12), room(900), noise=0.3).tracks)
    frames = np.arange(0, 12, 2)
    length = graph.visible_FN[frames].sum(0)
    step = np.sqrt(graph.size[0] * graph.size[1] * 3 / 60)  # three a cell
    wanted = np.zeros(graph.tracks, bool)
    for frame in frames:
        cells: dict[tuple[int, int], list[int]] = {}
        seen = np.flatnonzero(graph.visible_FN[frame] & (length >= 2))
        for track, xy in zip(seen, graph.pixels(int(frame), seen) + graph.centre, strict=True):
            cells.setdefault((int(xy[0] // step), int(xy[1] // step)), []).append(int(track))
        for inside in cells.values():
            wanted[sorted(inside, key=lambda track: (-length[track], track))[:3]] = True
    np.testing.assert_array_equal(graph.thinned(frames, 60), wanted)
    assert 0 < wanted.sum() < graph.tracks


def test_some_matches_are_spread_over_all_of_them() -> None:
    graph = TrackGraph(film(walk(12), room(900), noise=0.3).tracks)
    everything, some = graph.matches(2, 5), graph.matches(2, 5, 100)
    assert graph.shared(2, 5) == len(everything.track_K) > 300
    assert 50 < len(some.track_K) <= 100
    assert np.isin(some.track_K, everything.track_K).all()
    assert some.track_K[-1] > 0.9 * everything.track_K[-1]


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
    assert np.isinf(agreement(behind, seen, cameras, 3.0).error_M)[0]
