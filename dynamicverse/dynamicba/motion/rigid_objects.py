"""The rigid-body model of a moving object: structure from motion of the object by itself.

To a rigid object the camera is a camera that moves about a static scene: the poses object to
camera and the points on the object follow from its tracks by ordinary bundle adjustment, at the
known focal length, in a unit of length of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices
from dynamicverse.dynamicba.cameras.graph import Mask, TrackGraph
from dynamicverse.dynamicba.cameras.incremental import AGREE_SHARE, extend, nearby_poses
from dynamicverse.dynamicba.cameras.mapping import Map, Tolerances
from dynamicverse.dynamicba.motion.factorise import look_at, reconstruct
from dynamicverse.geometry.lie import rotation_angle, se3

LEAST_POINTS = 8  # tracks in a frame
LEAST_FRAMES = 3
FEW_FRAMES = 24  # keyframes on which a start is found, or more where tracks are short
SIGHTINGS = 6  # keyframes that half of the tracks are seen in
TRACKS_PER_FRAME = 100  # that poses are solved from; others only get points
NOISE_PX = 0.3  # of a tracked point, about
JUMP = np.radians(3.0)  # of a view against its neighbours, beyond what these differ
REVERSALS = 3  # are tried at most, as long as they are better
WORST = 5.0  # × the inlier threshold: an error counts as no more than this
LEAST_EXPLAINED = 0.4  # of the observations by a start


@dataclass(frozen=True)
class RigidShape:
    """A rigid object in its own unit of length.

    o2c_F44: object to camera, NaN where unknown. points_N3: NaN where a track has no point of
    known depth.
    inlier_FN: observations that agree. explained: share of all observations, the less the
    farther off. rmse_px: of the inliers.
    """

    o2c_F44: Floats
    points_N3: Floats
    inlier_FN: Mask
    explained: float
    rmse_px: float


def fit_rigid(
    graph: TrackGraph, focal: float, tolerances: Tolerances, max_frames: int
) -> RigidShape | None:
    """The rigid shape that explains most of the tracks of one object.

    None where too little is tracked, where no shape explains the tracks, or where the object
    shows no relief: it is flat, or it never turns.
    max_frames: at most so many frames are adjusted together.
    """
    frames = np.flatnonzero(graph.visible_FN.sum(1) >= LEAST_POINTS)
    if len(frames) < LEAST_FRAMES:
        return None
    world = _best_start(graph, _keyframes(graph, frames, max_frames), focal, tolerances)
    if world is None:
        return None
    some = frames
    if len(frames) > max_frames:
        some = frames[np.linspace(0, len(frames) - 1, max_frames).round().astype(int)]
    used_N = longest(graph.visible_FN[some], TRACKS_PER_FRAME)
    world = extend(world, graph.observations(some, 2, used_N), some)
    _refine(world)
    return _shape(graph, extend(world, graph.observations(frames, 2), frames))


def _keyframes(graph: TrackGraph, frames: Indices, max_frames: int) -> Indices:
    """Evenly spaced, so close that tracks are seen in several of them."""
    length = float(np.median(graph.visible_FN.sum(0)[graph.visible_FN.any(0)]))
    wanted = max(FEW_FRAMES, SIGHTINGS * len(frames) / length)
    count = int(min(len(frames), wanted, max_frames))
    return np.asarray(frames[np.linspace(0, len(frames) - 1, count).round().astype(int)])


def longest(visible_KN: Mask, per_frame: int) -> Mask:
    """Tracks (N,): of each frame the `per_frame` that are seen most often."""
    length_N = visible_KN.sum(0)
    chosen_N = np.zeros(len(length_N), bool)
    order = np.argsort(-length_N, kind="stable")
    for visible_N in visible_KN:
        chosen_N[order[visible_N[order]][:per_frame]] = True
    return chosen_N


def _best_start(
    graph: TrackGraph, keyframes: Indices, focal: float, tolerances: Tolerances
) -> Map | None:
    """A shape from keyframes; of it and its reversal the one that explains them better."""
    used_N = longest(graph.visible_FN[keyframes], TRACKS_PER_FRAME)
    tracks = np.flatnonzero(used_N)
    rays = np.stack([graph.pixels(int(frame), tracks) for frame in keyframes]) / focal
    visible = graph.visible_FN[np.ix_(keyframes, tracks)]
    shape = reconstruct(rays, visible, NOISE_PX / focal)
    if shape is None:
        return None
    empty = Map(
        graph.observations(keyframes, min(3, len(keyframes)), used_N),
        graph.frames,
        graph.tracks,
        focal,
        tolerances,
    )
    points_N3 = np.full((graph.tracks, 3), np.nan)
    points_N3[tracks] = shape.points_N3
    frames = keyframes[shape.known_V]
    pose = shape.R_V33[shape.known_V], shape.t_V3[shape.known_V]
    best = _with_shape(empty, frames, *pose, points_N3)
    _refine(best)
    for _ in range(REVERSALS):
        other = _reversal(best)
        _refine(other)
        if _cost(other) >= _cost(best):
            break
        best = other
    return best if best.explained() >= LEAST_EXPLAINED else None


def _with_shape(world: Map, frames: Indices, R: Floats, t: Floats, points_N3: Floats) -> Map:
    """A new map over the same observations that holds these views (object to camera)."""
    start = Map(
        world.observations,
        len(world.registered_F),
        len(world.known_N),
        world.structure.focal,
        world.tolerances,
    )
    for frame, rotation, translation in zip(frames, R, t, strict=True):
        start.place(int(frame), rotation, translation)
    start.reference = int(frames[0])
    start.structure.points_N3[:] = points_N3
    start.inlier_M[:] = start.known_N[start.observations.point_M]
    start.inlier_M &= start.registered_F[start.observations.frame_M]
    return start


def _reversal(world: Map) -> Map:
    """The shape that looks the same to affine cameras: its depth reversed in every view."""
    frames = np.flatnonzero(world.registered_F)
    middle_3 = np.nanmean(world.structure.points_N3, 0)
    R, points = world.structure.R_F33[frames], world.structure.points_N3 - middle_3
    t = R @ middle_3 + world.structure.t_F3[frames]
    turn = look_at(t)
    mirror = np.diag([1.0, 1.0, -1.0])
    reversed_R = np.swapaxes(turn, 1, 2) @ mirror @ turn @ R @ mirror
    return _with_shape(world, frames, reversed_R, t, points @ mirror)


def _cost(world: Map) -> float:
    """Cauchy cost of all observations; one without a point counts as one far off."""
    error_M = world.errors(np.arange(len(world.observations)))
    missed = WORST * world.tolerances.inlier_px
    error_M = np.where(np.isfinite(error_M), np.minimum(error_M, missed), missed)
    return float(np.log1p((error_M / world.tolerances.loss_px) ** 2).sum())


def _refine(world: Map) -> None:
    """Adjust; outliers, and views that do not fit in with their neighbours, are decided anew."""
    for tolerance in (1e-3, 1e-4, 1e-5):
        world.adjust(None, 30, tolerance)
        _steady(world)
        world.classify()
        world.triangulate()


def _steady(world: Map) -> None:
    """Find the views anew that are turned far from both their neighbours.

    A view that shows one flat side has two solutions.
    """
    frames = np.flatnonzero(world.registered_F)
    if len(frames) < 3:
        return
    R = world.structure.R_F33[frames]
    step = rotation_angle(R[1:] @ np.swapaxes(R[:-1], 1, 2))
    across = rotation_angle(R[2:] @ np.swapaxes(R[:-2], 1, 2))
    jump = np.minimum(step[1:], step[:-1]) - across
    for frame in frames[1:-1][jump > JUMP]:
        world.registered_F[frame] = False
        world.register(int(frame), nearby_poses(world, int(frame)), AGREE_SHARE)


def _shape(graph: TrackGraph, world: Map) -> RigidShape:
    o2c = se3(world.structure.R_F33, world.structure.t_F3)
    o2c[~world.registered_F] = np.nan
    inlier_FN = np.zeros((graph.frames, graph.tracks), bool)
    kept = np.flatnonzero(world.inlier_M)
    inlier_FN[world.observations.frame_M[kept], world.observations.point_M[kept]] = True
    trusted_N = np.asarray(world.trusted_N & inlier_FN.any(0))
    points = np.where(trusted_N[:, None], world.structure.points_N3, np.nan)
    return RigidShape(o2c, points, inlier_FN, world.explained(), world.rmse())
