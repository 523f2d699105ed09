"""The camera model: pixel centres, projection and rays."""

from __future__ import annotations

import numpy as np

from dynamicverse.geometry.projection import bearings, image_centre, intrinsics, project, rays


def test_the_centre_of_two_pixels_lies_between_them() -> None:
    np.testing.assert_array_equal(image_centre((2, 1)), [0.5, 0.0])


def test_opencv_axes() -> None:
    K = intrinsics(100.0, (50.0, 40.0))
    right_and_below = project([[1.0, 2.0, 4.0]], K)
    np.testing.assert_allclose(right_and_below, [[75.0, 90.0]])


def test_rays_undo_projection() -> None:
    K = intrinsics(321.0, (10.0, 20.0))
    points = np.random.default_rng(0).uniform([-2, -2, 1], [2, 2, 5], (50, 3))
    pixels = project(points, K)
    np.testing.assert_allclose(rays(pixels, K), points / points[:, 2:], atol=1e-12)
    unit = bearings(pixels, K)
    np.testing.assert_allclose(unit, points / np.linalg.norm(points, axis=1, keepdims=True))


def test_a_point_behind_the_camera_has_no_pixel() -> None:
    pixels = project([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.eye(3))
    np.testing.assert_array_equal(np.isnan(pixels[:, 0]), [True, True, False])
