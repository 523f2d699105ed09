"""One static cloud and a moving cloud a frame, out of depth maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.cameras.picture_lens import straight_rays

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

BUFFER = 1_500_000  # points collected before duplicates are merged
DEVICE_BUFFER = 12_000_000  # the same in the memory of a GPU, 32 bytes each
KEY_BITS = 21  # of a voxel coordinate
COARSER = 2 ** (1 / 3)  # voxels grow so when there are too many: about half as many
COLUMNS = 8  # weight, weighted position (3), weighted colour (3), largest confidence


@dataclass(frozen=True)
class Cloud:
    """points_N3 in the world, rgbs_N3, confidence_N in 0..1."""

    points_N3: Floats32
    rgbs_N3: Bytes
    confidence_N: Floats32


@dataclass(frozen=True)
class FrameDepth:
    """A frame with its depth (0 = unknown), at full size. distortion: k1 of `lens.py`."""

    rgb_HW3: Bytes
    depth_HW: Floats32
    confidence_HW: Floats32
    ids_HW: Bytes
    K: Floats
    c2w: Floats
    distortion: float = 0.0


def steep(depth_HW: Floats32, share: float) -> Mask:
    """The `share` of the known pixels with the largest relative step to a known neighbour."""
    known_HW = depth_HW > 0
    log_HW = np.log(depth_HW, out=np.zeros_like(depth_HW), where=known_HW)
    slope_HW = np.zeros_like(depth_HW)
    for axis in (0, 1):
        ahead = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        behind = (slice(-1), slice(None)) if axis == 0 else (slice(None), slice(-1))
        step = np.abs(log_HW[ahead] - log_HW[behind]) * (known_HW[ahead] & known_HW[behind])
        slope_HW[ahead] = np.maximum(slope_HW[ahead], step)
        slope_HW[behind] = np.maximum(slope_HW[behind], step)
    if not known_HW.any():
        return np.zeros(depth_HW.shape, bool)
    limit = np.quantile(slope_HW[known_HW], 1 - share)
    return np.asarray(known_HW & (slope_HW > limit))


def lift(
    frame: FrameDepth, keep_HW: Mask, step: int
) -> tuple[Floats32, Bytes, npt.NDArray[np.intp]]:
    """World points, colours and flat pixel indices of every `step`-th kept pixel with depth."""
    first = step // 2
    grid = slice(first, None, step), slice(first, None, step)
    row, column = np.nonzero(keep_HW[grid] & (frame.depth_HW[grid] > 0))
    row, column = first + step * row, first + step * column
    index = row * frame.depth_HW.shape[1] + column
    ray_N3 = straight_rays(np.stack([column, row], 1), frame.K, frame.distortion)
    camera_N3 = ray_N3 * frame.depth_HW.ravel()[index, None]
    points_N3 = camera_N3 @ frame.c2w[:3, :3].T + frame.c2w[:3, 3]
    return points_N3.astype(np.float32), frame.rgb_HW3.reshape(-1, 3)[index], index


class StaticCloud:
    """Points of many frames, duplicates merged by voxel, weighted by confidence.

    voxel: side in world units. max_points: above it the voxels grow. device: where points are
    merged. Memory stays bounded by max_points and a buffer. Points farther than a million voxels
    are counted in `dropped`.
    """

    def __init__(self, voxel: float, max_points: int, device: str = "cpu") -> None:
        self.voxel = voxel
        self.dropped = 0
        self._max_points, self._device = max_points, device
        self._buffer = BUFFER if device == "cpu" else DEVICE_BUFFER
        self._parts: list[Tensor] = []  # the first holds what is merged
        self._waiting = 0

    def add(self, cloud: Cloud) -> None:
        """Add points; those without confidence are ignored."""
        self.add_rows(weighted_rows(cloud))

    def add_rows(self, rows_N8: Floats32) -> None:
        """Add points as `weighted_rows` gives them."""
        # torch takes seconds to import: only when there is work
        import torch

        self._parts.append(torch.from_numpy(rows_N8).to(self._device))
        self._waiting += len(rows_N8)
        if self._waiting >= self._buffer:
            self._merge()

    def result(self) -> Cloud:
        """The merged cloud, ordered by voxel."""
        self._merge()
        if not self._parts:
            return Cloud(*_no_points())
        merged_V8 = self._parts[0].cpu().numpy()
        mean_V6 = merged_V8[:, 1:7] / merged_V8[:, :1]
        rgbs_V3 = np.clip(np.rint(mean_V6[:, 3:]), 0, 255).astype(np.uint8)
        confidence_V = np.minimum(merged_V8[:, 7], np.float32(1))
        return Cloud(np.ascontiguousarray(mean_V6[:, :3], np.float32), rgbs_V3, confidence_V)

    def _merge(self) -> None:
        import torch

        if not self._waiting:
            return
        rows_N8 = torch.cat(self._parts)
        reach_N1 = self.voxel * 2 ** (KEY_BITS - 1) * rows_N8[:, :1]
        near_N = (rows_N8[:, 1:4].abs() < reach_N1).all(1)
        self.dropped += int((~near_N).sum())
        merged_V8 = _merge_rows(rows_N8[near_N], self.voxel)
        while len(merged_V8) > self._max_points:
            self.voxel *= COARSER
            merged_V8 = _merge_rows(merged_V8, self.voxel)
        self._parts, self._waiting = [merged_V8], 0


def _no_points() -> tuple[Floats32, Bytes, Floats32]:
    return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32)


def weighted_rows(cloud: Cloud) -> Floats32:
    """The points of a cloud that have confidence, as rows that can be summed (COLUMNS)."""
    used_N = cloud.confidence_N > 0
    weight_N1 = cloud.confidence_N[used_N, None].astype(np.float32)
    sums = [weight_N1, cloud.points_N3[used_N] * weight_N1, cloud.rgbs_N3[used_N] * weight_N1]
    return np.concatenate([*sums, weight_N1], 1, dtype=np.float32)


def _merge_rows(rows_N8: Tensor, voxel: float) -> Tensor:
    """Sum the rows that fall into one voxel; ordered by voxel, the same at every call."""
    import torch

    if not len(rows_N8):
        return rows_N8
    position_N3 = rows_N8[:, 1:4] / rows_N8[:, :1]
    cell_N3 = torch.floor(position_N3 / voxel).long() + 2 ** (KEY_BITS - 1)
    key_N = (cell_N3[:, 0] << 2 * KEY_BITS) | (cell_N3[:, 1] << KEY_BITS) | cell_N3[:, 2]
    key_N, order_N = torch.sort(key_N, stable=True)
    rows_N8 = rows_N8[order_N]
    _, count_V = torch.unique_consecutive(key_N, return_counts=True)
    # a sum a segment, in the order of its rows: atomic additions would depend on timing
    merged_V8 = torch.segment_reduce(rows_N8, "sum", lengths=count_V, axis=0)
    largest_V = torch.segment_reduce(rows_N8[:, 7].contiguous(), "max", lengths=count_V, axis=0)
    merged_V8[:, 7] = largest_V
    return merged_V8


class MovingClouds:
    """The clouds of moving objects, frame after frame.

    max_points: of all `frame_count` frames; each frame has the same share of it.
    """

    def __init__(self, frame_count: int, max_points: int) -> None:
        self._share = max(1, max_points // frame_count)
        self._points: list[Floats32] = []
        self._rgbs: list[Bytes] = []
        self._instances: list[npt.NDArray[np.int32]] = []
        self.counts: list[int] = []

    def step(self, pixels: int) -> int:
        """Every how many pixels to take a point of objects that cover `pixels`."""
        return max(2, int(np.ceil(np.sqrt(pixels / self._share))))

    def add(self, points_N3: Floats32, rgbs_N3: Bytes, instance_N: npt.NDArray[np.int32]) -> None:
        """Add the next frame; what exceeds its share is thinned out evenly."""
        if len(points_N3) > self._share:
            kept = np.linspace(0, len(points_N3) - 1, self._share).astype(np.intp)
            points_N3, rgbs_N3, instance_N = points_N3[kept], rgbs_N3[kept], instance_N[kept]
        self._points.append(points_N3)
        self._rgbs.append(rgbs_N3)
        self._instances.append(instance_N)
        self.counts.append(len(points_N3))

    def result(self) -> tuple[Floats32, Bytes, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Points, colours, instances, and offsets (F+1): frame f owns offsets[f]…offsets[f+1]."""
        offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        points = np.concatenate([np.zeros((0, 3), np.float32), *self._points])
        rgbs = np.concatenate([np.zeros((0, 3), np.uint8), *self._rgbs])
        instances = np.concatenate([np.zeros(0, np.int32), *self._instances])
        return points, rgbs, instances, offsets
