"""Smooth motion of a rigid object through the world, as far as its tracks allow.

A Gauss–Newton step on all poses at once, the points of the object kept: every frame holds its
pose as firmly as its observations determine it, and neighbouring frames share a motion that
changes no faster than it typically does in this clip, unless the observations insist. Frames
with many tracks hardly move, those with few follow their neighbours. The normal equations are
banded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import solveh_banded

from dynamicverse.dynamicba.bundle.blocks import Floats
from dynamicverse.geometry.lie import hat, so3_exp, so3_log

DOF = 6  # turn about the object's origin, then displacement, along world axes
BAND = 3 * DOF
LEAST_FRAMES = 5
AGAINST = 3.0  # standard deviations: observations so far off are believed, not the smooth motion
RIDGE = 1e-12
LEAST_CHANGE = 1e-5  # rad, and of the distance: of motion from frame to frame


@dataclass(frozen=True)
class Sightings:
    """What holds the poses: points (S, 3) in the object's frame, seen in frames (S,),
    ascending.

    focal: px. sigma: standard deviation of a pixel.
    """

    frame_S: np.ndarray
    points_S3: Floats
    focal: float
    sigma: float


def smooth_motion(o2w_F44: Floats, c2w_F44: Floats, seen: Sightings) -> Floats:
    """Poses (F,4,4) object to world of a smoother motion; NaN where they were.

    Runs of fewer than five frames with a pose stay as they are.
    """
    smooth_F44 = o2w_F44.copy()
    known = np.flatnonzero(np.isfinite(o2w_F44[:, 0, 0]))
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    information_F66 = _information(o2w_F44, c2w_F44, seen)
    for run in runs:
        if len(run) >= LEAST_FRAMES:
            smooth_F44[run] = _smooth_run(o2w_F44[run], information_F66[run], c2w_F44[run])
    return smooth_F44


def _information(o2w_F44: Floats, c2w_F44: Floats, seen: Sightings) -> Floats:
    """What the observations of each frame tell of its pose: (F, 6, 6)."""
    frame_S = seen.frame_S
    lever_S3 = (o2w_F44[frame_S, :3, :3] @ seen.points_S3[..., None])[..., 0]
    world_S3 = lever_S3 + o2w_F44[frame_S, :3, 3]
    R_S33 = np.swapaxes(c2w_F44[frame_S, :3, :3], 1, 2)
    camera_S3 = (R_S33 @ (world_S3 - c2w_F44[frame_S, :3, 3])[..., None])[..., 0]
    x, y, z = camera_S3.T
    zero, one = np.zeros_like(z), np.ones_like(z)
    pixel_S23 = np.stack([np.stack([one, zero, -x / z], 1), np.stack([zero, one, -y / z], 1)], 1)
    pixel_S23 = pixel_S23 * (seen.focal / (seen.sigma * z))[:, None, None]
    J_S23 = pixel_S23 @ R_S33
    J_S26 = np.concatenate([-J_S23 @ hat(lever_S3), J_S23], 2)
    bounds = np.searchsorted(frame_S, np.arange(len(o2w_F44) + 1))
    rows = [J_S26[a:b].reshape(-1, DOF) for a, b in pairwise(bounds)]
    return np.stack([J_K6.T @ J_K6 for J_K6 in rows])


def _smooth_run(o2w_R44: Floats, information_R66: Floats, c2w_R44: Floats) -> Floats:
    R, p = o2w_R44[:, :3, :3], o2w_R44[:, :3, 3]
    turn = so3_log(R[1:] @ np.swapaxes(R[:-1], 1, 2))
    change_A6 = np.concatenate([np.diff(turn, axis=0), np.diff(p, 2, axis=0)], 1)
    distance = float(np.median(np.linalg.norm(p - c2w_R44[:, :3, 3], axis=1)))
    sigma_6 = np.repeat(
        [
            max(LEAST_CHANGE, _typical(change_A6[:, :3])),
            max(LEAST_CHANGE * distance, _typical(change_A6[:, 3:])),
        ],
        3,
    )
    prior_A6 = np.tile(sigma_6**-2.0, (len(change_A6), 1))
    step_R6 = _solve(information_R66, change_A6, prior_A6)
    against_R = np.einsum("ri,rij,rj->r", step_R6, information_R66, step_R6)
    trust_R = 1 / (1 + against_R / (AGAINST**2 * DOF))
    trust_A1 = np.minimum(np.minimum(trust_R[:-2], trust_R[1:-1]), trust_R[2:])[:, None]
    step_R6 = _solve(information_R66, change_A6, prior_A6 * trust_A1**2)
    smooth_R44 = o2w_R44.copy()
    smooth_R44[:, :3, :3] = so3_exp(step_R6[:, :3]) @ R
    smooth_R44[:, :3, 3] += step_R6[:, 3:]
    return smooth_R44


def _solve(information_R66: Floats, change_A6: Floats, prior_A6: Floats) -> Floats:
    """The step (R, 6) that balances the observations with changes of motion (A = R − 2)."""
    frames = len(information_R66)
    banded = np.zeros((BAND, DOF * frames))
    right = np.zeros((frames, DOF))
    for offset in range(DOF):  # the blocks of the observations
        for row in range(DOF - offset):
            banded[offset, row::DOF] += information_R66[:, row + offset, row]
    stencil = np.array([1.0, -2.0, 1.0])
    for i in range(3):
        right[i : i + frames - 2] -= stencil[i] * prior_A6 * change_A6
        for j in range(i, 3):
            block = banded[DOF * (j - i)].reshape(frames, DOF)
            block[i : i + frames - 2] += stencil[i] * stencil[j] * prior_A6
    banded[0] += RIDGE * banded[0].max()
    return np.asarray(solveh_banded(banded, right.reshape(-1), lower=True).reshape(frames, DOF))


def _typical(change_A3: Floats) -> float:
    """What is usual: the median length."""
    return float(np.median(np.linalg.norm(change_A3, axis=1)))
