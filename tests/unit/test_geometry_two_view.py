"""Relative pose and rotation of two views against synthetic truth."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.geometry.lie import rotation_angle, so3_exp
from dynamicverse.geometry.two_view import (
    essential,
    estimate_relative_pose,
    estimate_rotation,
    ray_angles,
    sampson_distance,
    triangulate_pair,
)

R = so3_exp([0.02, 0.15, -0.03])
T = np.array([1.0, 0.1, 0.05]) / np.linalg.norm([1.0, 0.1, 0.05])
BASELINE = 0.5


def views(count: int, depth: tuple[float, float] = (3.0, 7.0)) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -1.5, depth[0]], [2, 1.5, depth[1]], (count, 3))
    second = points @ R.T + BASELINE * T
    return points, points[:, :2] / points[:, 2:], second[:, :2] / second[:, 2:]


def test_true_matches_satisfy_the_epipolar_geometry() -> None:
    _, one, two = views(50)
    assert sampson_distance(essential(R, T), one, two).max() < 1e-12
    off = two + np.array([0.0, 0.01])
    assert np.median(sampson_distance(essential(R, T), one, off)) == pytest.approx(0.007, rel=0.2)


def test_triangulation_and_angles() -> None:
    points, one, two = views(50)
    np.testing.assert_allclose(triangulate_pair(R, BASELINE * T, one, two), points, rtol=1e-9)
    centre = -R.T @ (BASELINE * T)
    a, b = points, points - centre
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(np.cos(ray_angles(R, one, two)), cosine, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_pose_with_noise_and_outliers(share: float) -> None:
    rng = np.random.default_rng(1)
    _, one, two = views(600)
    two = two + rng.normal(0, 0.3 / 500, two.shape)
    wrong = rng.random(len(two)) < share
    two[wrong] = rng.uniform(-0.6, 0.6, (int(wrong.sum()), 2))
    pose = estimate_relative_pose(one, two, 1.5 / 500)
    assert pose is not None
    assert np.degrees(rotation_angle(pose.R.T @ R)) < 0.5
    assert np.degrees(np.arccos(pose.t @ T)) < 4
    assert pose.inlier_N[~wrong].mean() > 0.9
    assert pose.inlier_N[wrong].mean() < 0.1 if share else True
    assert (pose.points_N3[pose.inlier_N, 2] > 0).all()


def test_too_few_matches_give_no_pose() -> None:
    _, one, two = views(7)
    assert estimate_relative_pose(one, two, 1e-3) is None


def test_same_input_same_pose() -> None:
    _, one, two = views(200)
    first, second = (estimate_relative_pose(one, two, 1e-3) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.R, second.R)
    np.testing.assert_array_equal(first.t, second.t)


def test_rotation_with_outliers() -> None:
    rng = np.random.default_rng(2)
    one = rng.normal([0, 0, 4], 1, (400, 3))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    two = one @ R.T
    wrong = rng.random(400) < 0.4
    two[wrong] = rng.permutation(two[wrong])
    found, angle = estimate_rotation(one, two)
    assert rotation_angle(found.T @ R) < 1e-4
    assert np.median(angle[~wrong]) < 1e-4
    with pytest.raises(ValueError, match="two matches"):
        estimate_rotation(one[:1], two[:1])
