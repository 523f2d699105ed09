"""The motion of the static background between two frames: a homography (rotation, or a
dominant plane) and a fundamental matrix (a static scene of any shape), both robust.

Points are working pixels, (x, y). Hartley and Zisserman, "Multiple View Geometry", ch. 4, 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Map = npt.NDArray[np.float32]

SAMPLES = 2000  # points a fit
FEWEST = 200  # consistent flow vectors; with fewer the background is unknown
RANSAC_SAMPLES = 500
PLANE_THRESHOLD, EPIPOLAR_THRESHOLD = 0.4, 0.3  # px, of the first guess
PLANE_FLOOR, EPIPOLAR_FLOOR = 0.05, 0.03  # px, noise is never taken to be less
ITERATIONS = 8


@dataclass(frozen=True)
class Background:
    """How static points move from frame 1 to frame 2.

    H: x2 ~ H·x1 of the dominant plane. F: x2ᵀ·F·x1 = 0; None where it cannot be fitted.
    plane_noise, epipolar_noise: standard deviation of the points that agree, px.
    """

    H: Array
    plane_noise: float
    F: Array | None
    epipolar_noise: float

    def reversed(self) -> Background:
        """From frame 2 to frame 1."""
        turned = None if self.F is None else self.F.T
        return Background(np.linalg.inv(self.H), self.plane_noise, turned, self.epipolar_noise)


def fit_background(
    points_N2: npt.NDArray[np.float32], ends_N2: npt.NDArray[np.float32], seed: int
) -> Background | None:
    """Fit both models to flow vectors; None where there are too few, or no model fits."""
    if len(points_N2) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(points_N2), min(SAMPLES, len(points_N2)), replace=False))
    one_N2, two_N2 = points_N2[chosen].astype(np.float64), ends_N2[chosen].astype(np.float64)
    some = rng.choice(len(chosen), min(RANSAC_SAMPLES, len(chosen)), replace=False)
    plane = _fit_plane(one_N2, two_N2, some)
    if plane is None:
        return None
    epipolar = _fit_epipolar(one_N2, two_N2, some)
    if epipolar is None:
        return Background(*plane, None, EPIPOLAR_FLOOR)
    return Background(*plane, *epipolar)


def plane_flow(H: Array, x_HW: Map, y_HW: Map) -> Map:
    """The flow (H,W,2) of the plane at every pixel."""
    h = H.astype(np.float32)
    w_HW = h[2, 0] * x_HW + h[2, 1] * y_HW + h[2, 2]
    u_HW = (h[0, 0] * x_HW + h[0, 1] * y_HW + h[0, 2]) / w_HW - x_HW
    v_HW = (h[1, 0] * x_HW + h[1, 1] * y_HW + h[1, 2]) / w_HW - y_HW
    return np.stack([u_HW, v_HW], -1)


def epipolar_offset(F: Array, x_HW: Map, y_HW: Map, flow_HW2: Map) -> tuple[Map, Map]:
    """Sampson distance (H,W) px of flow vectors, and the vector (H,W,2) from the end of each
    to its epipolar line."""
    f = F / np.linalg.norm(F)
    x, y = x_HW.astype(np.float64), y_HW.astype(np.float64)
    x2, y2 = x + flow_HW2[..., 0], y + flow_HW2[..., 1]
    a, b, c = (f[i, 0] * x + f[i, 1] * y + f[i, 2] for i in range(3))
    a1 = f[0, 0] * x2 + f[1, 0] * y2 + f[2, 0]
    b1 = f[0, 1] * x2 + f[1, 1] * y2 + f[2, 1]
    error = a * x2 + b * y2 + c
    ahead = a * a + b * b + 1e-18
    distance = np.abs(error) / np.sqrt(ahead + a1 * a1 + b1 * b1)
    step = -error / ahead
    return distance.astype(np.float32), np.stack([step * a, step * b], -1).astype(np.float32)


def _fit_plane(
    one_N2: Array, two_N2: Array, some: npt.NDArray[np.int64]
) -> tuple[Array, float] | None:
    """RANSAC, then reweighted least squares with a Geman-McClure-like weight."""
    H, inlier_S1 = cv2.findHomography(
        one_N2[some], two_N2[some], cv2.RANSAC, PLANE_THRESHOLD, maxIters=500, confidence=0.999
    )
    if H is None or not inlier_S1.any():
        return None
    guess_S = _plane_error(H, one_N2[some], two_N2[some])[inlier_S1.ravel() > 0]
    noise = max(0.15, 1.5 * float(np.median(guess_S)))
    linear = _LinearPlane(one_N2, two_N2)
    for _ in range(ITERATIONS):
        error_N = _plane_error(H, one_N2, two_N2)
        near_N = error_N < 3 * noise
        if near_N.sum() > 50:
            noise = max(PLANE_FLOOR, 1.2 * float(np.median(error_N[near_N])))
        H = linear.solve((1 + (error_N / (2 * noise)) ** 2) ** -2)
        if H is None:
            return None
    return np.asarray(H, np.float64), noise


def _plane_error(H: Array, one_N2: Array, two_N2: Array) -> Array:
    mapped_N3 = one_N2 @ H[:, :2].T + H[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        error_N = np.linalg.norm(mapped_N3[:, :2] / mapped_N3[:, 2:] - two_N2, axis=1)
    return np.asarray(np.nan_to_num(error_N, nan=1e6, posinf=1e6))


class _LinearPlane:
    """Linear least squares for H with H[2,2] = 1 in normalised coordinates."""

    def __init__(self, one_N2: Array, two_N2: Array) -> None:
        centre, size = one_N2.mean(0), float(one_N2.std()) + 1e-6
        self._T = np.array(
            [[1 / size, 0, -centre[0] / size], [0, 1 / size, -centre[1] / size], [0, 0, 1]]
        )
        (x, y), (u, v) = ((one_N2 - centre) / size).T, ((two_N2 - centre) / size).T
        one, zero = np.ones_like(x), np.zeros_like(x)
        # two rows of the system for each point, and what they should give
        self._rows_2NK = np.stack(
            [
                np.stack([x, y, one, zero, zero, zero, -u * x, -u * y, u], 1),
                np.stack([zero, zero, zero, x, y, one, -v * x, -v * y, v], 1),
            ]
        )

    def solve(self, weight_N: Array) -> Array | None:
        weighted_2NK = self._rows_2NK * weight_N[:, None]
        moments = (weighted_2NK.transpose(0, 2, 1) @ self._rows_2NK).sum(0)
        try:
            h = np.linalg.solve(moments[:8, :8] + 1e-9 * np.eye(8), moments[:8, 8])
        except np.linalg.LinAlgError:
            return None
        H = np.linalg.inv(self._T) @ np.append(h, 1.0).reshape(3, 3) @ self._T
        if not np.isfinite(H).all() or abs(np.linalg.det(H)) < 1e-9:
            return None
        return np.asarray(H / H[2, 2]) if abs(H[2, 2]) > 1e-9 else None


def _fit_epipolar(
    one_N2: Array, two_N2: Array, some: npt.NDArray[np.int64]
) -> tuple[Array, float] | None:
    """RANSAC on seven points, then the reweighted eight-point algorithm."""
    try:
        F, _ = cv2.findFundamentalMat(
            one_N2[some], two_N2[some], cv2.FM_RANSAC, EPIPOLAR_THRESHOLD, 0.99, 400
        )
    except cv2.error:  # no seven points in general position, as on a still picture
        return None
    if F is None or F.shape[0] < 3 or not np.isfinite(F).all():
        return None
    F = np.asarray(F[:3], np.float64)
    one_T, one_n = _normalise(one_N2)
    two_T, two_n = _normalise(two_N2)
    x, y = one_n.T
    u, v = two_n.T
    A = np.stack([u * x, u * y, u, v * x, v * y, v, x, y, np.ones_like(x)], 1)
    noise = EPIPOLAR_THRESHOLD
    for _ in range(ITERATIONS):
        error_N, slope_N = _sampson(F, one_N2, two_N2)
        near_N = error_N < 3 * noise
        if near_N.sum() < 30:
            return None
        noise = max(EPIPOLAR_FLOOR, 1.56 * float(np.median(error_N[near_N])))
        weight_N = (1 + (error_N / (2 * noise)) ** 2) ** -2 / slope_N**2
        _, vectors = np.linalg.eigh((A * (weight_N / weight_N.sum())[:, None]).T @ A)
        U, S, Vt = np.linalg.svd(vectors[:, 0].reshape(3, 3))
        F = two_T.T @ (U * np.array([S[0], S[1], 0.0])) @ Vt @ one_T
        F /= np.linalg.norm(F)
    return F, noise


def _normalise(points_N2: Array) -> tuple[Array, Array]:
    centre, size = points_N2.mean(0), float(points_N2.std()) + 1e-6
    T = np.array([[1 / size, 0, -centre[0] / size], [0, 1 / size, -centre[1] / size], [0, 0, 1]])
    return T, (points_N2 - centre) / size


def _sampson(F: Array, one_N2: Array, two_N2: Array) -> tuple[Array, Array]:
    """Sampson distance (N) and the gradient (N) it was divided by."""
    line2_N3 = one_N2 @ F[:, :2].T + F[:, 2]
    line1_N3 = two_N2 @ F[:2] + F[2]
    error_N = (two_N2 * line2_N3[:, :2]).sum(1) + line2_N3[:, 2]
    slope_N = np.sqrt((line2_N3[:, :2] ** 2).sum(1) + (line1_N3[:, :2] ** 2).sum(1) + 1e-18)
    return np.abs(error_N) / slope_N, slope_N
