"""Semi-global matching over a cost volume (NumPy, whole scan lines at a time, in 8 bits).

Hirschmüller, "Stereo processing by semiglobal matching and mutual information", PAMI 2008:
eight directions, penalties P1 for a step of one hypothesis and P2 for larger ones, P2 lower
where the picture has an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.uint16]
Costs = npt.NDArray[np.int16]
Floats32 = npt.NDArray[np.float32]

COST_RANGE = 170  # of one cell; with the largest penalty it stays in 8 bits
DIRECTIONS = 8
EDGE = 12.0  # grey levels at which P2 is halved


@dataclass(frozen=True)
class Winner:
    """The best hypothesis a pixel.

    position_HW: sub-hypothesis index; nearest_HW: its integer part after rounding.
    distinct_HW: 0..1, how much worse the next separate minimum is.
    """

    position_HW: Floats32
    nearest_HW: npt.NDArray[np.intp]
    distinct_HW: Floats32


def aggregate(cost_DHW: Bytes, guide_HW: Floats32, p1: int, p2: int) -> Costs:
    """Sum of the path costs of eight directions, (H,W,D).

    cost_DHW: 0..COST_RANGE. guide_HW: grey levels 0..255 whose edges allow jumps. p1 < p2 <= 85:
    costs of paths, and sums of three of them, stay in 8 bits.
    """
    count, height, width = cost_DHW.shape
    rows_HDW = np.ascontiguousarray(cost_DHW.swapaxes(0, 1))
    columns_WDH = _transposed(cost_DHW.reshape(-1, width)).reshape(width, count, height)
    total_HDW = rows_HDW.astype(np.uint16) * np.uint16(DIRECTIONS)
    across_WDH = np.zeros_like(columns_WDH)
    _vertical(rows_HDW, _large_penalties(guide_HW, p1, p2), np.uint8(p1), total_HDW)
    _horizontal(columns_WDH, _large_penalties(guide_HW.T, p1, p2), np.uint8(p1), across_WDH)
    across_DHW = _transposed(across_WDH.reshape(width, -1)).reshape(count, height, width)
    total_HDW += across_DHW.swapaxes(0, 1)
    return np.ascontiguousarray(total_HDW.swapaxes(1, 2).view(np.int16))


def winner(total_HWD: Costs) -> Winner:
    """The hypothesis of least cost, with a parabola through its neighbours."""
    count = total_HWD.shape[2]
    best_HW = total_HWD.argmin(2)
    inner_HW = np.clip(best_HW, 1, count - 2)
    left, centre, right = (
        np.take_along_axis(total_HWD, (inner_HW + step)[..., None], 2)[..., 0].astype(np.float32)
        for step in (-1, 0, 1)
    )
    curvature = left - 2 * centre + right
    offset = np.where(curvature > 0, 0.5 * (left - right) / np.maximum(curvature, 1), 0)
    offset = np.where(best_HW == inner_HW, np.clip(offset, -0.5, 0.5), 0)
    least_HW = np.take_along_axis(total_HWD, best_HW[..., None], 2)[..., 0]
    distinct = _margin(total_HWD, best_HW, least_HW)
    return Winner((best_HW + offset).astype(np.float32), best_HW, distinct)


def _margin(total_HWD: Costs, best_HW: npt.NDArray[np.intp], least_HW: Costs) -> Floats32:
    """(second − first) / second over minima that are at least two hypotheses apart."""
    count = total_HWD.shape[2]
    others = total_HWD.copy()
    for step in (-1, 0, 1):
        index = np.clip(best_HW + step, 0, count - 1)[..., None]
        np.put_along_axis(others, index, np.iinfo(np.int16).max, 2)
    second = others.min(2).astype(np.float32)
    return np.asarray((second - least_HW) / np.maximum(second, 1), np.float32)


def _transposed(values: Bytes) -> Bytes:
    """A matrix whose rows were columns, in memory too."""
    return np.asarray(cv2.transpose(values), np.uint8)


def _vertical(cost_HDW: Bytes, large_HW: Bytes, p1: np.uint8, total_HDW: Sums) -> None:
    """Straight down and up and the four diagonals, one row at a time from both ends.

    Adds what paths cost besides the pixels themselves. What a path of a diagonal costs is kept
    where it goes on: the borders stay zero, so that a path that enters starts at zero.
    """
    height, count, width = cost_HDW.shape
    state = np.zeros((2, 3, count, width + 2), np.uint8)
    raised = np.empty_like(state)
    large = np.zeros((2, 1, 1, width + 2), np.uint8)
    for row in range(height):
        ends = row, height - 1 - row
        if row:
            large[0, 0, 0, 1:-1], large[1, 0, 0, 1:-1] = large_HW[row], large_HW[height - row]
        _go_on(state, raised, large, p1)
        for paths, end in zip(state, ends, strict=True):
            down, right, left = paths[:, :, 1:-1]
            total_HDW[end] += down + right + left
            cost = cost_HDW[end]
            down += cost
            np.add(right, cost, out=paths[1, :, 2:])
            np.add(left, cost, out=paths[2, :, :-2])


def _horizontal(cost_WDH: Bytes, large_WH: Bytes, p1: np.uint8, sum_WDH: Bytes) -> None:
    """To the right and left, one column at a time from both ends."""
    width, count, height = cost_WDH.shape
    state = np.zeros((2, 1, count, height), np.uint8)
    raised = np.empty_like(state)
    large = np.zeros((2, 1, 1, height), np.uint8)
    for column in range(width):
        ends = column, width - 1 - column
        if column:
            large[0], large[1] = large_WH[column], large_WH[width - column]
        _go_on(state, raised, large, p1)
        for (path,), end in zip(state, ends, strict=True):
            sum_WDH[end] += path
            path += cost_WDH[end]


def _large_penalties(guide: Floats32, p1: int, p2: int) -> Bytes:
    """P2 between each line and the one before; of the first line nothing is used."""
    scaled = p2 / (1 + np.abs(np.diff(guide, axis=0, prepend=guide[:1])) / EDGE)
    return np.maximum(scaled, p1 + 1).astype(np.uint8)


def _go_on(state: Bytes, raised: Bytes, large: Bytes, p1: np.uint8) -> None:
    """From path costs (..., D, n) to what they add to the next pixels, in place.

    raised: memory to work in.
    """
    state -= state.min(2, keepdims=True)
    np.minimum(state, large, out=state)
    np.add(state, p1, out=raised)
    np.minimum(state[:, :, 1:], raised[:, :, :-1], out=state[:, :, 1:])
    np.minimum(state[:, :, :-1], raised[:, :, 1:], out=state[:, :, :-1])
