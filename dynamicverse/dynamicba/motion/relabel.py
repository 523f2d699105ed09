"""Labels of tracks against their motion: epipolar evidence over all frames at once.

A track that stands still agrees with one point of the static scene in all of its frames; one
that moves does not, unless it moves along its epipolar lines. Masks bleed over edges and miss
parts, so single tracks of an object may stand still, and single tracks of the background may
move with the object beside them. Tracks of an object that stands still as a whole, or seems to,
keep their label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices
from dynamicverse.dynamicba.bundle.solver import Structure
from dynamicverse.dynamicba.cameras.graph import Mask, TrackGraph
from dynamicverse.dynamicba.cameras.mapping import Tolerances
from dynamicverse.dynamicba.cameras.triangulation import agreement, triangulate
from dynamicverse.dynamicba.motion.object_scale import Cameras, alike_tracks
from dynamicverse.formats.tracks import Tracks

Ids = npt.NDArray[np.int32]

BATCH = 20_000  # tracks that are tested at once
LEAST_FRAMES = 5  # in which a track must be seen
CLOSE = 1.0  # × the scale of the robust loss: error of a point that stands still, at most
STATIC_SHARE = 0.9  # of the sightings of a static track agree with one point
MOVING_SHARE = 0.5  # of those of a moving track do, at most
WIDE_ANGLE = 2.0  # × the least triangulation angle: enough parallax to contradict a label
PARKED = 0.5  # of the tracks of an object stand still: so does the object, or it cannot be told
BESIDE = 0.03  # of the longer side: so close to an object's tracks may be one of them
TOGETHER_PX = 3.0  # a track moves with its neighbours, or by this share of their motion:
TOGETHER = 0.2


@dataclass(frozen=True)
class Relabelling:
    """instance_id_N: the labels that the motion agrees with; points_N3: of tracks that were
    found to stand still, NaN for all others. Counts as in `reconstruction_info.Relabelled`.
    """

    instance_id_N: Ids
    points_N3: Floats
    to_static: int
    to_moving: int
    set_aside: int
    parked: list[int]

    @property
    def statements(self) -> list[str]:
        """What was found, in plain words."""
        told = []
        if self.to_static or self.to_moving:
            told.append(
                f"labels of tracks contradicted by their motion: {self.to_static} on moving "
                f"objects stand still, {self.to_moving} on the background move with an object"
            )
        if self.parked:
            names = ", ".join(str(i) for i in self.parked)
            told.append(f"objects that stand still, or move along the line of sight: {names}")
        return told


@dataclass(frozen=True)
class _Evidence:
    """share_N: of a track's sightings, agreeing with its best static point; close_N: of these, as
    closely as one of a point that stands still would; NaN if it is seen
    too seldom. angle_N: of its rays, radians. points_N3: that point.
    """

    share_N: Floats
    close_N: Floats
    angle_N: Floats
    points_N3: Floats


def relabel(
    tracks: Tracks, static_N: Mask, cameras: Cameras, tolerances: Tolerances
) -> Relabelling:
    """Compare the labels of tracks with their motion under solved cameras.

    static_N: tracks known to stand still; they keep their label.
    """
    doubtful_N = (tracks.instance_id_N > 0) | ~static_N
    evidence = _evidence(tracks, np.flatnonzero(doubtful_N), cameras, tolerances)
    seen_N = np.isfinite(evidence.share_N)
    wide_N = evidence.angle_N >= WIDE_ANGLE * tolerances.angle
    stands_N = seen_N & wide_N & (evidence.close_N >= STATIC_SHARE)
    moves_N = seen_N & (evidence.share_N <= MOVING_SHARE)
    labels_N = tracks.instance_id_N.copy()
    parked = []
    for instance in np.unique(labels_N[labels_N > 0]):
        mine_N = labels_N == instance
        told_N = mine_N & seen_N
        if told_N.any() and stands_N[told_N].mean() >= PARKED:
            parked.append(int(instance))
    to_static_N = stands_N & (labels_N > 0) & ~np.isin(labels_N, parked)
    labels_N[to_static_N] = 0
    astray_N = moves_N & (tracks.instance_id_N == 0)
    beside_N = _moving_with(tracks, np.flatnonzero(astray_N), labels_N)
    labels_N[astray_N] = -1
    labels_N[beside_N > 0] = beside_N[beside_N > 0]
    return Relabelling(
        labels_N,
        np.where(to_static_N[:, None], evidence.points_N3, np.nan),
        int(to_static_N.sum()),
        int((beside_N > 0).sum()),
        int((astray_N & (beside_N == 0)).sum()),
        parked,
    )


def _evidence(
    tracks: Tracks, doubtful_D: Indices, cameras: Cameras, tolerances: Tolerances
) -> _Evidence:
    """Of all tracks (N); only the doubtful ones are looked at."""
    count = tracks.visibility_FN.shape[1]
    registered_F = np.isfinite(cameras.c2w_F44[:, 0, 0])
    frames = np.flatnonzero(registered_F)
    w2c_F44 = np.tile(np.eye(4), (len(registered_F), 1, 1))
    w2c_F44[frames] = np.linalg.inv(cameras.c2w_F44[frames])
    structure = Structure(
        w2c_F44[:, :3, :3], w2c_F44[:, :3, 3], np.zeros((0, 3)), float(cameras.K_F33[0, 0, 0])
    )
    found = _Evidence(
        np.full(count, np.nan),
        np.full(count, np.nan),
        np.zeros(count),
        np.full((count, 3), np.nan),
    )
    for first in range(0, len(doubtful_D), BATCH):
        part = doubtful_D[first : first + BATCH]
        local = _some(tracks, part, cameras).observations(frames, LEAST_FRAMES)
        if not len(local):
            continue
        size = len(part)
        points = triangulate(local, structure, size, tolerances.loss_px, tolerances.device)
        checked = agreement(points, local, structure, tolerances.inlier_px, tolerances.device)
        agrees = checked.error_M < tolerances.inlier_px
        close = np.bincount(
            local.point_M[checked.error_M < CLOSE * tolerances.loss_px], minlength=size
        )
        sightings = np.bincount(local.point_M, minlength=size)
        support = np.bincount(local.point_M[agrees], minlength=size)
        found.share_N[part] = np.where(sightings, support / np.maximum(sightings, 1), np.nan)
        found.close_N[part] = np.where(sightings, close / np.maximum(sightings, 1), np.nan)
        found.angle_N[part] = checked.angle_N
        found.points_N3[part] = points
    return found


def _some(tracks: Tracks, part_P: Indices, cameras: Cameras) -> TrackGraph:
    """Some of the tracks, whatever their labels, as a camera of one focal length sees them."""
    some = replace(
        tracks,
        tracks_FN2=tracks.tracks_FN2[:, part_P],
        visibility_FN=tracks.visibility_FN[:, part_P],
        instance_id_N=np.zeros(len(part_P), np.int32),
    )
    return TrackGraph(alike_tracks(some, cameras))


def _moving_with(tracks: Tracks, astray_A: npt.NDArray[np.intp], labels_N: Ids) -> Ids:
    """For every track the object that it moves with (N,), 0 for none; only for those astray.

    It must be seen beside tracks of the object, and move as they do, in most of its frames.
    """
    votes: dict[int, Ids] = {}
    sightings_N = np.zeros(len(labels_N), np.int32)
    reach = BESIDE * max(tracks.size)
    for frame in range(len(tracks.visibility_FN) - 1):
        both_N = tracks.visibility_FN[frame] & tracks.visibility_FN[frame + 1]
        mine = astray_A[both_N[astray_A]]
        objects = np.flatnonzero(both_N & (labels_N > 0))
        sightings_N[mine] += 1
        if not len(mine) or not len(objects):
            continue
        here_N2, next_N2 = tracks.tracks_FN2[frame], tracks.tracks_FN2[frame + 1]
        distance, nearest = cKDTree(here_N2[objects]).query(here_N2[mine])
        beside = objects[nearest]
        motion = next_N2[beside] - here_N2[beside]
        apart = np.linalg.norm(next_N2[mine] - here_N2[mine] - motion, axis=1)
        allowed = np.maximum(TOGETHER_PX, TOGETHER * np.linalg.norm(motion, axis=1))
        together = (distance <= reach) & (apart <= allowed)
        for track, instance in zip(mine[together], labels_N[beside[together]], strict=True):
            votes.setdefault(int(instance), np.zeros(len(labels_N), np.int32))[track] += 1
    result_N = np.zeros(len(labels_N), np.int32)
    best_N = sightings_N / 2  # more than half of its frames
    for instance, vote_N in sorted(votes.items()):
        won_N = vote_N > best_N
        result_N[won_N] = instance
        best_N = np.maximum(best_N, vote_N)
    return result_N
