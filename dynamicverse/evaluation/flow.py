"""Optical flow against truth: end-point error, and KITTI's share of outliers.

Menze and Geiger, "Object scene flow for autonomous vehicles", CVPR 2015: Fl is the share of
pixels whose error is more than 3 px and more than 5 % of the true flow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Fields = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]  # estimate, truth, compare where

PROTOCOL = "kitti-flow"
OUTLIER_PX, OUTLIER_SHARE = 3.0, 0.05


@dataclass(frozen=True)
class FlowScores:
    """epe_px: mean end-point error; fl: share of outliers; over all pixels of all pairs."""

    protocol: str
    epe_px: float
    fl: float
    pixels: int
    pairs: int


def flow_scores(fields: Iterable[Fields]) -> FlowScores:
    """Compare flow (H,W,2) in px where the truth is valid (H,W), one pair of frames at a time.

    Raises ValueError for unequal sizes or nothing to compare.
    """
    total, outliers, pixels, pairs = 0.0, 0, 0, 0
    for estimate_HW2, truth_HW2, valid_HW in fields:
        estimate, truth = (np.asarray(f, np.float64) for f in (estimate_HW2, truth_HW2))
        if estimate.shape != truth.shape:
            raise ValueError(f"flow of {estimate.shape[:2]} and {truth.shape[:2]} pixels")
        valid = np.asarray(valid_HW, np.bool_)
        error = np.linalg.norm(estimate - truth, axis=2)[valid]
        length = np.linalg.norm(truth, axis=2)[valid]
        total += float(error.sum())
        outliers += int(((error > OUTLIER_PX) & (error > OUTLIER_SHARE * length)).sum())
        pixels += error.size
        pairs += 1
    if not pixels:
        raise ValueError("no pixel has a true flow")
    return FlowScores(PROTOCOL, total / pixels, outliers / pixels, pixels, pairs)
