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

BLOCK_SIZE = 1 << 15  # slots (points × window) a block at most: its planes stay in the caches
WASTE = 4000  # empty slots that cost as much as one more block


@dataclass(frozen=True)
class Observations:
    """A list of pixels: camera `frame_M` sees point `point_M` at `xy_M2`.

    xy_M2: px relative to the principal point. weight_M: inverse variance in 1/px².
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
    """P points seen from cameras `first` … `first + W - 1`.

    order_P: their indices; anchor_P: the first camera that sees the point.
    index_K, slot_K: which observations fill which slots of (P, W).
    """

    order_P: Tensor
    anchor_P: Tensor
    first: int
    xy_2PW: Tensor
    weight_PW: Tensor
    index_K: Tensor
    slot_K: Tensor

    @property
    def window(self) -> int:
        return int(self.weight_PW.shape[1])


def blocks(observations: Observations, device: torch.device, size: int = BLOCK_SIZE) -> list[Block]:
    """Group points with similar windows of cameras, so that the dense blocks are well filled."""
    if not len(observations):
        return []
    count = int(observations.point_M.max()) + 1
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, -1)
    np.minimum.at(first, observations.point_M, observations.frame_M)
    np.maximum.at(last, observations.point_M, observations.frame_M)
    seen = np.flatnonzero(last >= 0)
    order = seen[np.lexsort((last[seen], first[seen]))]
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(len(order))
    by_rank = np.argsort(rank[observations.point_M], kind="stable")
    ranks = rank[observations.point_M][by_rank]
    result = []
    for start, stop in _runs(first[order], last[order], size):
        low, high = np.searchsorted(ranks, (start, stop))
        chosen = by_rank[low:high]
        begin = int(first[order[start:stop]].min())
        window = int(last[order[start:stop]].max()) + 1 - begin
        slot = (ranks[low:high] - start) * window + observations.frame_M[chosen] - begin
        xy = np.zeros((2, (stop - start) * window))
        xy[:, slot] = observations.xy_M2[chosen].T
        weight = np.zeros((stop - start) * window)
        weight[slot] = observations.weight_M[chosen]
        result.append(
            Block(
                torch.from_numpy(order[start:stop]).to(device),
                torch.from_numpy(first[order[start:stop]]).to(device),
                begin,
                torch.from_numpy(xy).reshape(2, -1, window).to(device),
                torch.from_numpy(weight).reshape(-1, window).to(device),
                torch.from_numpy(chosen),
                torch.from_numpy(slot),
            )
        )
    return result


def _runs(first: Indices, last: Indices, size: int) -> Iterator[tuple[int, int]]:
    """Split points (sorted by first camera) into runs of at most `size` slots, well filled.

    The slots of points outside their own windows cost as much as full ones; a run ends when
    they would cost more than the overhead of a new block.
    """
    start = 0
    while start < len(first):
        ahead = slice(start, start + size)
        windows = np.maximum.accumulate(last[ahead]) + 1 - first[start]
        slots = np.arange(1, len(windows) + 1) * windows
        wasted = slots - np.cumsum(last[ahead] - first[ahead] + 1)
        fits = (slots <= size) & (wasted * (1 + windows / 16) <= WASTE + slots / 4)
        stop = start + (len(fits) if fits.all() else max(1, int(np.argmin(fits))))
        yield start, stop
        start = stop
