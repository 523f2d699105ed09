"""How a reconstruction starts: which pair of keyframes, and which focal length.

Every hypothesis (focal length × initial pair) is grown over a few neighbouring keyframes and
adjusted with the focal length free; the ones that explain most observations come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Indices, Observations
from dynamicverse.dynamicba.bundle.solver import FocalPrior
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.incremental import grow
from dynamicverse.dynamicba.cameras.mapping import Map, Tolerances
from dynamicverse.geometry.projection import bearings, intrinsics
from dynamicverse.geometry.two_view import (
    RelativePose,
    estimate_relative_pose,
    estimate_rotation,
)

FIRST_FRAMES = 24  # keyframes that are tried as the first of a pair
PAIR_REACH = 8  # keyframes between the two of a pair, at most
PAIR_TRACKS = 30  # tracks a pair needs
MOST_TRACKS = 1000  # of a pair that are looked at: more tell nothing new
ROTATION_TRACKS = 400  # of a pair, to tell whether it has parallax
PAIRS = 8  # pairs whose relative pose is estimated for every focal length
STARTS = 2  # pairs that are grown for every focal length, but
GOOD_START = 0.7  # of the observations explained: no other pair is
NEIGHBOURS = 7  # keyframes a hypothesis is grown to
WANTED_PARALLAX = 0.02  # of the longer side: more does not make a pair better
WANTED_ANGLE = np.radians(2.0)
EPIPOLAR_SHARE = 0.5  # of the inlier threshold, for two views


@dataclass(frozen=True)
class Pair:
    """An initial pair: frames, and the relative pose for one focal length."""

    i: int
    j: int
    pose: RelativePose
    focal: float
    score: float


@dataclass(frozen=True)
class Hypothesis:
    """A small map and the share of the observations of its frames that it explains."""

    world: Map
    frames: Indices
    explained: float


def hypotheses(
    graph: TrackGraph,
    keyframes: Indices,
    observations: Observations,
    focals: Sequence[float],
    prior: FocalPrior | None,
    tolerances: Tolerances,
) -> list[Hypothesis]:
    """Maps of a few keyframes, best first; empty if no pair has parallax and enough tracks.

    focals: px, where the search starts. prior: None keeps the focal length of the hypothesis.
    """
    middle = float(np.exp(np.mean(np.log(focals))))
    pairs = spread(parallax_pairs(graph, keyframes, middle), PAIRS)
    found = []
    for focal in focals:
        threshold = EPIPOLAR_SHARE * tolerances.inlier_px
        started = [start_pair(graph, i, j, focal, threshold) for i, j in pairs]
        best = sorted((pair for pair in started if pair), key=lambda pair: -pair.score)
        for pair in best[:STARTS]:
            found.append(_develop(graph, keyframes, observations, pair, prior, tolerances))
            if found[-1].explained >= GOOD_START:
                break
    found = [h for h in found if h.world.registered_F.sum() >= min(3, len(keyframes))]
    return sorted(found, key=lambda hypothesis: -hypothesis.explained)


def parallax_pairs(graph: TrackGraph, keyframes: Indices, focal: float) -> list[tuple[int, int]]:
    """Keyframe pairs (i, j), best first, by tracks in common and parallax beyond a rotation."""
    K = intrinsics(focal, (0.0, 0.0))
    wanted = WANTED_PARALLAX * max(graph.size)
    scored = []
    last = max(len(keyframes) - 2, 0)
    for a in np.unique(np.linspace(0, last, FIRST_FRAMES).astype(int)):
        i = int(keyframes[a])
        for j in keyframes[a + 1 : a + 1 + PAIR_REACH]:
            count = graph.shared(i, int(j))
            if count < PAIR_TRACKS:
                break
            matches = graph.matches(i, int(j), ROTATION_TRACKS)
            _, angle = estimate_rotation(
                bearings(matches.first_K2, K), bearings(matches.second_K2, K), trials=16
            )
            parallax = float(np.percentile(angle, 60)) * focal
            scored.append((count * min(1.0, parallax / wanted), i, int(j)))
    scored.sort(key=lambda entry: -entry[0])
    return [(i, j) for _, i, j in scored]


def spread(pairs: Iterable[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The first `count` pairs, at most two with the same first frame."""
    chosen: list[tuple[int, int]] = []
    for i, j in pairs:
        if sum(i == k for k, _ in chosen) < 2:
            chosen.append((i, j))
            if len(chosen) == count:
                break
    return chosen


def start_pair(graph: TrackGraph, i: int, j: int, focal: float, threshold: float) -> Pair | None:
    """The relative pose of a pair and how good a start it is: points with a wide angle."""
    matches = graph.matches(i, j, MOST_TRACKS)
    pose = estimate_relative_pose(
        matches.first_K2 / focal, matches.second_K2 / focal, threshold / focal
    )
    if pose is None:
        return None
    weight = np.minimum(pose.angle_N[pose.inlier_N] / WANTED_ANGLE, 1.0)
    all_of_them = graph.shared(i, j) / len(matches.track_K)
    return Pair(i, j, pose, focal, float(weight.sum()) * all_of_them)


def begin(
    observations: Observations, frames: int, tracks: int, pair: Pair, tolerances: Tolerances
) -> Map:
    """A map of the two cameras of a pair."""
    world = Map(observations, frames, tracks, pair.focal, tolerances)
    world.place(pair.i, np.eye(3), np.zeros(3))
    world.place(pair.j, pair.pose.R, pair.pose.t)
    world.reference = pair.i
    world.triangulate()
    world.adjust(None, 10)
    world.classify()
    world.triangulate()
    return world


def _develop(
    graph: TrackGraph,
    keyframes: Indices,
    observations: Observations,
    pair: Pair,
    prior: FocalPrior | None,
    tolerances: Tolerances,
) -> Hypothesis:
    """Grow a pair over the keyframes around it and adjust with the focal length free."""
    world = begin(observations, graph.frames, graph.tracks, pair, tolerances)
    distance = np.abs(keyframes - (pair.i + pair.j) / 2)
    near = keyframes[np.argsort(distance, kind="stable")[:NEIGHBOURS]]
    frames = np.union1d(near, [pair.i, pair.j])
    grow(world, frames, len(frames))
    for _ in range(2):
        world.adjust(prior)
        world.classify()
        world.triangulate()
    return Hypothesis(world, frames, world.explained(frames))
