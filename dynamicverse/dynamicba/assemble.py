"""The 4D scene: depth maps and sparse points of all frames fused, frame after frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.config import FuseConfig
from dynamicverse.dynamicba import dynamic_points
from dynamicverse.dynamicba.depth_sources import Clip
from dynamicverse.dynamicba.dynamic_points import DynamicPoints
from dynamicverse.dynamicba.fuse import Cloud, FrameDepth, MovingClouds, StaticCloud, lift, steep
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


class Assembler:
    """Takes the frames of a clip in order and gives the fused scene.

    moving: what is known of the points of moving objects; None where there is no depth.
    """

    def __init__(
        self, clip: Clip, settings: FuseConfig, moving: DynamicPoints | None = None
    ) -> None:
        self._clip, self._settings, self._objects = clip, settings, moving
        width, height = clip.tracks.size
        self._step = max(1, round((width * height / PIXELS_PER_FRAME) ** 0.5))
        self._typical = clip.median_depth()
        self._static: StaticCloud | None = None
        self._moving = MovingClouds(len(clip.registered_F), settings.max_moving_points)
        self._centres: dict[int, Floats32] = {}
        self._coloured_N = ~np.isfinite(clip.sparse.points_N3[:, 0])

    def add(
        self,
        frame: int,
        rgb_HW3: Bytes,
        ids_HW: Bytes,
        depth: tuple[Floats32, Floats32] | None,
    ) -> None:
        """Add the next frame; `depth` (with confidence) is None where there is none."""
        for instance in present(ids_HW):
            self._centres.setdefault(instance, self._unknown())
        if not self._clip.registered_F[frame] or depth is None:
            self._moving.add(*_nothing())
            return
        clip = self._clip
        view = FrameDepth(
            rgb_HW3, *depth, ids_HW, clip.K_F33[frame], clip.c2w_F44[frame], clip.distortion
        )
        self._add_static(frame, view)
        self._add_moving(frame, view)
        for instance in present(ids_HW):
            centre = dynamic_points.centre(instance, view)
            if centre is not None:
                self._centres[instance][frame] = centre

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

    def _add_static(self, frame: int, view: FrameDepth) -> None:
        keep_HW = (view.ids_HW == 0) & (view.confidence_HW >= self._settings.confidence)
        keep_HW &= ~steep(view.depth_HW, self._settings.edge_share)
        points_N3, rgbs_N3, index_N = lift(view, keep_HW, self._step)
        cloud = self._cloud(view)
        if cloud is not None:
            cloud.add(points_N3, rgbs_N3, view.confidence_HW.ravel()[index_N])
            self._add_sparse(frame, view, cloud)

    def _cloud(self, view: FrameDepth) -> StaticCloud | None:
        """The static cloud, its voxels as large as the distance of neighbouring samples."""
        if self._static is None:
            typical = self._typical
            if typical is None and (view.depth_HW > 0).any():
                typical = float(np.median(view.depth_HW[view.depth_HW > 0]))
            if typical is not None:
                voxel = self._step * typical / float(view.K[0, 0])
                self._static = StaticCloud(voxel, self._settings.max_points)
        return self._static

    def _add_sparse(self, frame: int, view: FrameDepth, cloud: StaticCloud) -> None:
        """Add the sparse points seen here for the first time, in the colour they have here."""
        seen = self._clip.sparse.seen(frame)
        new = seen[~self._coloured_N[seen]]
        self._coloured_N[new] = True
        height, width = view.depth_HW.shape
        column, row = np.rint(self._clip.tracks.tracks_FN2[frame, new]).astype(np.intp).T
        rgbs = view.rgb_HW3[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        points = self._clip.sparse.points_N3[new].astype(np.float32)
        cloud.add(points, rgbs, np.ones(len(new), np.float32))

    def _add_moving(self, frame: int, view: FrameDepth) -> None:
        moving_HW = view.ids_HW > 0
        step = self._moving.step(int(moving_HW.sum()))
        points_N3, rgbs_N3, index_N = lift(view, moving_HW, step)
        tracked_T3, pixel_T2 = self._tracked(frame, view)
        column, row = np.rint(pixel_T2).astype(np.intp).T
        self._moving.add(
            np.concatenate([points_N3, tracked_T3]),
            np.concatenate([rgbs_N3, view.rgb_HW3[row, column]]),
            np.concatenate([view.ids_HW.ravel()[index_N], view.ids_HW[row, column]]).astype(
                np.int32
            ),
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


def _nothing() -> tuple[Floats32, Bytes, Ids]:
    return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.int32)


def _empty_cloud() -> Cloud:
    points, rgbs, _ = _nothing()
    return Cloud(points, rgbs, np.zeros(0, np.float32))
