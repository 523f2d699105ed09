"""Sparse motion of a clip on small frames: flow, camera path, parallax, moving points.

Corners spread over the picture are tracked from frame to frame (Lucas–Kanade, forth and back).
From an anchor frame they are followed until they have moved far enough; then a homography
and a fundamental matrix are fitted to anchor and present frame (RANSAC with OpenCV's fixed seed).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 16  # pixels: one corner a cell
LEAST_TEXTURE = 1e-3  # smallest eigenvalue of a corner that can be tracked (grey 0..1)
ROUND_TRIP = 0.7  # pixels: forth and back
ENOUGH_POINTS = 24
FAR, NEAR = 0.05, 0.01  # of the diagonal: median shift at which two views are compared
OLDEST_ANCHOR = 24  # frames
LEAST_KEPT = 0.4  # share of the anchor's points
MODEL_PX = 1.0  # residual of a point that a model explains
EPIPOLAR_PX = 0.7  # the same, to a line
STILL_PX = 0.75  # a shift between anchor and present that is noise

_Points = NDArray[np.float32]


@dataclass
class MotionTrack:
    """Feed grey frames in order; read the lists.

    steps: median shift of all points between neighbouring frames, of the diagonal.
    camera: shift of the picture's centre by the camera between neighbouring frames (x, y),
    of the diagonal; None where no camera motion could be fitted.
    parallax, moving: one value a compared pair of views, shares 0..1 (see `_compare`).
    """

    steps: list[float] = field(default_factory=list)
    camera: list[tuple[float, float] | None] = field(default_factory=list)
    parallax: list[float] = field(default_factory=list)
    moving: list[float] = field(default_factory=list)
    _previous: NDArray[np.uint8] | None = None
    _anchor_N2: _Points = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    _present_N2: _Points = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    _seeded: int = 0
    _age: int = 0

    def add(self, grey: NDArray[np.uint8]) -> None:
        if self._previous is None:
            self._previous = grey
            self._seed(grey)
            return
        diagonal = float(np.hypot(*grey.shape))
        moved_N2, kept_N = there_and_back(self._previous, grey, self._present_N2)
        before_N2 = self._present_N2[kept_N]
        self._anchor_N2, self._present_N2 = self._anchor_N2[kept_N], moved_N2[kept_N]
        self._age += 1
        self._previous = grey
        if len(before_N2) >= ENOUGH_POINTS:
            shift_N = np.linalg.norm(self._present_N2 - before_N2, axis=1)
            self.steps.append(float(np.median(shift_N)) / diagonal)
            self.camera.append(_camera_shift(before_N2, self._present_N2, grey.shape, diagonal))
        else:
            self.camera.append(None)
        self._maybe_compare(grey, diagonal)

    def finish(self) -> None:
        """Compare the last views."""
        if self._previous is not None and self._age:
            diagonal = float(np.hypot(*self._previous.shape))
            if len(self._anchor_N2) >= ENOUGH_POINTS:
                self._compare(diagonal)

    def _maybe_compare(self, grey: NDArray[np.uint8], diagonal: float) -> None:
        """Compare with the anchor when that is far enough, old, or nearly lost."""
        count = len(self._anchor_N2)
        if count >= ENOUGH_POINTS:
            shift = float(np.median(np.linalg.norm(self._present_N2 - self._anchor_N2, axis=1)))
            lost = count < LEAST_KEPT * self._seeded
            if shift < FAR * diagonal and self._age < OLDEST_ANCHOR and not lost:
                return
            self._compare(diagonal)
        self._seed(grey)

    def _seed(self, grey: NDArray[np.uint8]) -> None:
        self._anchor_N2 = self._present_N2 = corners(grey)
        self._seeded = len(self._anchor_N2)
        self._age = 0

    def _compare(self, diagonal: float) -> None:
        """Explain the shift from the anchor by a homography or an epipolar geometry.

        parallax: share of the points that only the epipolar geometry explains; a rotation, a
        flat scene and a zoom give 0. moving: share that the better model leaves over. A
        single object that moves along straight lines before a turning camera looks like
        parallax to two views, and one that moves along its epipolar lines like a static one.
        """
        anchor_N2, present_N2 = self._anchor_N2, self._present_N2
        shift_N = np.linalg.norm(present_N2 - anchor_N2, axis=1)
        if np.median(shift_N) < NEAR * diagonal:  # the camera (nearly) stands
            if np.median(shift_N) < STILL_PX:
                self.moving.append(float(np.mean(shift_N > 2 * STILL_PX)))
            return
        # not USAC: OpenCV 5's raises where it finds no model
        H, _ = cv2.findHomography(anchor_N2, present_N2, cv2.RANSAC, MODEL_PX, maxIters=500)
        F, _ = cv2.findFundamentalMat(anchor_N2, present_N2, cv2.FM_RANSAC, EPIPOLAR_PX, 0.99, 500)
        planar_N = np.zeros(len(shift_N), bool)
        if H is not None:
            planar_N = _fits(np.asarray(H, np.float64), anchor_N2, present_N2)
        both_N = planar_N
        if F is not None and F.shape == (3, 3):
            error_N = _sampson(np.asarray(F, np.float64), anchor_N2, present_N2)
            both_N = planar_N | (error_N < EPIPOLAR_PX)
        self.parallax.append(float(both_N.mean() - planar_N.mean()))
        self.moving.append(float(1.0 - both_N.mean()))


def corners(grey: NDArray[np.uint8]) -> _Points:
    """The best corner (x, y) of every cell that has one: spread evenly, not only on objects."""
    strength = np.asarray(cv2.cornerMinEigenVal(grey.astype(np.float32) / 255, 5), np.float32)
    rows, columns = grey.shape[0] // CELL, grey.shape[1] // CELL
    blocks = strength[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    cells = blocks.transpose(0, 2, 1, 3).reshape(rows * columns, CELL * CELL)
    best = cells.argmax(1)
    index = np.arange(rows * columns)
    x = index % columns * CELL + best % CELL
    y = index // columns * CELL + best // CELL
    textured = cells[index, best] > LEAST_TEXTURE
    return np.asarray(np.stack([x, y], 1)[textured], np.float32)


def there_and_back(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points_N2: _Points
) -> tuple[_Points, NDArray[np.bool_]]:
    """Points tracked into another frame, and which came back to within ROUND_TRIP."""
    if not len(points_N2):
        return points_N2, np.zeros(0, bool)
    there_N2, ok_N = _lucas_kanade(before, after, points_N2)
    back_N2, ok_back_N = _lucas_kanade(after, before, there_N2)
    error_N = np.linalg.norm(back_N2 - points_N2, axis=1)
    height, width = after.shape
    inside_N = np.all((there_N2 >= 0) & (there_N2 <= (width - 1, height - 1)), axis=1)
    return there_N2, ok_N & ok_back_N & (error_N < ROUND_TRIP) & inside_N


def _lucas_kanade(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points_N2: _Points
) -> tuple[_Points, NDArray[np.bool_]]:
    start = points_N2.copy()
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points_N2, start, winSize=(15, 15), maxLevel=3
    )
    return np.asarray(moved, np.float32), np.asarray(found).ravel() > 0


def _camera_shift(
    before_N2: _Points, after_N2: _Points, shape: tuple[int, ...], diagonal: float
) -> tuple[float, float] | None:
    """Where the dominant similarity moves the picture's centre (RANSAC, OpenCV's fixed seed)."""
    M, _ = cv2.estimateAffinePartial2D(
        before_N2, after_N2, method=cv2.RANSAC, ransacReprojThreshold=1.5, maxIters=200
    )
    if M is None:
        return None
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2, 1.0])
    shift = (M @ centre - centre[:2]) / diagonal
    return float(shift[0]), float(shift[1])


def _fits(H: NDArray[np.float64], first_N2: _Points, second_N2: _Points) -> NDArray[np.bool_]:
    moved_N2 = cv2.perspectiveTransform(first_N2[:, None], H)[:, 0]
    return np.asarray(np.linalg.norm(moved_N2 - second_N2, axis=1) < 1.5 * MODEL_PX)


def _sampson(F: NDArray[np.float64], first_N2: _Points, second_N2: _Points) -> NDArray[np.float64]:
    """Sampson distance (N) in pixels (Hartley and Zisserman, 11.4.3)."""
    first_N3 = np.column_stack([first_N2, np.ones(len(first_N2))])
    second_N3 = np.column_stack([second_N2, np.ones(len(second_N2))])
    right_N3, left_N3 = first_N3 @ F.T, second_N3 @ F
    error_N = np.sum(second_N3 * right_N3, axis=1)
    scale_N = (right_N3[:, :2] ** 2).sum(1) + (left_N3[:, :2] ** 2).sum(1)
    return np.asarray(np.abs(error_N) / np.sqrt(scale_N + 1e-18))
