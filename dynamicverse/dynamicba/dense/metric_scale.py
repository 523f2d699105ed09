"""The unit of a reconstruction from a depth prior in metres (NumPy).

One number a clip: the median over frames of the median ratio of prior depth to the depth of the
static points that a frame shows. Frames, not points, are what errs independently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.dense.views import SparsePoints

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

FRAMES = 32  # that are looked at, at most
LEAST_POINTS = 8  # of a frame
NORMAL = 1.4826  # standard deviation of a normal distribution over its median deviation


@dataclass(frozen=True)
class PriorScale:
    """metres: of one unit of length. spread: robust standard deviation of its log over frames."""

    metres: float
    spread: float


def prior_scale(
    sparse: SparsePoints,
    tracks_FN2: Floats32,
    c2w_F44: Floats,
    registered_F: npt.NDArray[np.bool_],
    read: Callable[[int], Floats32],
) -> PriorScale | None:
    """What the prior says of the unit; None where no frame shows enough points of known depth.

    tracks_FN2: px. read: the prior depth (H,W) of a frame in metres, 0 where unknown.
    """
    registered = np.flatnonzero(registered_F)
    chosen = np.linspace(0, len(registered) - 1, min(FRAMES, len(registered)))
    logs = []
    for frame in registered[chosen.round().astype(np.intp)]:
        index = sparse.seen(int(frame))
        offset_N3 = sparse.points_N3[index] - c2w_F44[frame, :3, 3]
        ratio_N = _ratios(tracks_FN2[frame, index], offset_N3 @ c2w_F44[frame, :3, 2], read(frame))
        if len(ratio_N) >= LEAST_POINTS:
            logs.append(float(np.median(np.log(ratio_N))))
    if not logs:
        return None
    middle = float(np.median(logs))
    spread = NORMAL * float(np.median(np.abs(np.array(logs) - middle)))
    return PriorScale(float(np.exp(middle)), spread)


def _ratios(pixels_N2: Floats32, depth_N: Floats, prior_HW: Floats32) -> Floats:
    """Prior over reconstructed depth where both are known."""
    height, width = prior_HW.shape
    column, row = np.rint(pixels_N2).astype(np.intp).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth_N > 0)
    prior_N = prior_HW[row[inside], column[inside]].astype(np.float64)
    known = prior_N > 0
    return np.asarray(prior_N[known] / depth_N[inside][known])
