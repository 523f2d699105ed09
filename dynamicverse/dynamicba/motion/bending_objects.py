"""Objects that no single rigid body explains: rigid parts where there are any, then a surface
that is as rigid as possible.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from dynamicverse.dynamicba.bundle.blocks import Floats
from dynamicverse.dynamicba.cameras.graph import Mask
from dynamicverse.dynamicba.cameras.mapping import Tolerances
from dynamicverse.dynamicba.motion.contact import Anchor
from dynamicverse.dynamicba.motion.deforming_points import Rays, solve_deforming
from dynamicverse.dynamicba.motion.object_scale import (
    Cameras,
    Floats32,
    ObjectTracks,
    object_scale,
    shape_depth,
)
from dynamicverse.dynamicba.motion.rigid_objects import RigidShape, fit_rigid, longest
from dynamicverse.geometry.projection import image_centre

LEAST_TRACKS = 8
TRACKS_PER_FRAME = 80
MOST_PARTS = 4
LEAST_REST = 0.1  # of the sightings must be left for another part
LEAST_SHARE = 0.15  # of the sightings that a part must explain
LEAST_WEIGHT = 0.8  # mean robust weight of what agrees with a part, about 0.9 at the noise of
# tracks: what is twice as far off is a compromise between parts
STEADY = 0.08  # largest spread of the scale of a part between frames
JOINT_PAIRS = 8  # of points of two parts that are seen closest together
JOINT_PX = 40.0  # they are at most so far apart
JERK = 6.0  # × the median: a track that jumps so in the picture is an outlier there
JERK_PX = 3.0
OBJECT_SIGMA = 0.05  # of log depth: what is known is the depth of the object, not of a point
PART_SIGMA = 0.01  # of log depth of points on rigid parts


def solve_bending(
    own: ObjectTracks,
    cameras: Cameras,
    first: RigidShape | None,
    anchor_F: Sequence[Anchor | None],
    card_F: Floats,
    limits: tuple[Tolerances, int],
) -> tuple[Floats32, float] | None:
    """Depth (F, T) of the points of an object that bends, 0 = unknown, and its strain.

    first: the largest rigid part, if any. card_F: depth of the object as a whole, known in one
    frame at least. None where too little is tracked.
    """
    used_FT = own.visible_FT & longest(own.visible_FT, TRACKS_PER_FRAME) & ~_jumps(own)
    track_S, frame_S = np.nonzero(used_FT.T)
    if len(np.unique(track_S)) < LEAST_TRACKS:
        return None
    c2w_S = cameras.c2w_F44[frame_S]
    offset_S2 = own.alike.tracks_FN2[frame_S, track_S] - image_centre(own.alike.size)
    local_S3 = np.append(offset_S2 / own.focal, np.ones((len(offset_S2), 1)), 1)
    ray_S3 = (c2w_S[:, :3, :3] @ local_S3[..., None])[..., 0]
    known = np.flatnonzero(np.isfinite(card_F))
    start_F = np.exp(np.interp(np.arange(len(card_F)), known, np.log(card_F[known])))
    depth_S = start_F[frame_S] / _upright(own, anchor_F)[frame_S, track_S]
    sigma_S = np.where(np.isfinite(card_F[frame_S]), OBJECT_SIGMA, np.inf)
    parts_FT = _parts(own, first, anchor_F, limits)
    on_part_S = parts_FT[frame_S, track_S] > 0
    depth_S = np.where(on_part_S, parts_FT[frame_S, track_S], depth_S)
    sigma_S = np.where(on_part_S, PART_SIGMA, sigma_S)
    sightings = Rays(frame_S, track_S, c2w_S[:, :3, 3], ray_S3, own.focal)
    solved = solve_deforming(sightings, depth_S, depth_S, sigma_S)
    depth_FT = parts_FT.astype(np.float32)
    depth_FT[frame_S, track_S] = solved.depth_S
    return depth_FT, solved.strain


def _upright(own: ObjectTracks, anchor_F: Sequence[Anchor | None]) -> Floats:
    """Inverse depth (F, T) of an upright object at its tracks, over that of the whole: as its
    contacts say, the nearest in time where one is not seen.
    """
    over_FT = np.ones(own.visible_FT.shape)
    known = np.flatnonzero([anchor is not None for anchor in anchor_F])
    for frame in range(len(over_FT)):
        anchor = anchor_F[known[np.argmin(np.abs(known - frame))]] if len(known) else None
        if anchor is not None:
            over_FT[frame] = anchor.over_whole(own.pixels_FT2[frame].astype(np.float64))
    return over_FT


def _parts(
    own: ObjectTracks,
    first: RigidShape | None,
    anchor_F: Sequence[Anchor | None],
    limits: tuple[Tolerances, int],
) -> Floats:
    """Depths (F, T) of the points of the rigid parts of an object, 0 = on none.

    The first part has its scale from the anchors, every other from the points of earlier parts
    that are seen beside it.
    """
    depth_FT = np.zeros(own.visible_FT.shape)
    rest_FT = own.visible_FT.copy()
    shape, beside_F = first, anchor_F
    for _ in range(MOST_PARTS):
        if shape is None or shape.inlier_FN.sum() < LEAST_SHARE * own.visible_FT.sum():
            break
        if shape.explained * rest_FT.sum() < LEAST_WEIGHT * shape.inlier_FN.sum():
            break
        part_FT = shape_depth(shape)
        is_first = not depth_FT.any()
        if not is_first:
            beside_F = _beside(own.pixels_FT2, part_FT, depth_FT)
        found = object_scale(part_FT, own.pixels_FT2, beside_F, STEADY, by_middle=is_first)
        if found is None:
            break
        mine_T = 2 * shape.inlier_FN.sum(0) > rest_FT.sum(0)
        depth_FT[:, mine_T] = np.where(part_FT[:, mine_T] > 0, found[0] * part_FT[:, mine_T], 0)
        rest_FT[:, mine_T] = False
        if rest_FT.sum() < LEAST_REST * own.visible_FT.sum():
            break
        shape = fit_rigid(own.graph(rest_FT), own.focal, *limits)
    return depth_FT


def _beside(pixels_FT2: Floats32, part_FT: Floats, known_FT: Floats) -> list[Anchor | None]:
    """Anchors of a part: where points of known depth are seen beside it, their depth."""
    anchors: list[Anchor | None] = []
    for frame in range(len(part_FT)):
        mine = np.flatnonzero(part_FT[frame] > 0)
        known = np.flatnonzero(known_FT[frame] > 0)
        anchors.append(None)
        if len(mine) and len(known):
            distance, nearest = cKDTree(pixels_FT2[frame, known]).query(pixels_FT2[frame, mine])
            order = np.argsort(distance, kind="stable")[:JOINT_PAIRS]
            order = order[distance[order] <= JOINT_PX]
            if len(order):
                pixels_K2 = pixels_FT2[frame, mine[order]].astype(np.float64)
                anchors[-1] = Anchor(pixels_K2, known_FT[frame, known[nearest[order]]])
    return anchors


def _jumps(own: ObjectTracks) -> Mask:
    """Sightings (F, T) where a track leaves its smooth path in the picture."""
    jumps_FT = np.zeros(own.visible_FT.shape, bool)
    if len(jumps_FT) < 3:
        return jumps_FT
    visible = own.visible_FT
    inner_FT = visible[:-2] & visible[1:-1] & visible[2:]
    xy = own.pixels_FT2.astype(np.float64)
    jerk_FT = np.linalg.norm(xy[:-2] - 2 * xy[1:-1] + xy[2:], axis=2)
    jerk_FT[~inner_FT] = 0
    if inner_FT.any():
        limit = max(JERK_PX, JERK * float(np.median(jerk_FT[inner_FT])))
        jumps_FT[1:-1] = jerk_FT > limit
    return jumps_FT
