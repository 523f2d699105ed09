"""The rotation-only model: cameras that turn about one centre, points without depth.

The same solver with translations fixed at zero; a point is then a direction. Used to tell
whether there is any parallax, and as the answer when there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamicverse.dynamicba.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.graph import TrackGraph
from dynamicverse.dynamicba.solver import FocalPrior, Options, Structure, solve
from dynamicverse.geometry.projection import bearings, intrinsics
from dynamicverse.geometry.two_view import estimate_rotation


@dataclass(frozen=True)
class RotationModel:
    """Rotations (K, 3, 3) world to camera of `frames`, and how well they explain the tracks.

    error_M: reprojection errors in px of the observations the model was fitted to.
    log_focal_sigma: standard deviation of log f; NaN when f was kept.
    """

    frames: Indices
    R_K33: Floats
    focal: float
    log_focal_sigma: float
    error_M: Floats


def chain_rotations(graph: TrackGraph, frames: Indices, focal: float) -> Floats:
    """Rotations (K, 3, 3), the first one the identity, from robust steps between neighbours.

    A step with fewer than two matches repeats the step before it.
    """
    K = intrinsics(focal, (0.0, 0.0))
    rotations, step = [np.eye(3)], np.eye(3)
    for i, j in zip(frames[:-1], frames[1:], strict=True):
        matches = graph.matches(int(i), int(j))
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
) -> RotationModel:
    """Rotations of the frames (observations: of these frames), and the focal length if free."""
    R = chain_rotations(graph, frames, focal)
    position = np.full(graph.frames, -1)
    position[frames] = np.arange(len(frames))
    tracks, first, point = np.unique(
        observations.point_M, return_index=True, return_inverse=True
    )
    local = Observations(
        position[observations.frame_M], point, observations.xy_M2, observations.weight_M
    )
    start_K = bearings(observations.xy_M2[first], intrinsics(focal, (0.0, 0.0)))
    directions = np.einsum("nji,nj->ni", R[local.frame_M[first]], start_K)
    free = np.zeros((len(frames), 6), bool)
    free[1:, :3] = True
    start = Structure(R, np.zeros((len(frames), 3)), directions, focal)
    options = Options("cauchy", loss_px, prior, 30, 1e-4, uncertainty=True)
    solution = solve(start, local, free, options)
    return RotationModel(
        frames,
        solution.structure.R_F33,
        solution.structure.focal,
        solution.log_focal_sigma,
        solution.error_M,
    )
