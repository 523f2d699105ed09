"""Moving objects of a clip in the scale of the scene: which model, where its points are.

An object is reconstructed by itself as a rigid body. One camera cannot tell how large it is:
nearer, smaller and slower looks the same. Its scale comes from depth known from outside, the
`Anchor`s: a prior, or the ground it stands on. Where no rigid body explains the tracks, the
object as a whole has the depth of its anchors. What has no anchor has no depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices
from dynamicverse.dynamicba.cameras.graph import Mask
from dynamicverse.dynamicba.cameras.mapping import Tolerances
from dynamicverse.dynamicba.motion.bending_objects import solve_bending
from dynamicverse.dynamicba.motion.contact import Anchor, steady_depth
from dynamicverse.dynamicba.motion.motion_smoothing import Sightings, smooth_motion
from dynamicverse.dynamicba.motion.object_scale import (
    Cameras,
    ObjectTracks,
    object_scale,
    object_tracks,
    shape_depth,
)
from dynamicverse.dynamicba.motion.rigid_objects import RigidShape, fit_rigid
from dynamicverse.formats.reconstruction_info import ObjectModel, ScaleSource
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.lie import se3

Floats32 = npt.NDArray[np.float32]
Source = Literal["prior", "contact"]

LEAST_EXPLAINED = 0.6  # of the observations of an object by a rigid body
LEAST_SIGMA_PX = 0.2  # no track is better
UNSURE: Mapping[Source, float] = {"prior": 0.25, "contact": 0.1}  # spread of log scale
LEAST_AGREEING = 0.75  # of its tracks' observations within the inlier threshold


@dataclass(frozen=True)
class MovingObject:
    """One moving object in F frames, in the scale of the scene.

    track_T: its tracks; depth_FT: their depth along the optical axis, 0 where unknown.
    o2w_F44: pose of a rigid object (its origin the middle of its points, its axes those of the
    world in its first frame), NaN where unknown; of unknown scale: the translation is NaN.
    card_F: depth of the object as a whole, NaN where unknown.
    residual_px, explained: how well the model explains the tracks; None without a model.
    scale_spread: of the logarithm of the scale between frames, robust standard deviation.
    strain: how much the distances of neighbouring points of a deforming object vary.
    """

    instance: int
    model: ObjectModel
    scale_source: ScaleSource
    track_T: Indices
    depth_FT: Floats32
    o2w_F44: Floats
    card_F: Floats
    residual_px: float | None = None
    explained: float | None = None
    scale_spread: float | None = None
    strain: float | None = None


def solve_objects(
    tracks: Tracks,
    cameras: Cameras,
    anchors_F: Sequence[Mapping[int, Anchor | None]],
    source: Source,
    tolerances: Tolerances,
    max_frames: int,
) -> list[MovingObject]:
    """All objects that the masks show, in the order of their ids.

    anchors_F: of every frame the objects in it and what is known of their depth.
    """
    ids = sorted({instance for frame in anchors_F for instance in frame})
    return [
        _solve(
            instance,
            object_tracks(tracks, cameras, instance),
            cameras,
            [frame.get(instance) for frame in anchors_F],
            np.array([instance in frame for frame in anchors_F]),
            source,
            (tolerances, max_frames),
        )
        for instance in ids
    ]


def _solve(
    instance: int,
    own: ObjectTracks,
    cameras: Cameras,
    anchor_F: Sequence[Anchor | None],
    seen_F: npt.NDArray[np.bool_],
    source: Source,
    limits: tuple[Tolerances, int],
) -> MovingObject:
    card_F = _card(anchor_F, seen_F)
    shape = fit_rigid(own.graph(), own.focal, *limits)
    if shape is not None and _explains(shape, own.visible_FT):
        return _rigid(instance, own, cameras, shape, anchor_F, card_F, source)
    if not np.isfinite(card_F).any():
        return _by_anchors(instance, own, cameras, card_F, "unknown", "none")
    found = solve_bending(own, cameras, shape, anchor_F, card_F, limits)
    if found is None:
        return _by_anchors(instance, own, cameras, card_F, "contact", source)
    depth_FT, strain = found
    whole = _by_anchors(instance, own, cameras, card_F, "deforming", source)
    return replace(whole, depth_FT=depth_FT, strain=strain)


def _by_anchors(
    instance: int,
    own: ObjectTracks,
    cameras: Cameras,
    card_F: Floats,
    model: ObjectModel,
    source: ScaleSource,
) -> MovingObject:
    """An object of which no point is known."""
    nothing_FT = np.zeros(own.visible_FT.shape, np.float32)
    nowhere_F44 = np.full_like(cameras.c2w_F44, np.nan)
    return MovingObject(instance, model, source, own.track_T, nothing_FT, nowhere_F44, card_F)


def _explains(shape: RigidShape, visible_FT: Mask) -> bool:
    agreeing = shape.inlier_FN.sum() / max(1, visible_FT.sum())
    return shape.explained >= LEAST_EXPLAINED and agreeing >= LEAST_AGREEING


def _card(anchor_F: Sequence[Anchor | None], seen_F: npt.NDArray[np.bool_]) -> Floats:
    """Depth (F,) of the object as a whole from its anchors alone."""
    inverse_F = np.array([np.nan if anchor is None else anchor.inverse for anchor in anchor_F])
    return np.where(seen_F, steady_depth(inverse_F), np.nan)


def _rigid(
    instance: int,
    own: ObjectTracks,
    cameras: Cameras,
    shape: RigidShape,
    anchor_F: Sequence[Anchor | None],
    card_F: Floats,
    source: Source,
) -> MovingObject:
    """A rigid object: scaled, in the world, its points as deep as the body says."""
    middle_3 = np.nanmedian(shape.points_N3, 0)
    R_F33 = shape.o2c_F44[:, :3, :3]
    t_F3 = R_F33 @ middle_3 + shape.o2c_F44[:, :3, 3]
    found = object_scale(shape_depth(shape), own.pixels_FT2, anchor_F, UNSURE[source])
    if found is None:  # no anchors, or they contradict each other
        card_F = np.full_like(card_F, np.nan)
    scale = np.nan if found is None else found[0]
    o2w_F44 = cameras.c2w_F44 @ se3(R_F33, scale * t_F3)
    posed = np.flatnonzero(np.isfinite(R_F33[:, 0, 0]))
    o2w_F44[posed, 3] = (0, 0, 0, 1)
    depth_FT = np.zeros(own.visible_FT.shape, np.float32)
    if found is not None:
        points_T3 = scale * (shape.points_N3 - middle_3)
        known_FT = shape.inlier_FN & np.isfinite(points_T3[:, 0])
        o2w_F44 = _smooth(o2w_F44, own, cameras, points_T3, known_FT, shape.rmse_px)
        o2c_F44 = np.linalg.inv(cameras.c2w_F44) @ o2w_F44
        z_FT = o2c_F44[:, 2, :3] @ points_T3.T + o2c_F44[:, 2, 3:]
        depth_FT = np.where(known_FT & (z_FT > 0), z_FT, 0).astype(np.float32)
        card_F = np.where(np.isfinite(o2c_F44[:, 2, 3]), o2c_F44[:, 2, 3], card_F)
    o2w_F44[:, :3, :3] = o2w_F44[:, :3, :3] @ o2w_F44[posed[0], :3, :3].T
    return MovingObject(
        instance,
        "rigid",
        "none" if found is None else source,
        own.track_T,
        depth_FT,
        o2w_F44,
        card_F,
        shape.rmse_px,
        shape.explained,
        None if found is None else found[1],
    )


def _smooth(
    o2w_F44: Floats,
    own: ObjectTracks,
    cameras: Cameras,
    points_T3: Floats,
    known_FT: Mask,
    rmse_px: float,
) -> Floats:
    """The poses of a motion as smooth as its sightings allow."""
    frame_S, track_S = np.nonzero(known_FT)
    sigma = max(rmse_px / np.sqrt(2), LEAST_SIGMA_PX)
    seen = Sightings(frame_S, points_T3[track_S], own.focal, sigma)
    return smooth_motion(o2w_F44, cameras.c2w_F44, seen)
