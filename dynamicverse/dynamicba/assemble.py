"""The 4D scene: depth maps and sparse points of all frames fused, frame after frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.config import FuseConfig
from dynamicverse.dynamicba.dense import dynamic_points
from dynamicverse.dynamicba.dense.depth_sources import Clip
from dynamicverse.dynamicba.dense.dynamic_points import DynamicPoints
from dynamicverse.dynamicba.dense.fuse import (
    Cloud,
    FrameDepth,
    MovingClouds,
    StaticCloud,
    lift,
    steep,
    weighted_rows,
)
from dynamicverse.formats.masks import present

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]

PIXELS_PER_FRAME = 100_000  # static pixels of a frame that enter the cloud, about


@dataclass(frozen=True)
class Scene4D:
    """The fused scene, in the world frame.

    Frame f owns moving_points_Q3[offsets[f]:offsets[f+1]]. centres_MF3: NaN where unknown.
    voxel: side of the cells in which static points were merged; 0 without depth.
    dropped: static points too far away to be kept.
    """

    static: Cloud
    moving_points_Q3: Floats32
    moving_rgbs_Q3: Bytes
    moving_instance_Q: Ids
    offsets: npt.NDArray[np.int64]
    ids_M: Ids
    centres_MF3: Floats32
    voxel: float
    dropped: int


@dataclass(frozen=True)
class FrameClouds:
    """What one frame adds to the scene.

    static_N8: points as `fuse.weighted_rows` gives them. typical: median depth of the frame,
    None where nothing is known. centres: of the objects that are shown, None where unknown.
    """

    static_N8: Floats32
    moving: tuple[Floats32, Bytes, Ids]
    typical: float | None
    centres: dict[int, Floats | None]


class Assembler:
    """Takes the frames of a clip in order and gives the fused scene.

    moving: what is known of the points of moving objects; None where there is no depth.
    """

    def __init__(
        self,
        clip: Clip,
        settings: FuseConfig,
        moving: DynamicPoints | None = None,
        device: str = "cpu",
    ) -> None:
        self._clip, self._settings, self._objects = clip, settings, moving
        self._device = device
        width, height = clip.tracks.size
        self._step = max(1, round((width * height / PIXELS_PER_FRAME) ** 0.5))
        self._typical = clip.median_depth()
        self._static: StaticCloud | None = None
        self._moving = MovingClouds(len(clip.registered_F), settings.max_moving_points)
        self._centres: dict[int, Floats32] = {}
        self._first_N = _first_frames(clip)

    def add(
        self,
        frame: int,
        rgb_HW3: Bytes,
        ids_HW: Bytes,
        depth: tuple[Floats32, Floats32] | None,
    ) -> None:
        """Add the next frame; `depth` (with confidence) is None where there is none."""
        self.put(frame, self.look(frame, rgb_HW3, ids_HW, depth))

    def look(
        self,
        frame: int,
        rgb_HW3: Bytes,
        ids_HW: Bytes,
        depth: tuple[Floats32, Floats32] | None,
    ) -> FrameClouds:
        """What a frame adds; in any order, and from several threads."""
        shown = present(ids_HW)
        if not self._clip.registered_F[frame] or depth is None:
            return FrameClouds(
                weighted_rows(_empty_cloud()), _nothing(), None, dict.fromkeys(shown)
            )
        clip = self._clip
        view = FrameDepth(
            rgb_HW3, *depth, ids_HW, clip.K_F33[frame], clip.c2w_F44[frame], clip.distortion
        )
        known = view.depth_HW[view.depth_HW > 0] if self._typical is None else np.zeros(0)
        return FrameClouds(
            weighted_rows(self._static_points(frame, view)),
            self._moving_points(frame, view),
            float(np.median(known)) if len(known) else self._typical,
            {instance: dynamic_points.centre(instance, view) for instance in shown},
        )

    def put(self, frame: int, seen: FrameClouds) -> None:
        """Add what `look` saw in the next frame."""
        for instance, centre in seen.centres.items():
            self._centres.setdefault(instance, self._unknown())
            if centre is not None:
                self._centres[instance][frame] = centre
        self._moving.add(*seen.moving)
        if self._static is None and seen.typical is not None:
            # voxels as large as the distance of neighbouring samples
            voxel = self._step * seen.typical / float(self._clip.K_F33[frame, 0, 0])
            self._static = StaticCloud(voxel, self._settings.max_points, self._device)
        if self._static is not None:
            self._static.add_rows(seen.static_N8)

    def result(self) -> Scene4D:
        """The fused scene of all frames added."""
        cloud, voxel, dropped = _empty_cloud(), 0.0, 0
        if self._static is not None:
            cloud = self._static.result()
            voxel, dropped = self._static.voxel, self._static.dropped
        ids = sorted(self._centres)
        centres = [self._centres[i] for i in ids]
        return Scene4D(
            cloud,
            *self._moving.result(),
            np.array(ids, np.int32),
            np.stack(centres) if ids else np.zeros((0, len(self._unknown()), 3), np.float32),
            voxel,
            dropped,
        )

    def _unknown(self) -> Floats32:
        return np.full((len(self._clip.registered_F), 3), np.nan, np.float32)

    def _static_points(self, frame: int, view: FrameDepth) -> Cloud:
        """Confident static pixels, and the sparse points that are seen here first."""
        keep_HW = (view.ids_HW == 0) & (view.confidence_HW >= self._settings.confidence)
        keep_HW &= ~steep(view.depth_HW, self._settings.edge_share)
        points_N3, rgbs_N3, index_N = lift(view, keep_HW, self._step)
        new = np.flatnonzero(self._first_N == frame)
        height, width = view.depth_HW.shape
        column, row = np.rint(self._clip.tracks.tracks_FN2[frame, new]).astype(np.intp).T
        colours = view.rgb_HW3[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return Cloud(
            np.concatenate([points_N3, self._clip.sparse.points_N3[new].astype(np.float32)]),
            np.concatenate([rgbs_N3, colours]),
            np.append(view.confidence_HW.ravel()[index_N], np.ones(len(new), np.float32)),
        )

    def _moving_points(self, frame: int, view: FrameDepth) -> tuple[Floats32, Bytes, Ids]:
        moving_HW = view.ids_HW > 0
        step = self._moving.step(int(moving_HW.sum()))
        points_N3, rgbs_N3, index_N = lift(view, moving_HW, step)
        tracked_T3, pixel_T2 = self._tracked(frame, view)
        column, row = np.rint(pixel_T2).astype(np.intp).T
        instance_N = np.append(view.ids_HW.ravel()[index_N], view.ids_HW[row, column])
        return (
            np.concatenate([points_N3, tracked_T3]),
            np.concatenate([rgbs_N3, view.rgb_HW3[row, column]]),
            instance_N.astype(np.int32),
        )

    def _tracked(self, frame: int, view: FrameDepth) -> tuple[Floats32, Floats32]:
        """World points (T,3) and pixels (T,2) of the tracks that lie on their own object."""
        tracks = self._clip.tracks
        if self._objects is None:
            return np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)
        track_T, depth_T = self._objects.points(frame)
        pixel_T2 = tracks.tracks_FN2[frame, track_T]
        column, row = np.rint(pixel_T2).astype(np.intp).T
        height, width = view.ids_HW.shape
        own_T = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        own_T[own_T] = (
            view.ids_HW[row[own_T], column[own_T]] == tracks.instance_id_N[track_T[own_T]]
        )
        points_T3 = dynamic_points.in_world(pixel_T2[own_T], depth_T[own_T], view)
        return points_T3.astype(np.float32), pixel_T2[own_T]


def _first_frames(clip: Clip) -> npt.NDArray[np.intp]:
    """The first registered frame (N) that shows each sparse point; -1 without any."""
    shown_FN = clip.sparse.visible_FN & clip.registered_F[:, None]
    known_N = shown_FN.any(0) & np.isfinite(clip.sparse.points_N3[:, 0])
    return np.where(known_N, shown_FN.argmax(0), -1)


def _nothing() -> tuple[Floats32, Bytes, Ids]:
    return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.int32)


def _empty_cloud() -> Cloud:
    points, rgbs, _ = _nothing()
    return Cloud(points, rgbs, np.zeros(0, np.float32))
