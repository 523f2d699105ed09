"""A depth prior brought into the scale of the reconstruction.

As in the paper: the ratio of reconstructed to prior depth at the control points (static points
seen in the frame), interpolated over the picture by inverse distance between the three nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

NEAREST = 3
GRID = 8  # px between the nodes at which the ratio is interpolated
SMOOTH = 4.0  # px added to distances: control points are not exact
SUREST, UNSURE = 0.002, 0.1  # bounds of the standard deviation of log depth
MOST_COMPARED = 2000  # control points that are compared with their neighbours
OUTLIER = 3.0  # in robust standard deviations of the logarithm of the ratio


@dataclass(frozen=True)
class ScaleField:
    """Logarithms of the scales of a prior at nodes over the picture; None where it stays as it is.

    sigma: standard deviation of log depth, how far control points side by side differ.
    """

    log_scale_hw: Floats32 | None
    sigma: float

    def scaled(self, prior_HW: Floats32) -> Floats32:
        """The prior (H,W) in the scale of the reconstruction; unknown (0) stays unknown."""
        if self.log_scale_hw is None:
            return prior_HW.copy()
        height, width = prior_HW.shape
        scale_HW = np.exp(_resize(self.log_scale_hw, (width, height)))
        return np.asarray(prior_HW * scale_HW, np.float32)


def scale_field(prior_HW: Floats32, pixels_N2: Floats, depth_N: Floats) -> ScaleField:
    """The smooth field of scales that takes a prior to the depth of its control points.

    pixels_N2: control points in px; depth_N: their depth in the reconstruction.
    """
    height, width = prior_HW.shape
    x_N, y_N = np.rint(pixels_N2).astype(np.intp).T if len(pixels_N2) else np.zeros((2, 0), int)
    inside_N = (x_N >= 0) & (x_N < width) & (y_N >= 0) & (y_N < height) & (depth_N > 0)
    index = np.flatnonzero(inside_N)
    index = index[prior_HW[y_N[index], x_N[index]] > 0]
    if not len(index):
        return ScaleField(None, UNSURE)
    logarithm = np.log(depth_N[index] / prior_HW[y_N[index], x_N[index]])
    error = np.abs(logarithm - np.median(logarithm))
    kept = error <= OUTLIER * 1.4826 * np.median(error) + 1e-6
    control_K2, value_K = pixels_N2[index[kept]], logarithm[kept]
    field_hw = _interpolate(control_K2, value_K, (width, height))
    return ScaleField(field_hw, _spread(control_K2, value_K))


def _spread(pixels_K2: Floats, value_K: Floats) -> float:
    """Robust standard deviation of a value, from its difference to the nearest neighbour."""
    if len(value_K) < 2:
        return UNSURE
    some = slice(None, None, -(-len(value_K) // MOST_COMPARED))
    _, nearest = cKDTree(pixels_K2).query(pixels_K2[some], k=[2])
    difference = np.abs(value_K[some] - value_K[nearest[:, 0]])
    return float(np.clip(1.4826 * np.median(difference) / np.sqrt(2), SUREST, UNSURE))


def _interpolate(pixels_K2: Floats, value_K: Floats, size: tuple[int, int]) -> Floats32:
    """Inverse-distance mean of the nearest values, on a grid over a picture of `size`."""
    axes = [np.linspace(0, n - 1, max(2, -(-n // GRID))) for n in size]
    nodes_G2 = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    count = min(NEAREST, len(pixels_K2))
    distance, nearest = cKDTree(pixels_K2).query(nodes_G2, k=range(1, count + 1))
    weight = 1 / (distance + SMOOTH)
    field_G = np.sum(weight * value_K[nearest], 1) / weight.sum(1)
    return np.asarray(field_G.reshape(len(axes[1]), len(axes[0])), np.float32)


def _resize(field_hw: Floats32, size: tuple[int, int]) -> Floats32:
    """Bilinear, with the corner nodes on the corner pixels."""
    rows, columns = field_hw.shape
    x_W = np.linspace(0, columns - 1, size[0], dtype=np.float32)
    y_H = np.linspace(0, rows - 1, size[1], dtype=np.float32)
    x_HW, y_HW = np.meshgrid(x_W, y_H)
    return np.asarray(cv2.remap(field_hw, x_HW, y_HW, cv2.INTER_LINEAR))
