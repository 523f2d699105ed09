"""Depth of moving objects in a frame: every pixel from the points of its own object only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.cameras.picture_lens import straight_rays
from dynamicverse.dynamicba.dense.fuse import FrameDepth
from dynamicverse.dynamicba.interpolation import LEAST_POINTS, over_mask
from dynamicverse.formats.masks import present
from dynamicverse.formats.tracks import Tracks

if TYPE_CHECKING:
    from dynamicverse.dynamicba.motion.moving_objects import MovingObject

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CONFIDENCE = 0.2  # of everything that rests on ground contact
LARGEST = 4.0  # distance of a point from the middle, in robust standard deviations; but
THICKEST = 0.3  # in the logarithm of depth is nothing unusual: an object has sides


@dataclass(frozen=True)
class DynamicPoints:
    """The moving objects of a clip, in the order of their ids, and the tracks they were
    solved from.
    """

    tracks: Tracks
    objects: Sequence[MovingObject]

    def points(self, frame: int) -> tuple[npt.NDArray[np.intp], Floats32]:
        """Tracks (T,) with known depth in a frame, and their depth along the optical axis."""
        tracks = [np.zeros(0, np.intp)]
        depths = [np.zeros(0, np.float32)]
        for item in self.objects:
            known = np.flatnonzero(item.depth_FT[frame] > 0)
            tracks.append(item.track_T[known])
            depths.append(item.depth_FT[frame, known])
        return np.concatenate(tracks), np.concatenate(depths)

    def depth(self, frame: int, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W) of the pixels of moving objects; 0 where unknown.

        An object with fewer than three points of known depth has one depth for all its pixels.
        """
        depth_HW = np.zeros(ids_HW.shape, np.float32)
        confidence_HW = np.zeros(ids_HW.shape, np.float32)
        for item in self._shown(ids_HW):
            mask_HW = ids_HW == item.instance
            pixels_K2, depth_K = self.control_points(item, frame)
            if len(depth_K) >= LEAST_POINTS:
                depth_HW[mask_HW] = 1 / over_mask(pixels_K2, 1 / depth_K, mask_HW)
            elif np.isfinite(item.card_F[frame]):
                depth_HW[mask_HW] = item.card_F[frame]
            if item.scale_source != "none":
                confidence_HW[mask_HW] = CONFIDENCE * (depth_HW[mask_HW] > 0)
        return depth_HW, confidence_HW

    def corrected(self, frame: int, ids_HW: Bytes, prior_HW: Floats32) -> Floats32:
        """A prior (H,W), 0 = unknown, with the pixels of each object moved to its own points."""
        depth_HW = prior_HW.copy()
        height, width = prior_HW.shape
        for item in self._shown(ids_HW):
            pixels_K2, depth_K = self.control_points(item, frame)
            column, row = np.rint(pixels_K2).astype(np.intp).T
            row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
            on = (prior_HW[row, column] > 0) & (ids_HW[row, column] == item.instance)
            if on.sum() >= LEAST_POINTS:
                mask_HW = ids_HW == item.instance
                ratio_K = np.log(depth_K[on] / prior_HW[row[on], column[on]])
                depth_HW[mask_HW] *= np.exp(over_mask(pixels_K2[on], ratio_K, mask_HW))
        return depth_HW

    def control_points(self, item: MovingObject, frame: int) -> tuple[Floats, Floats]:
        """Pixels (K,2) and depth (K,) of the points of an object in a frame, outliers left out."""
        known = np.flatnonzero(item.depth_FT[frame] > 0)
        pixels_K2 = self.tracks.tracks_FN2[frame, item.track_T[known]].astype(np.float64)
        depth_K = item.depth_FT[frame, known].astype(np.float64)
        if not len(known):
            return pixels_K2, depth_K
        error_K = np.abs(np.log(depth_K / np.median(depth_K)))
        kept_K = error_K <= max(THICKEST, LARGEST * 1.4826 * float(np.median(error_K)))
        return pixels_K2[kept_K], depth_K[kept_K]

    def _shown(self, ids_HW: Bytes) -> list[MovingObject]:
        shown = present(ids_HW)
        return [item for item in self.objects if item.instance in shown]


def centre(instance: int, view: FrameDepth) -> Floats | None:
    """World position (3,) of the visible part of an object; None where its depth is unknown.

    The middle of its mask at the median of its depth.
    """
    rows, columns = np.nonzero((view.ids_HW == instance) & (view.depth_HW > 0))
    if not len(rows):
        return None
    middle_12 = np.array([[columns.mean(), rows.mean()]])
    depth_1 = np.array([np.median(view.depth_HW[rows, columns])], np.float32)
    return np.asarray(in_world(middle_12, depth_1, view)[0])


def in_world(pixel_T2: npt.ArrayLike, depth_T: Floats32, view: FrameDepth) -> Floats:
    """World points (T,3) of pixels of known depth."""
    camera_T3 = straight_rays(pixel_T2, view.K, view.distortion) * depth_T[:, None]
    return np.asarray(camera_T3 @ view.c2w[:3, :3].T + view.c2w[:3, 3])


def about(objects: Sequence[MovingObject]) -> list[str]:
    """What the depth of moving objects rests on, in plain words."""
    statements = []
    sources = {item.scale_source for item in objects}
    if "contact" in sources:
        statements.append(
            "depth of moving objects assumes that they stand on the ground seen below them"
        )
    if "prior" in sources:
        statements.append("depth of moving objects rests on the depth prior")
    shapes = [i.instance for i in objects if i.scale_source == "none" and i.model == "rigid"]
    if shapes:
        statements.append(f"distance of moving objects unknown, rotation known: {_list(shapes)}")
    unknown = [i.instance for i in objects if i.model == "unknown"]
    if unknown:
        statements.append(
            f"depth of moving objects unknown, no ground contact seen: {_list(unknown)}"
        )
    return statements


def _list(ids: Sequence[int]) -> str:
    return ", ".join(str(i) for i in ids)
