"""Observations of points by cameras, and their layout as dense blocks for the solver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """How large blocks are.

    size: slots (points × window) a block at most. waste: empty slots that cost as much as one
    more block.
    """

    size: int
    waste: int


CPU_SHAPE = Shape(1 << 15, 4000)  # the planes of a block stay in the caches
CUDA_SHAPE = Shape(1 << 21, 1 << 21)  # few large kernels: launching one takes longer than it runs


@dataclass(frozen=True)
class Observations:
    """A list of pixels: camera `frame_M` sees point `point_M` at `xy_M2`.

    xy_M2: px relative to the nominal principal point. weight_M: inverse variance in 1/px².
    """

    frame_M: Indices
    point_M: Indices
    xy_M2: Floats
    weight_M: Floats

    def __len__(self) -> int:
        return len(self.frame_M)

    def select(self, keep_M: npt.NDArray[np.generic]) -> Observations:
        """The observations that a mask or an index array keeps."""
        return Observations(
            self.frame_M[keep_M], self.point_M[keep_M], self.xy_M2[keep_M], self.weight_M[keep_M]
        )


@dataclass(frozen=True)
class Block:
    """P points seen from cameras `first` … `first + W - 1`; absent observations weigh nothing.

    order_P: their indices; anchor_P: the first camera that sees the point.
    """

    order_P: Tensor
    anchor_P: Tensor
    first: int
    xy_2PW: Tensor
    weight_PW: Tensor

    @property
    def window(self) -> int:
        return int(self.weight_PW.shape[1])


@dataclass(frozen=True)
class Layout:
    """All blocks. slot_M: where each observation is, counted through the blocks in order.

    observed: number of points with observations.
    """

    blocks: list[Block]
    slot_M: Tensor
    observed: int

    @property
    def widest(self) -> int:
        """The largest window; 0 without blocks."""
        return max((block.window for block in self.blocks), default=0)


def arrange(observations: Observations, device: torch.device, shape: Shape | None = None) -> Layout:
    """Group points with similar windows of cameras, so that the dense blocks are well filled."""
    if not len(observations):
        return Layout([], torch.zeros(0, dtype=torch.int64, device=device), 0)
    shape = shape or (CPU_SHAPE if device.type == "cpu" else CUDA_SHAPE)
    first, last = _windows(observations)
    seen = np.flatnonzero(last >= 0)
    order = seen[np.lexsort((last[seen], first[seen]))]
    runs, base_N, total = [], np.zeros(len(first), np.int64), 0
    window_N = np.zeros(len(first), np.int64)
    for start, stop in _runs(first[order], last[order], shape):
        points = order[start:stop]
        begin = int(first[points].min())
        window = int(last[points].max()) + 1 - begin
        base_N[points] = total + np.arange(stop - start) * window - begin
        window_N[points] = window
        runs.append((start, stop, begin, window, total))
        total += (stop - start) * window
    slot_M = torch.from_numpy(base_N[observations.point_M] + observations.frame_M).to(device)
    filled_3S = torch.zeros((3, total), dtype=torch.float64, device=device)
    xy_M2 = torch.from_numpy(np.ascontiguousarray(observations.xy_M2)).to(device)
    for plane, values in enumerate((*xy_M2.unbind(1), observations.weight_M)):
        filled_3S[plane, slot_M] = torch.as_tensor(values, dtype=torch.float64, device=device)
    order_N = torch.from_numpy(order).to(device)
    anchor_N = torch.from_numpy(first[order]).to(device)
    found = []
    for start, stop, begin, window, offset in runs:
        planes = filled_3S[:, offset : offset + (stop - start) * window].view(3, -1, window)
        found.append(Block(order_N[start:stop], anchor_N[start:stop], begin, planes[:2], planes[2]))
    return Layout(found, slot_M, len(order))


def _windows(observations: Observations) -> tuple[Indices, Indices]:
    """First and last camera of every point (N,); the last is -1 where there is none."""
    count = int(observations.point_M.max()) + 1
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, -1)
    np.minimum.at(first, observations.point_M, observations.frame_M)
    np.maximum.at(last, observations.point_M, observations.frame_M)
    return first, last


def _runs(first: Indices, last: Indices, shape: Shape) -> Iterator[tuple[int, int]]:
    """Split points (sorted by first camera) into runs of at most `size` slots, well filled.

    The slots of points outside their own windows cost as much as full ones; a run ends when
    they would cost more than the overhead of a new block.
    """
    start = 0
    while start < len(first):
        ahead = slice(start, start + shape.size)
        windows = np.maximum.accumulate(last[ahead]) + 1 - first[start]
        slots = np.arange(1, len(windows) + 1) * windows
        wasted = slots - np.cumsum(last[ahead] - first[ahead] + 1)
        fits = (slots <= shape.size) & (wasted * (1 + windows / 16) <= shape.waste + slots / 4)
        stop = start + (len(fits) if fits.all() else max(1, int(np.argmin(fits))))
        yield start, stop
        start = stop
