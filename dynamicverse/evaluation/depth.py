"""Video depth against truth: AbsRel and δ < 1.25, after a named alignment.

| protocol | alignment of a video | truth, estimate |
|---|---|---|
| one-scale | one median of d / d̂ | |
| per-frame | a median of d / d̂ a frame | |
| metric | none | |
| uni4d-depth | least-squares scale + shift in disparity | 0–70, ≤ 70 |
| monst3r-depth | least-absolute-deviation scale + shift in depth | 0–70, ≤ 70 |
| cut3r-depth-scale | least-absolute-deviation scale (Weiszfeld) | 0–70, ≤ 70 |
| monst3r-depth-kitti, cut3r-depth-scale-kitti | as above | |

Averages are over the pixels of the video. Pixels without an estimate are left out and counted
in `coverage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Maps = tuple[npt.ArrayLike, npt.ArrayLike]  # estimate (H,W), truth (H,W); 0 is unknown
Align = Callable[[Values, Values], Values]  # estimate (N), truth (N) -> aligned estimate (N)

MAX_DEPTH = 70.0
MIN_DISPARITY = 1e-6
ROUNDS = 60


@dataclass(frozen=True)
class DepthScores:
    """absrel: mean of |d̂ − d| / d; delta: share with max(d̂/d, d/d̂) < 1.25; pixels: compared;
    coverage: share of the true pixels that have an estimate."""

    protocol: str
    absrel: float
    delta: float
    pixels: int
    coverage: float


@dataclass(frozen=True)
class DepthProtocol:
    """How estimates are aligned, and beyond which depth (in the unit of the truth) they are
    not compared."""

    align: Align
    per_frame: bool = False
    max_depth: float = np.inf


def depth_scores(protocol: str, frames: Sequence[Maps]) -> DepthScores:
    """Compare the depth maps of a video; 0 or not finite means unknown.

    Raises ValueError for an unknown protocol, unequal sizes, or nothing to compare.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol '{protocol}' (known: {', '.join(PROTOCOLS)})")
    rule = PROTOCOLS[protocol]
    pairs, wanted = [], 0
    for estimate_HW, truth_HW in frames:
        pair, count = _comparable(np.asarray(estimate_HW), np.asarray(truth_HW), rule.max_depth)
        pairs.append(pair)
        wanted += count
    if not rule.per_frame and pairs:
        pairs = [(np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))]
    pairs = [pair for pair in pairs if len(pair[0])]
    if not pairs:
        raise ValueError("no pixel has both a true and an estimated depth")
    aligned_N = np.concatenate([rule.align(*pair) for pair in pairs])
    aligned_N = np.clip(aligned_N, 1e-6, rule.max_depth)
    truth_N = np.concatenate([pair[1] for pair in pairs])
    ratio_N = aligned_N / truth_N
    return DepthScores(
        protocol,
        float(np.mean(np.abs(ratio_N - 1))),
        float(np.mean(np.maximum(ratio_N, 1 / ratio_N) < 1.25)),
        len(truth_N),
        len(truth_N) / wanted,
    )


def median_scale(estimate_N: Values, truth_N: Values) -> Values:
    """Scaled by the median of truth over estimate."""
    return np.asarray(estimate_N * np.median(truth_N / estimate_N))


def weiszfeld_scale(estimate_N: Values, truth_N: Values) -> Values:
    """The scale s that minimises Σ |s·d̂ − d|.

    What Weiszfeld's iteration converges to: the median of d/d̂ weighted by d̂.
    """
    ratio_N = truth_N / estimate_N
    order = np.argsort(ratio_N, kind="stable")
    weight = np.cumsum(estimate_N[order])
    middle = np.searchsorted(weight, weight[-1] / 2)
    return np.asarray(estimate_N * ratio_N[order[middle]])


def deviation_scale_shift(estimate_N: Values, truth_N: Values) -> Values:
    """The scale and shift in depth that minimise Σ |s·d̂ + t − d|.

    By reweighting, with a smoothing of the absolute value that is taken back to nothing.
    """
    A = np.stack([estimate_N, np.ones_like(estimate_N)], 1)
    fit = _least_squares(A, truth_N, np.ones_like(truth_N))
    for floor in np.geomspace(0.1, 1e-7, ROUNDS) * float(np.median(truth_N)):
        weight_N = 1.0 / np.maximum(np.abs(A @ fit - truth_N), floor)
        fit = _least_squares(A, truth_N, weight_N)
    return np.asarray(A @ fit)


def disparity_scale_shift(estimate_N: Values, truth_N: Values) -> Values:
    """The scale and shift in disparity that minimise Σ (s/d̂ + t − 1/d)²."""
    A = np.stack([1 / estimate_N, np.ones_like(estimate_N)], 1)
    fit = _least_squares(A, 1 / truth_N, np.ones_like(truth_N))
    return np.asarray(1 / np.maximum(A @ fit, MIN_DISPARITY))


def unchanged(estimate_N: Values, truth_N: Values) -> Values:
    """Metric depth is compared as it is."""
    return estimate_N


def _least_squares(A: Values, b: Values, weight: Values) -> Values:
    """Weighted least squares; the least norm where the columns of A are dependent."""
    normal = (A * weight[:, None]).T @ A
    return np.asarray(np.linalg.lstsq(normal, (A * weight[:, None]).T @ b, rcond=None)[0])


def _comparable(
    estimate_HW: npt.NDArray[np.generic], truth_HW: npt.NDArray[np.generic], max_depth: float
) -> tuple[tuple[Values, Values], int]:
    if estimate_HW.shape != truth_HW.shape:
        raise ValueError(f"depth maps of {estimate_HW.shape} and {truth_HW.shape} pixels")
    estimate, truth = estimate_HW.astype(np.float64), truth_HW.astype(np.float64)
    known = np.isfinite(truth) & (truth > 0) & (truth < max_depth)
    both = known & np.isfinite(estimate) & (estimate > 0)
    return (estimate[both], truth[both]), int(known.sum())


PROTOCOLS: Mapping[str, DepthProtocol] = MappingProxyType(
    {
        "one-scale": DepthProtocol(median_scale),
        "per-frame": DepthProtocol(median_scale, per_frame=True),
        "metric": DepthProtocol(unchanged),
        "uni4d-depth": DepthProtocol(disparity_scale_shift, max_depth=MAX_DEPTH),
        "monst3r-depth": DepthProtocol(deviation_scale_shift, max_depth=MAX_DEPTH),
        "monst3r-depth-kitti": DepthProtocol(deviation_scale_shift),
        "cut3r-depth-scale": DepthProtocol(weiszfeld_scale, max_depth=MAX_DEPTH),
        "cut3r-depth-scale-kitti": DepthProtocol(weiszfeld_scale),
    }
)
