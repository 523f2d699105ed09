"""Values at a few pixels carried to others nearby, by inverse distance."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

LEAST_POINTS = 3
NEAREST = 4
SMOOTH = 1.0  # px added to distances: pixels are not exact
GRID = 4  # px between the nodes that are interpolated from points


def at_pixels(pixels_K2: npt.ArrayLike, value_K: Floats, at_G2: Floats) -> Floats:
    """Inverse-distance mean (G,) of the nearest of K ≥ 1 values."""
    pixels = np.asarray(pixels_K2, np.float64)
    count = min(NEAREST, len(pixels))
    distance, nearest = cKDTree(pixels).query(at_G2, k=range(1, count + 1))
    weight = (distance + SMOOTH) ** -2.0
    return np.asarray(np.sum(weight * value_K[nearest], 1) / weight.sum(1))


def over_mask(
    pixels_K2: npt.ArrayLike, value_K: Floats, mask_HW: npt.NDArray[np.bool_]
) -> Floats32:
    """The same for every pixel of a mask (its pixels, row by row), from a coarse grid."""
    rows, columns = np.nonzero(mask_HW)
    low, high = (rows.min(), columns.min()), (rows.max(), columns.max())
    y_h, x_w = (
        np.linspace(a, b, max(2, -(-int(b - a) // GRID) + 1))
        for a, b in zip(low, high, strict=True)
    )
    nodes_G2 = np.stack(np.meshgrid(x_w, y_h), -1).reshape(-1, 2)
    grid_hw = at_pixels(pixels_K2, value_K, nodes_G2).reshape(len(y_h), len(x_w))
    x_P = (columns - low[1]) * np.float32((len(x_w) - 1) / max(1, high[1] - low[1]))
    y_P = (rows - low[0]) * np.float32((len(y_h) - 1) / max(1, high[0] - low[0]))
    return _bilinear(grid_hw.astype(np.float32), x_P, y_P)


def _bilinear(
    grid_hw: Floats32, x_P: npt.NDArray[np.float32], y_P: npt.NDArray[np.float32]
) -> Floats32:
    """Values at fractional columns and rows."""
    result = np.empty(len(x_P), np.float32)
    for start in range(0, len(x_P), 32_000):  # remap takes at most 32767 rows
        part = slice(start, start + 32_000)
        x, y = x_P[part].astype(np.float32), y_P[part].astype(np.float32)
        found = cv2.remap(
            grid_hw, x[:, None], y[:, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        result[part] = found[:, 0]
    return result
