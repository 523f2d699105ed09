"""The tracks of one object, and the scale of its shape in the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices
from dynamicverse.dynamicba.bundle.lens import Lens, straighten
from dynamicverse.dynamicba.cameras.graph import Mask, TrackGraph
from dynamicverse.dynamicba.interpolation import LEAST_POINTS, at_pixels
from dynamicverse.dynamicba.motion.contact import Anchor
from dynamicverse.dynamicba.motion.rigid_objects import RigidShape
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.projection import image_centre, rays

Floats32 = npt.NDArray[np.float32]
LEAST_ANCHORED = 0.2  # of the frames: what is cut off in most of them stands doubtfully in the rest


@dataclass(frozen=True)
class Cameras:
    """Solved cameras: c2w_F44, NaN where a frame is not registered, K_F33 in px; distortion: k1
    of `lens.py`.
    """

    c2w_F44: Floats
    K_F33: Floats
    distortion: float = 0.0


@dataclass(frozen=True)
class ObjectTracks:
    """Tracks of one object, px as a camera with the focal length of the first frame sees them.

    alike: the same tracks as such a camera sees them; pixels_FT2: px of the picture.
    """

    track_T: Indices
    alike: Tracks
    focal: float
    pixels_FT2: Floats32

    @property
    def visible_FT(self) -> Mask:
        """What is seen in frames that have a camera."""
        return self.alike.visibility_FN

    def graph(self, used_FT: Mask | None = None) -> TrackGraph:
        """The tracks as those of a static scene; only some sightings of them."""
        if used_FT is None:
            return TrackGraph(self.alike)
        return TrackGraph(replace(self.alike, visibility_FN=used_FT))


def alike_tracks(tracks: Tracks, cameras: Cameras) -> Tracks:
    """The tracks as a camera with the focal length of the first frame would have seen them, with
    its principal point in the middle; visible in frames that have a camera.
    """
    focal, centre_2 = float(cameras.K_F33[0, 0, 0]), image_centre(tracks.size)
    pixels_FN2 = np.empty_like(tracks.tracks_FN2)
    lens = Lens(k1=cameras.distortion)
    for frame, K in enumerate(cameras.K_F33):
        xy_N2 = focal * rays(tracks.tracks_FN2[frame], K)[:, :2]
        visible_N = tracks.visibility_FN[frame]
        xy_N2[visible_N] = straighten(xy_N2[visible_N], focal, lens)
        pixels_FN2[frame] = xy_N2 + centre_2
    registered_F1 = np.isfinite(cameras.c2w_F44[:, :1, 0])
    return replace(
        tracks, tracks_FN2=pixels_FN2, visibility_FN=tracks.visibility_FN & registered_F1
    )


def object_tracks(tracks: Tracks, cameras: Cameras, instance: int) -> ObjectTracks:
    """The tracks of one instance."""
    mine = np.flatnonzero(tracks.instance_id_N == instance)
    own = Tracks(
        tracks.tracks_FN2[:, mine],
        tracks.visibility_FN[:, mine],
        tracks.confidence_FN[:, mine],
        tracks.query_frame_N[mine],
        np.zeros(len(mine), np.int32),
        tracks.size,
    )
    focal = float(cameras.K_F33[0, 0, 0])
    return ObjectTracks(mine, alike_tracks(own, cameras), focal, own.tracks_FN2)


def shape_depth(shape: RigidShape) -> Floats:
    """Depth (F, T) of the points of a shape where they are seen, in its unit; 0 elsewhere."""
    R_F33, t_F3 = shape.o2c_F44[:, :3, :3], shape.o2c_F44[:, :3, 3]
    depth_FT = R_F33[:, 2] @ shape.points_N3.T + t_F3[:, 2:]
    return np.where(shape.inlier_FN & (depth_FT > 0), depth_FT, 0)


def object_scale(
    depth_FT: Floats,
    pixels_FT2: Floats32,
    anchor_F: Sequence[Anchor | None],
    unsure: float,
    by_middle: bool = False,
) -> tuple[float, float] | None:
    """What to multiply depths (0 = unknown) by to meet the anchors, and its spread over time.

    By the points nearest to the anchors, or by the median of all: of what bends, the legs that
    stand on the ground are the first to be wrong in a rigid shape. None where the logarithm of
    the scale spreads by more than `unsure`, or where few frames have an anchor.
    """
    logarithms, frames = [], 0
    for frame, anchor in enumerate(anchor_F):
        known = np.flatnonzero(depth_FT[frame] > 0)
        if len(known) < LEAST_POINTS:
            continue
        frames += 1
        if anchor is None:
            continue
        pixels_M2 = pixels_FT2[frame, known].astype(np.float64)
        # as if all of it were as far away as where it stands
        footing_M = 1 / (depth_FT[frame, known] * anchor.upright(pixels_M2))
        if by_middle:
            footing_M = np.full_like(footing_M, np.median(footing_M))
        footing_K = at_pixels(pixels_M2, footing_M, anchor.pixels_K2)
        inverse_K = footing_K * anchor.upright(anchor.pixels_K2)
        logarithms.append(float(np.median(np.log(anchor.depth_K * inverse_K))))
    if not logarithms or len(logarithms) < LEAST_ANCHORED * frames:
        return None
    middle = float(np.median(logarithms))
    spread = 1.4826 * float(np.median(np.abs(np.array(logarithms) - middle)))
    return (float(np.exp(middle)), spread) if spread <= unsure else None
