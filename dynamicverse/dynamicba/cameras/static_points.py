"""The static point of every background track, from the cameras of a finished map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats, Observations
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.mapping import Map
from dynamicverse.dynamicba.cameras.triangulation import agreement, triangulate

BATCH = 20_000  # tracks that get their points at once
STATIC_SHARE = 0.8  # of a track's observations must agree with its static point


def static_points(graph: TrackGraph, world: Map) -> Floats:
    """Points (N, 3) in the world of all background tracks from the registered cameras.

    NaN unless static (nearly all observations agree with one point) and of known depth (a wide
    enough angle).
    """
    points_N3 = np.full((graph.tracks, 3), np.nan)
    frames = np.flatnonzero(world.registered_F)
    for first in range(0, graph.tracks, BATCH):
        batch_N = np.zeros(graph.tracks, bool)
        batch_N[first : first + BATCH] = True
        seen = graph.observations(frames, min(3, graph.frames), batch_N)
        if len(seen):
            local = world.straight(replace(seen, point_M=seen.point_M - first))
            count = min(BATCH, graph.tracks - first)
            points_N3[first : first + BATCH] = _of_batch(local, count, world)
    return points_N3


def _of_batch(observations: Observations, count: int, world: Map) -> Floats:
    structure, tolerances, track_M = world.structure, world.tolerances, observations.point_M
    points = triangulate(observations, structure, count, tolerances.loss_px, tolerances.device)
    found = agreement(points, observations, structure, tolerances.inlier_px, tolerances.device)
    agrees = found.error_M < tolerances.inlier_px
    support = np.bincount(track_M[agrees], minlength=count)
    seen = np.bincount(track_M, minlength=count)
    good = (support >= STATIC_SHARE * seen) & (support >= 2) & (found.angle_N >= tolerances.angle)
    points[~good] = np.nan
    return points
