"""Rotations and rigid motions against SciPy and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from dynamicverse.geometry.lie import (
    hat,
    nearest_rotation,
    rotation_angle,
    se3,
    se3_inverse,
    so3_exp,
    so3_log,
    transform,
)

ANGLES = [0.0, 1e-12, 1e-6, 1e-4, 0.3, 2.0, np.pi - 1e-3, np.pi - 1e-7, np.pi]


def test_hat_is_the_cross_product() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20, 3))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", hat(a), b), np.cross(a, b), atol=1e-14)


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_is_the_matrix_exponential(angle: float) -> None:
    axis = np.array([1.0, -2.0, 2.0]) / 3
    np.testing.assert_allclose(so3_exp(angle * axis), expm(hat(angle * axis)), atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, -1), (1, -2, 2)])
def test_log_undoes_exp(angle: float, axis: tuple[int, int, int]) -> None:
    omega = angle * np.array(axis) / np.linalg.norm(axis)
    R = so3_exp(omega)
    np.testing.assert_allclose(so3_exp(so3_log(R)), R, atol=1e-9)
    assert rotation_angle(R) == pytest.approx(angle, abs=2e-8)


def test_log_agrees_with_scipy() -> None:
    R = Rotation.random(200, random_state=1)
    np.testing.assert_allclose(so3_log(R.as_matrix()), R.as_rotvec(), atol=1e-9)


def test_nearest_rotation_is_proper_and_closest() -> None:
    rng = np.random.default_rng(2)
    R = Rotation.random(50, random_state=3).as_matrix()
    found = nearest_rotation(R + rng.normal(0, 0.05, R.shape))
    np.testing.assert_allclose(np.linalg.det(found), 1, atol=1e-12)
    assert rotation_angle(np.swapaxes(found, 1, 2) @ R).max() < 0.3
    assert np.linalg.det(nearest_rotation(np.diag([1.0, 1.0, -1.0]))) == pytest.approx(1)


def test_inverse_and_transform() -> None:
    T = se3(so3_exp([0.3, -0.2, 1.0]), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(se3_inverse(T) @ T, np.eye(4), atol=1e-14)
    points = np.random.default_rng(4).normal(size=(10, 3))
    np.testing.assert_allclose(transform(se3_inverse(T), transform(T, points)), points)
