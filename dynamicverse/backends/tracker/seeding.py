"""Where to start tracks: the best corner of every cell of a grid that has no track yet."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from dynamicverse.backends.tracker.matching import WINDOW, Grey, Points

NOISE = 2.0  # grey levels, standard deviation of camera noise and compression
CENTRE = 7  # px, window that places a seed on its corner
MAX_UNCERTAINTY = 0.2  # px, the worst localisation that noise alone may cause at a seed


def texture(image: Grey, window: int = WINDOW) -> npt.NDArray[np.float32]:
    """Smaller eigenvalue of the structure tensor over a window of `window` px, (H,W).

    Unit: squared grey levels per px² and window pixel; noise of standard deviation s moves
    a match by about s / (window * sqrt(value)) px along the weakest direction.
    """
    sobel_gain = 8.0  # a unit ramp answers 8 to the 3×3 Sobel operator
    area = window * window
    # OpenCV scales uint8 gradients by 1 / (255 * 4 * blockSize) and sums over the block
    gain = (255.0 * 4.0 * window / sobel_gain) ** 2 / area
    return cv2.cornerMinEigenVal(image, window, ksize=3) * np.float32(gain)


def cell_size(size: tuple[int, int], grid_size: int) -> float:
    """Side of a grid cell in px for an image of `size` (width, height)."""
    return max(size) / grid_size


def cells(points_K2: Points, size: tuple[int, int], side: float) -> npt.NDArray[np.int64]:
    """The grid cell of each point, numbered row by row."""
    columns, rows = _shape(size, side)
    column = np.clip(np.floor((points_K2[:, 0] + 0.5) / side).astype(np.int64), 0, columns - 1)
    row = np.clip(np.floor((points_K2[:, 1] + 0.5) / side).astype(np.int64), 0, rows - 1)
    cell_K: npt.NDArray[np.int64] = row * columns + column
    return cell_K


def _shape(size: tuple[int, int], side: float) -> tuple[int, int]:
    return max(1, round(size[0] / side)), max(1, round(size[1] / side))


def seeds(image: Grey, taken_K2: Points, grid_size: int, border: int) -> Points:
    """New points: at most one per cell without a taken point, at its best corner.

    A seed is a local maximum of `texture`, with a window textured enough to be found again within
    MAX_UNCERTAINTY, at least half a cell from every taken point and `border` px from the
    image border. Ordered by row, then column of the cell.
    """
    size = (image.shape[1], image.shape[0])
    side = cell_size(size, grid_size)
    # a box window is as content with a corner at its edge: centre it by a smaller one
    quality = texture(image, CENTRE)
    peak = cv2.dilate(quality, np.ones((3, 3), np.uint8))
    least = (NOISE / (WINDOW * MAX_UNCERTAINTY)) ** 2
    allowed = (quality >= peak) & (texture(image) >= least)
    allowed[:border] = allowed[len(allowed) - border :] = False
    allowed[:, :border] = allowed[:, image.shape[1] - border :] = False
    y, x = np.nonzero(allowed)
    points = np.stack([x, y], axis=1).astype(np.float32)
    cell = cells(points, size, side)
    free = ~np.isin(cell, cells(taken_K2, size, side)) & ~_near(points, taken_K2, size, side / 2)
    points, cell, value = points[free], cell[free], quality[y[free], x[free]]
    order = np.lexsort((points[:, 0], points[:, 1], -value, cell))
    _, first = np.unique(cell[order], return_index=True)
    return points[order[first]]


def _near(
    points_K2: Points, taken_K2: Points, size: tuple[int, int], radius: float
) -> npt.NDArray[np.bool_]:
    """Which points lie within about `radius` px of a taken one."""
    disc = np.zeros((size[1], size[0]), np.uint8)
    for x, y in np.rint(taken_K2).astype(int).tolist():
        cv2.circle(disc, (x, y), int(radius), 1, cv2.FILLED)
    at = points_K2.astype(np.int64)
    return disc[at[:, 1], at[:, 0]] > 0


def duplicates(
    points_K2: Points, rank_K: npt.NDArray[np.int64], radius: float
) -> npt.NDArray[np.bool_]:
    """Points that share a square of side `radius` px with one of lower rank, (K,)."""
    square = np.floor(points_K2 / radius).astype(np.int64)
    key = square[:, 1] * (1 << 20) + square[:, 0]
    order = np.lexsort((rank_K, key))
    _, first = np.unique(key[order], return_index=True)
    double = np.ones(len(points_K2), bool)
    double[order[first]] = False
    return double


def neighbour_motion(
    points_K2: Points, known_N2: Points, motion_N2: Points, neighbours: int = 8
) -> tuple[Points, npt.NDArray[np.float32]]:
    """Median motion of the nearest points whose motion is known, (K,2).

    And how far (K) the motions of those points are from it, in the median. With fewer than
    `neighbours` points, which prove nothing: zero, and inf.
    """
    if len(known_N2) < neighbours or len(points_K2) == 0:
        return np.zeros_like(points_K2), np.full(len(points_K2), np.inf, np.float32)
    _, nearest = cKDTree(known_N2).query(points_K2, neighbours)
    motion_KM2 = motion_N2[np.reshape(nearest, (len(points_K2), neighbours))]
    median_K2 = np.asarray(np.median(motion_KM2, axis=1), np.float32)
    apart_KM = np.linalg.norm(motion_KM2 - median_K2[:, None], axis=2)
    return median_K2, np.asarray(np.median(apart_KM, axis=1), np.float32)
