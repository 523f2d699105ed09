"""The pinhole camera: OpenCV axes, pixels with (0, 0) at the centre of the first pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array


def image_centre(size: tuple[int, int]) -> Array:
    """The centre (2,) in pixels of an image of `size` (width, height)."""
    return np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])


def intrinsics(focal: float, centre: npt.ArrayLike) -> Array:
    """K (3, 3) of square pixels, focal length in px and principal point (2,) in px."""
    cx, cy = np.asarray(centre, np.float64)
    return np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])


def project(points_N3: npt.ArrayLike, K_33: npt.ArrayLike) -> Array:
    """Pixels (N, 2) of points in camera coordinates; NaN where a point is not in front."""
    points, K = np.asarray(points_N3, np.float64), np.asarray(K_33, np.float64)
    depth = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return np.asarray((points / depth) @ K[:2].T)


def rays(pixels_N2: npt.ArrayLike, K_33: npt.ArrayLike) -> Array:
    """Directions (N, 3) in camera coordinates with z = 1, one a pixel."""
    pixels = np.asarray(pixels_N2, np.float64)
    ones = np.ones((*pixels.shape[:-1], 1))
    return np.concatenate([pixels, ones], -1) @ np.linalg.inv(np.asarray(K_33, np.float64)).T


def bearings(pixels_N2: npt.ArrayLike, K_33: npt.ArrayLike) -> Array:
    """Unit directions (N, 3) in camera coordinates."""
    directions = rays(pixels_N2, K_33)
    return np.asarray(directions / np.linalg.norm(directions, axis=-1, keepdims=True))
