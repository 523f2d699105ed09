"""How a reconstruction starts: which pair of keyframes, and which focal length.

Every hypothesis (focal length × initial pair) is grown over a few neighbouring keyframes and
adjusted with the focal length free; the one that explains most observations is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dynamicverse.dynamicba.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.graph import TrackGraph
from dynamicverse.dynamicba.mapping import Map, Tolerances
from dynamicverse.dynamicba.solver import FocalPrior
from dynamicverse.geometry.projection import bearings, intrinsics
from dynamicverse.geometry.two_view import (
    RelativePose,
    estimate_relative_pose,
    estimate_rotation,
)

PAIR_REACH = 12  # keyframes between the two of an initial pair, at most
PAIR_TRACKS = 40  # tracks an initial pair needs
WANTED_PARALLAX = 0.02  # of the long side: more parallax does not make a pair better
WANTED_ANGLE = np.radians(2.0)
LOCAL_WINDOW = 8


@dataclass(frozen=True)
class Pair:
    """An initial pair: frames, tracks and the relative pose for one focal length."""

    i: int
    j: int
    track_K: Indices
    pose: RelativePose
    focal: float
    score: float


def parallax_pairs(graph: TrackGraph, keyframes: Indices, focal: float) -> list[tuple[int, int]]:
    """Keyframe pairs (i, j), best first, by tracks in common and parallax beyond a rotation."""
    K = intrinsics(focal, (0.0, 0.0))
    wanted = WANTED_PARALLAX * max(graph.size)
    scored = []
    for a, i in enumerate(keyframes):
        for j in keyframes[a + 1 : a + 1 + PAIR_REACH]:
            matches = graph.matches(int(i), int(j))
            count = len(matches.track_K)
            if count < PAIR_TRACKS:
                break
            _, angle = estimate_rotation(
                bearings(matches.first_K2, K), bearings(matches.second_K2, K), trials=16
            )
            parallax = float(np.percentile(angle, 60)) * focal
            scored.append((count * min(1.0, parallax / wanted), int(i), int(j)))
    scored.sort(key=lambda entry: -entry[0])
    return [(i, j) for _, i, j in scored]


def spread(pairs: Iterable[tuple[int, int]], count: int, apart: int) -> list[tuple[int, int]]:
    """The first `count` pairs whose first frames are at least `apart` frames from each other."""
    chosen: list[tuple[int, int]] = []
    for i, j in pairs:
        if all(abs(i - k) >= apart for k, _ in chosen):
            chosen.append((i, j))
            if len(chosen) == count:
                break
    return chosen


def start_pair(graph: TrackGraph, i: int, j: int, focal: float, threshold: float) -> Pair | None:
    """The relative pose of a pair and how good a start it is: points with a wide angle."""
    matches = graph.matches(i, j)
    pose = estimate_relative_pose(
        matches.first_K2 / focal, matches.second_K2 / focal, threshold / focal
    )
    if pose is None:
        return None
    weight = np.minimum(pose.angle_N[pose.inlier_N] / WANTED_ANGLE, 1.0)
    return Pair(i, j, matches.track_K, pose, focal, float(weight.sum()))


def begin(observations: Observations, graph: TrackGraph, pair: Pair, tol: Tolerances) -> Map:
    """A map of the two cameras of a pair."""
    new = Map(observations, graph.frames, graph.tracks, pair.focal, tol)
    new.place(pair.i, np.eye(3), np.zeros(3))
    new.place(pair.j, pair.pose.R, pair.pose.t)
    new.reference = pair.i
    new.triangulate()
    new.adjust(None, 10)
    new.classify()
    new.triangulate()
    return new


def grow(world: Map, keyframes: Indices, limit: int, share: float) -> list[int]:
    """Register keyframes, best seen first, until `limit` are; returns those that failed."""
    failed: list[int] = []
    while world.registered_F.sum() < limit:
        waiting = [int(k) for k in keyframes if not world.registered_F[k] and k not in failed]
        if not waiting:
            break
        seen = [len(world.visible_points(k)) for k in waiting]
        frame = waiting[int(np.argmax(seen))]
        if not max(seen) or not world.register(frame, nearby_poses(world, frame), share):
            failed.append(frame)
            continue
        failed.clear()
        world.triangulate(frame)
        world.adjust_around(frame, LOCAL_WINDOW)
    return failed


def nearby_poses(world: Map, frame: int) -> list[tuple[Floats, Floats]]:
    """Guesses for a frame: the pose of the nearest registered frame."""
    registered = np.flatnonzero(world.registered_F)
    nearest = int(registered[np.argmin(np.abs(registered - frame))])
    return [(world.structure.R_F33[nearest], world.structure.t_F3[nearest])]


def neighbourhood(keyframes: Indices, pair: Pair, count: int) -> Indices:
    """The `count` keyframes around a pair."""
    middle = (pair.i + pair.j) / 2
    near = np.argsort(np.abs(keyframes - middle), kind="stable")[:count]
    near = np.union1d(keyframes[near], [pair.i, pair.j])
    return np.asarray(near, np.int64)


def explained(world: Map, frames: Indices) -> float:
    """Cauchy-weighted count of the observations of the frames that the map explains."""
    inside = np.isin(world.observations.frame_M, frames)
    index = np.flatnonzero(inside & world.inlier_M)
    error = world._errors(index)
    return float(np.sum(1.0 / (1.0 + (error / world.tolerances.loss_px) ** 2)))
