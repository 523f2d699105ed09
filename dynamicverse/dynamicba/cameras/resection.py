"""One camera from points that are known: robust PnP, then a robust refinement."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Floats
from dynamicverse.geometry.lie import so3_exp

MIN_POINTS = 8
GOOD_SHARE = 0.8  # of inliers: then a guess needs no competitor
ROUNDS = 15
ENOUGH = 1e-5  # rad, and of the unit of the points: poses are adjusted later


@dataclass(frozen=True)
class Resection:
    """x = R·X + t, and which observations agree with it within the threshold."""

    R: Floats
    t: Floats
    inlier_N: npt.NDArray[np.bool_]


def resect(
    points_N3: Floats,
    xy_N2: Floats,
    focal: float,
    threshold: float,
    guesses: list[tuple[Floats, Floats]],
) -> Resection | None:
    """The pose that most observations agree with.

    xy_N2: px relative to the principal point. threshold: px. guesses: poses to try first; if
    none is good, P3P in RANSAC has its turn. None with fewer than MIN_POINTS points or inliers.
    """
    if len(points_N3) < MIN_POINTS:
        return None
    best: Resection | None = None
    for R, t in guesses:
        best = _better(best, points_N3, xy_N2, focal, R, t, threshold)
    if best is not None and best.inlier_N.mean() > GOOD_SHARE:
        return best
    found, rotation, translation, _ = cv2.solvePnPRansac(
        points_N3,
        np.ascontiguousarray(xy_N2),
        np.diag([focal, focal, 1.0]),
        None,
        iterationsCount=300,
        reprojectionError=2 * threshold,
        confidence=0.9999,
        flags=cv2.SOLVEPNP_AP3P,
    )
    if found:
        R, t = so3_exp(rotation[:, 0]), translation[:, 0].astype(np.float64)
        best = _better(best, points_N3, xy_N2, focal, R, t, threshold)
    return best if best is not None and best.inlier_N.sum() >= MIN_POINTS else None


def _better(
    best: Resection | None,
    points_N3: Floats,
    xy_N2: Floats,
    focal: float,
    R: Floats,
    t: Floats,
    threshold: float,
) -> Resection:
    """The refined pose, unless it has fewer inliers than the best so far."""
    R, t = refine_pose(points_N3, xy_N2, focal, R, t, threshold / 3)
    inlier = pose_errors(points_N3, xy_N2, focal, R, t) < threshold
    if best is not None and inlier.sum() <= best.inlier_N.sum():
        return best
    return Resection(R, t, inlier)


def pose_errors(points_N3: Floats, xy_N2: Floats, focal: float, R: Floats, t: Floats) -> Floats:
    """Reprojection errors (N,) in px; infinite behind the camera."""
    camera = points_N3 @ R.T + t
    depth = np.maximum(camera[:, 2], 1e-9)
    error = np.linalg.norm(focal * camera[:, :2] / depth[:, None] - xy_N2, axis=1)
    return np.asarray(np.where(camera[:, 2] > 1e-9, error, np.inf))


def refine_pose(
    points_N3: Floats, xy_N2: Floats, focal: float, R: Floats, t: Floats, loss_scale: float
) -> tuple[Floats, Floats]:
    """Levenberg–Marquardt on the Cauchy cost of one pose, points fixed.

    The loss starts wide and narrows to `loss_scale` px, so that a rough start converges.
    """
    damping = 1e-4
    start = float(np.median(np.minimum(pose_errors(points_N3, xy_N2, focal, R, t), 1e3)))
    scale = max(loss_scale, start)
    for _ in range(ROUNDS):
        H, g, cost = _normal_equations(points_N3, xy_N2, focal, R, t, scale)
        H[np.diag_indices(6)] *= 1 + damping
        step = -np.linalg.solve(H + 1e-12 * np.trace(H) * np.eye(6), g)
        turn = so3_exp(step[:3])
        R_new, t_new = turn @ R, turn @ t + step[3:]
        errors = np.minimum(pose_errors(points_N3, xy_N2, focal, R_new, t_new), 1e6)
        if np.sum(np.log1p((errors / scale) ** 2)) < cost:
            R, t, damping = R_new, t_new, damping * 0.3
            if scale <= loss_scale and np.abs(step).max() < ENOUGH:
                break
        else:
            damping *= 10
        scale = max(loss_scale, scale / 2)
    return R, t


def _normal_equations(
    points_N3: Floats, xy_N2: Floats, focal: float, R: Floats, t: Floats, scale: float
) -> tuple[Floats, Floats, float]:
    camera = points_N3 @ R.T + t
    front = camera[:, 2] > 1e-9
    z = np.where(front, camera[:, 2], 1.0)
    a, b = camera[:, 0] / z, camera[:, 1] / z
    residual = focal * np.stack([a, b], 1) - xy_N2
    squared = np.where(front, np.sum(residual**2, 1), 1e12) / scale**2
    weight = np.where(front, 1.0 / (1.0 + squared), 0.0)
    zero, one = np.zeros_like(a), np.ones_like(a)
    ju = focal * np.stack([-a * b, one + a * a, -b, one / z, zero, -a / z], 1)
    jv = focal * np.stack([-one - b * b, a * b, a, zero, one / z, -b / z], 1)
    H = (ju * weight[:, None]).T @ ju + (jv * weight[:, None]).T @ jv
    g = ju.T @ (weight * residual[:, 0]) + jv.T @ (weight * residual[:, 1])
    return H, g, float(np.sum(np.log1p(squared)))
