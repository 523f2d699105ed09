"""Relative motion of two views from matched directions.

Directions are unit vectors or rays (x/z, y/z) in camera coordinates of view 1 and view 2; the
motion maps points of camera 1 into camera 2: x₂ = R·x₁ + t, with ‖t‖ = 1 (scale is unknown).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array, hat, nearest_rotation, so3_exp

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RelativePose:
    """Rotation (3, 3), unit translation (3,), points (N, 3) in camera 1 and who supports them.

    inlier_N: satisfies the epipolar geometry and lies in front of both cameras.
    angle_N: angle in radians between the two rays; points_N3 is NaN for outliers.
    """

    R: Array
    t: Array
    points_N3: Array
    inlier_N: Mask
    angle_N: Array


def essential(R: npt.ArrayLike, t: npt.ArrayLike) -> Array:
    """E (3, 3) with d₂ᵀ·E·d₁ = 0."""
    return np.asarray(hat(t) @ np.asarray(R, np.float64))


def sampson_distance(E: npt.ArrayLike, rays1_N2: npt.ArrayLike, rays2_N2: npt.ArrayLike) -> Array:
    """First-order distance (N,) of matched rays to the epipolar geometry, in the unit of rays.

    Multiply by the focal length for pixels (Sampson 1982; Hartley and Zisserman, eq. 11.9).
    """
    return np.abs(_signed_sampson(np.asarray(E, np.float64), rays1_N2, rays2_N2))


def triangulate_pair(
    R: npt.ArrayLike, t: npt.ArrayLike, rays1_N2: npt.ArrayLike, rays2_N2: npt.ArrayLike
) -> Array:
    """Points (N, 3) in camera 1, nearest to both rays (midpoint); depth may come out negative."""
    rotation, translation = np.asarray(R, np.float64), np.asarray(t, np.float64)
    one = _homogeneous(rays1_N2)
    two = _homogeneous(rays2_N2) @ rotation  # in camera 1
    centre = -rotation.T @ translation
    aa, bb, ab = (np.sum(p * q, 1) for p, q in ((one, one), (two, two), (one, two)))
    ac, bc = one @ centre, two @ centre
    determinant = np.maximum(aa * bb - ab * ab, 1e-18)
    s = (ac * bb - bc * ab) / determinant
    u = (ac * ab - bc * aa) / determinant
    return np.asarray((s[:, None] * one + centre + u[:, None] * two) / 2)


def ray_angles(R: npt.ArrayLike, rays1_N2: npt.ArrayLike, rays2_N2: npt.ArrayLike) -> Array:
    """Angles (N,) in radians between matched rays, the rotation between the views undone."""
    one, two = _homogeneous(rays1_N2), _homogeneous(rays2_N2) @ np.asarray(R, np.float64)
    sine = np.linalg.norm(np.cross(one, two), axis=1)
    return np.asarray(np.arctan2(sine, np.sum(one * two, 1)))


def estimate_rotation(
    bearings1_N3: npt.ArrayLike, bearings2_N3: npt.ArrayLike, trials: int = 64, seed: int = 0
) -> tuple[Array, Array]:
    """The rotation that maps most bearings 1 onto bearings 2, and the angle (N,) that remains.

    Two-point samples, least median of angles, then reweighted Procrustes (Geman–McClure with
    the scale of the median). Raises ValueError for fewer than two matches.
    """
    one, two = np.asarray(bearings1_N3, np.float64), np.asarray(bearings2_N3, np.float64)
    if len(one) < 2:
        raise ValueError("a rotation needs two matches")
    rng = np.random.default_rng(seed)
    few = rng.choice(len(one), min(len(one), 500), replace=False)
    pairs = rng.integers(0, len(one), (trials, 2))
    candidates = nearest_rotation(np.swapaxes(two[pairs], 1, 2) @ one[pairs])
    candidates = np.concatenate([candidates, nearest_rotation(two.T @ one)[None]])
    chords = np.linalg.norm(one[few] @ np.swapaxes(candidates, 1, 2) - two[few], axis=2)
    best = int(np.argmin(np.median(chords, axis=1)))
    R = candidates[best]
    for _ in range(10):
        chord2 = np.sum((one @ R.T - two) ** 2, 1)
        scale = max(float(np.median(chord2)) * 2.0, 1e-14)
        weight = 1.0 / (1.0 + chord2 / scale) ** 2
        R = nearest_rotation((two * weight[:, None]).T @ one)
    return R, 2 * np.arcsin(np.minimum(np.linalg.norm(one @ R.T - two, axis=1) / 2, 1.0))


def estimate_relative_pose(
    rays1_N2: npt.ArrayLike, rays2_N2: npt.ArrayLike, threshold: float
) -> RelativePose | None:
    """Robust calibrated relative pose: five points with MAGSAC++, the depth-sign test, and a
    refinement on the inliers' Sampson distance.

    threshold: largest epipolar distance of an inlier, in the unit of rays (px / focal).
    None when there are fewer than eight matches or no model is found.
    """
    one, two = np.asarray(rays1_N2, np.float64), np.asarray(rays2_N2, np.float64)
    if len(one) < 8:
        return None
    parameters = cv2.UsacParams()
    parameters.sampler = cv2.SAMPLING_UNIFORM
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.loIterations = 10
    parameters.loSampleSize = 20
    parameters.maxIterations = 2000
    parameters.confidence = 0.9999
    parameters.threshold = threshold
    parameters.randomGeneratorState = 0
    parameters.isParallel = False
    K = np.eye(3)
    E, _ = cv2.findEssentialMat(one, two, K, K, None, None, parameters)
    if E is None or E.shape != (3, 3):
        return None
    pose = _cheiral_pose(np.asarray(E, np.float64), one, two, threshold)
    if pose is None or pose.inlier_N.sum() < 8:
        return pose
    R, t = _refine(pose.R, pose.t, one, two, threshold)
    refined = _with_motion(R, t, one, two, threshold)
    return refined if refined.inlier_N.sum() >= pose.inlier_N.sum() else pose


def _cheiral_pose(E: Array, one: Array, two: Array, threshold: float) -> RelativePose | None:
    """Of the four motions of E the one with the most inliers in front of both views."""
    R1, R2, t = (np.asarray(part, np.float64) for part in cv2.decomposeEssentialMat(E))
    best: RelativePose | None = None
    for R, translation in ((R1, t), (R1, -t), (R2, t), (R2, -t)):
        pose = _with_motion(R, translation[:, 0], one, two, threshold)
        if best is None or pose.inlier_N.sum() > best.inlier_N.sum():
            best = pose
    return best


def _with_motion(R: Array, t: Array, one: Array, two: Array, threshold: float) -> RelativePose:
    """Points and inliers of a motion."""
    points = triangulate_pair(R, t, one, two)
    in_front = (points[:, 2] > 0) & ((points @ R.T + t)[:, 2] > 0)
    inlier = in_front & (sampson_distance(essential(R, t), one, two) < threshold)
    points = np.where(inlier[:, None], points, np.nan)
    return RelativePose(R, t, points, inlier, ray_angles(R, one, two))


def _refine(R: Array, t: Array, one: Array, two: Array, threshold: float) -> tuple[Array, Array]:
    """Levenberg–Marquardt on the Sampson distance, Cauchy loss of a third of the threshold.

    Five parameters: a turn of R and a turn of t about two axes across it; differences stand in
    for the derivatives.
    """
    scale, damping, delta = threshold / 3, 1e-3, 1e-7
    cost = _robust_cost(R, t, one, two, scale)
    for _ in range(15):
        base = _signed_sampson(essential(R, t), one, two)
        moved = (essential(*_perturbed(R, t, delta * axis)) for axis in np.eye(5))
        J = np.stack([(_signed_sampson(E, one, two) - base) / delta for E in moved], 1)
        weight = 1.0 / (1.0 + (base / scale) ** 2)
        H = (J * weight[:, None]).T @ J
        step = -np.linalg.solve(H + damping * np.diag(np.diag(H)), J.T @ (weight * base))
        trial = _perturbed(R, t, np.asarray(step, np.float64))
        trial_cost = _robust_cost(*trial, one, two, scale)
        if trial_cost < cost:
            small = cost - trial_cost < 1e-6 * cost
            (R, t), cost, damping = trial, trial_cost, damping * 0.2
            if small:
                break
        else:
            damping *= 10
    return R, t


def _perturbed(R: Array, t: Array, step_5: Array) -> tuple[Array, Array]:
    across = np.linalg.svd(t[None])[2][1:]  # two directions perpendicular to t
    return so3_exp(step_5[:3]) @ R, so3_exp(step_5[3:] @ across) @ t


def _robust_cost(R: Array, t: Array, one: Array, two: Array, scale: float) -> float:
    return float(np.sum(np.log1p((_signed_sampson(essential(R, t), one, two) / scale) ** 2)))


def _signed_sampson(E: Array, rays1_N2: npt.ArrayLike, rays2_N2: npt.ArrayLike) -> Array:
    one, two = _homogeneous(rays1_N2), _homogeneous(rays2_N2)
    line2, line1 = one @ E.T, two @ E
    gradient = np.sum(line2[:, :2] ** 2, 1) + np.sum(line1[:, :2] ** 2, 1)
    return np.asarray(np.sum(two * line2, 1) / np.sqrt(np.maximum(gradient, 1e-30)))


def _homogeneous(rays_N2: npt.ArrayLike) -> Array:
    rays = np.asarray(rays_N2, np.float64)
    return np.concatenate([rays, np.ones((len(rays), 1))], 1)
