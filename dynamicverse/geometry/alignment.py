"""Trajectories against truth: Umeyama alignment, ATE and RPE as evo computes them.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
PAMI 1991. Protocol `monst3r-pose`: Sim(3) alignment, Δ = 1 frame, all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array, rotation_angle, se3_inverse


@dataclass(frozen=True)
class Similarity:
    """x ↦ scale · R · x + t."""

    scale: float
    R: Array
    t: Array

    def apply(self, points_N3: npt.ArrayLike) -> Array:
        """Map points (..., 3)."""
        return np.asarray(self.scale * np.asarray(points_N3, np.float64) @ self.R.T + self.t)

    def apply_to_poses(self, c2w_F44: npt.ArrayLike) -> Array:
        """Map camera-to-world poses: centres are moved and scaled, axes rotated."""
        poses = np.array(c2w_F44, np.float64)
        centres = self.apply(poses[:, :3, 3])
        poses[:, :3, :3] = self.R @ poses[:, :3, :3]
        poses[:, :3, 3] = centres
        return poses


def umeyama(source_N3: npt.ArrayLike, target_N3: npt.ArrayLike, scale: bool = True) -> Similarity:
    """The least-squares similarity (or rigid motion) that maps source onto target points.

    Raises ValueError for fewer than two points, unequal shapes or coinciding source points.
    """
    source, target = np.asarray(source_N3, np.float64), np.asarray(target_N3, np.float64)
    if source.shape != target.shape or source.ndim != 2 or len(source) < 2:
        raise ValueError(f"cannot align shapes {source.shape} and {target.shape}")
    mean_s, mean_t = source.mean(0), target.mean(0)
    centred_s, centred_t = source - mean_s, target - mean_t
    variance = float(np.mean(np.sum(centred_s**2, 1)))
    if variance <= np.finfo(float).tiny:
        raise ValueError("cannot align: the source points coincide")
    u, singular, vt = np.linalg.svd(centred_t.T @ centred_s / len(source))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    R = (u * signs) @ vt
    factor = float(np.sum(singular * signs)) / variance if scale else 1.0
    return Similarity(factor, R, mean_t - factor * R @ mean_s)


@dataclass(frozen=True)
class TrajectoryError:
    """Errors after alignment, in the unit of the truth.

    ate: RMSE of the camera centres; ate_of_path: the same over the length of the true path.
    rpe_trans, rpe_rot_deg: RMSE over steps of one frame; worst_rot_deg: the largest step.
    """

    ate: float
    ate_of_path: float
    rpe_trans: float
    rpe_rot_deg: float
    worst_rot_deg: float
    frames: int


def trajectory_error(
    estimate_F44: npt.ArrayLike, truth_F44: npt.ArrayLike, scale: bool = True
) -> TrajectoryError:
    """ATE and RPE of camera-to-world poses; frames whose estimate is NaN are left out.

    Relative errors are taken over steps between consecutive frames that are both there.
    Raises ValueError when fewer than two frames are estimated.
    """
    estimate, truth = np.asarray(estimate_F44, np.float64), np.asarray(truth_F44, np.float64)
    known = np.asarray(np.isfinite(estimate).all((1, 2)))
    path = float(np.sum(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1)))
    fit = umeyama(estimate[known, :3, 3], truth[known, :3, 3], scale)
    aligned = fit.apply_to_poses(estimate)
    ate = _rmse(np.linalg.norm(aligned[known, :3, 3] - truth[known, :3, 3], axis=1))
    steps = np.flatnonzero(known[:-1] & known[1:])
    true_step = se3_inverse(truth[steps]) @ truth[steps + 1]
    error = se3_inverse(true_step) @ se3_inverse(aligned[steps]) @ aligned[steps + 1]
    angles = np.degrees(rotation_angle(error[:, :3, :3]))
    return TrajectoryError(
        ate=ate,
        ate_of_path=ate / path if path > 0 else float("nan"),
        rpe_trans=_rmse(np.linalg.norm(error[:, :3, 3], axis=1)),
        rpe_rot_deg=_rmse(angles),
        worst_rot_deg=float(angles.max()) if len(angles) else float("nan"),
        frames=int(known.sum()),
    )


def _rmse(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
