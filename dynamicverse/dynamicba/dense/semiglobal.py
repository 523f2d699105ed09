"""Semi-global matching over a cost volume (NumPy, whole scan lines at a time).

Hirschmüller, "Stereo processing by semiglobal matching and mutual information", PAMI 2008:
eight directions, penalties P1 for a step of one hypothesis and P2 for larger ones, P2 lower
where the picture has an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.int16]
Floats32 = npt.NDArray[np.float32]

COST_RANGE = 255  # of one cell; 8 directions of it plus penalties stay far below 2^15
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


def aggregate(cost_HWD: Costs, guide_HW: Floats32, p1: int, p2: int) -> Costs:
    """Sum of the path costs of eight directions, (H,W,D).

    cost_HWD: 0..COST_RANGE. guide_HW: grey levels 0..255 whose edges allow jumps.
    """
    total_HWD = np.zeros_like(cost_HWD)
    for backwards in (False, True):
        _vertical(cost_HWD, guide_HW, p1, p2, total_HWD, backwards)
        _horizontal(cost_HWD, guide_HW, p1, p2, total_HWD, backwards)
    return total_HWD


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


def _vertical(
    cost_HWD: Costs, guide_HW: Floats32, p1: int, p2: int, total_HWD: Costs, backwards: bool
) -> None:
    """Straight down (or up) and the two diagonals, one row at a time."""
    height, width, count = cost_HWD.shape
    rows = range(height - 1, -1, -1) if backwards else range(height)
    state = np.zeros((3, width, count), np.int16)
    moved = np.zeros_like(state)
    previous = rows[0]
    for row in rows:
        moved[0] = state[0]
        moved[1, 1:] = state[1, :-1]  # from the left; a path that enters starts at zero
        moved[2, :-1] = state[2, 1:]
        moved[1, 0] = moved[2, -1] = 0
        large = _large_penalty(guide_HW[row] - guide_HW[previous], p1, p2)
        state = _step(moved, cost_HWD[row], large[None], p1)
        total_HWD[row] += state.sum(0, dtype=np.int16)
        previous = row


def _horizontal(
    cost_HWD: Costs, guide_HW: Floats32, p1: int, p2: int, total_HWD: Costs, backwards: bool
) -> None:
    """To the right (or left), one column at a time."""
    height, width, count = cost_HWD.shape
    columns = range(width - 1, -1, -1) if backwards else range(width)
    state = np.zeros((height, count), np.int16)
    previous = columns[0]
    for column in columns:
        large = _large_penalty(guide_HW[:, column] - guide_HW[:, previous], p1, p2)
        state = _step(state, cost_HWD[:, column], large, p1)
        total_HWD[:, column] += state
        previous = column


def _large_penalty(difference: Floats32, p1: int, p2: int) -> Costs:
    scaled = p2 / (1 + np.abs(difference) / EDGE)
    return np.maximum(scaled, p1 + 1).astype(np.int16)


def _step(state: Costs, cost: Costs, large: Costs, p1: int) -> Costs:
    """One step along a path: (..., D) path costs to the next pixel, which costs `cost`."""
    least = state.min(-1)[..., None]
    relative = state - least
    best = np.minimum(relative, large[..., None])
    np.minimum(best[..., 1:], relative[..., :-1] + np.int16(p1), out=best[..., 1:])
    np.minimum(best[..., :-1], relative[..., 1:] + np.int16(p1), out=best[..., :-1])
    best += cost
    return np.asarray(best, np.int16)
