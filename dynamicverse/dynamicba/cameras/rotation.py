"""The rotation-only model: cameras that turn about one centre, points without depth.

The same solver with translations fixed at zero; a point is then a direction. Used to tell
whether there is any parallax, and as the answer when there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.bundle.solver import FocalPrior, Options, Structure, solve
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.geometry.projection import bearings, intrinsics
from dynamicverse.geometry.two_view import estimate_rotation

LEAST_MATCHES, MOST_MATCHES = 8, 1000
ROUNDS, TRIAL_ROUNDS = 30, 15  # where cameras do not just turn, no number is enough


@dataclass(frozen=True)
class RotationModel:
    """Rotations (K, 3, 3) world to camera of `frames`, and how well they explain the tracks.

    observations, error_M: what it was fitted to, and the reprojection errors in px.
    log_focal_sigma: standard deviation of log f; NaN when f was kept. rotation_sigma_K3: of the
    rotations about the axes of the cameras, rad, relative to the first one.
    """

    frames: Indices
    R_K33: Floats
    focal: float
    log_focal_sigma: float
    rotation_sigma_K3: Floats
    observations: Observations
    error_M: Floats

    def rmse(self) -> float:
        """A robust root mean square error in px: from the median, as of a normal distribution."""
        return float(np.median(self.error_M)) / 1.18 if len(self.error_M) else 0.0


def chain_rotations(graph: TrackGraph, frames: Indices, focal: float) -> Floats:
    """Rotations (K, 3, 3), the first one the identity, from robust steps between neighbours.

    A step with fewer than two matches repeats the step before it.
    """
    K = intrinsics(focal, (0.0, 0.0))
    rotations, step = [np.eye(3)], np.eye(3)
    for i, j in pairwise(frames):
        matches = graph.matches(int(i), int(j), MOST_MATCHES)
        if len(matches.track_K) >= 2:
            step, _ = estimate_rotation(
                bearings(matches.first_K2, K), bearings(matches.second_K2, K), trials=32
            )
        rotations.append(step @ rotations[-1])
    return np.stack(rotations)


def fit_rotations(
    graph: TrackGraph,
    frames: Indices,
    observations: Observations,
    focal: float,
    prior: FocalPrior | None,
    loss_px: float,
    device: str = "cpu",
    trial: bool = False,
) -> RotationModel:
    """Rotations of the frames (observations: of these frames), and the focal length if free.

    trial: only to see how much they explain; standard deviations are NaN.
    """
    R = chain_rotations(graph, frames, focal)
    position = np.full(graph.frames, -1)
    position[frames] = np.arange(len(frames))
    _, first, point = np.unique(observations.point_M, return_index=True, return_inverse=True)
    local = Observations(
        position[observations.frame_M], point, observations.xy_M2, observations.weight_M
    )
    start_K = bearings(observations.xy_M2[first], intrinsics(focal, (0.0, 0.0)))
    directions = np.einsum("nji,nj->ni", R[local.frame_M[first]], start_K)
    free = np.zeros((len(frames), 6), bool)
    free[1:, :3] = True
    start = Structure(R, np.zeros((len(frames), 3)), directions, focal)
    rounds = TRIAL_ROUNDS if trial else ROUNDS
    options = Options("cauchy", loss_px, prior, rounds, 1e-4, not trial, device)
    solution = solve(start, local, free, options)
    sigmas = solution.uncertainty
    return RotationModel(
        frames,
        solution.structure.R_F33,
        solution.structure.focal,
        float("nan") if sigmas is None or prior is None else sigmas.log_focal,
        np.full((len(frames), 3), np.nan) if sigmas is None else sigmas.pose_F6[:, :3],
        observations,
        solution.error_M,
    )


def extend_rotations(graph: TrackGraph, model: RotationModel) -> Floats:
    """Rotations (F, 3, 3) world to camera of all frames, from the nearest frame of the model.

    NaN where a frame shares fewer than LEAST_MATCHES tracks with it.
    """
    K = intrinsics(model.focal, (0.0, 0.0))
    R_F33 = np.full((graph.frames, 3, 3), np.nan)
    R_F33[model.frames] = model.R_K33
    for frame in np.setdiff1d(np.arange(graph.frames), model.frames):
        nearest = int(np.argmin(np.abs(model.frames - frame)))
        matches = graph.matches(int(model.frames[nearest]), int(frame), MOST_MATCHES)
        if len(matches.track_K) >= LEAST_MATCHES:
            step, _ = estimate_rotation(
                bearings(matches.first_K2, K), bearings(matches.second_K2, K), trials=32
            )
            R_F33[frame] = step @ model.R_K33[nearest]
    return R_F33


def thinned(observations: Observations, most: int) -> Observations:
    """Some of the tracks, evenly, with all that is seen of them."""
    step = max(1, -(-len(observations) // most))
    _, rank_M = np.unique(observations.point_M, return_inverse=True)
    return observations.select(rank_M % step == 0)
