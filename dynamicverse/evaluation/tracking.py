"""Point tracks against truth: TAP-Vid.

Doersch et al., "TAP-Vid: a benchmark for tracking any point in a video", NeurIPS 2022. Positions
are compared in frames resized to 256×256. `first`: a point is queried where it is first seen and
compared in later frames; `strided`: queried anywhere and compared in all other frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

PROTOCOLS = ("first", "strided")
SIDE = 256
THRESHOLDS = (1, 2, 4, 8, 16)  # px at 256×256


@dataclass(frozen=True)
class TrackScores:
    """delta_avg: share of the visible true points within a threshold, mean over thresholds;
    average_jaccard: the same joint with visibility; occlusion_accuracy: visibility alone."""

    protocol: str
    delta_avg: float
    average_jaccard: float
    occlusion_accuracy: float
    tracks: int


def track_scores(
    protocol: str,
    estimate_FN2: npt.ArrayLike,
    estimate_visible_FN: npt.ArrayLike,
    truth_FN2: npt.ArrayLike,
    truth_visible_FN: npt.ArrayLike,
    query_frame_N: npt.ArrayLike,
    size: tuple[int, int],
) -> TrackScores:
    """Compare tracks of the same queries, px of frames of `size` (width, height).

    An estimate that is not finite is far from everything. Raises ValueError for an unknown
    protocol, unequal shapes, or nothing to compare.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol '{protocol}' (known: {', '.join(PROTOCOLS)})")
    seen, visible = np.asarray(estimate_visible_FN), np.asarray(truth_visible_FN)
    scale = SIDE / np.array(size, np.float64)
    estimate, truth = (np.asarray(t, np.float64) for t in (estimate_FN2, truth_FN2))
    if estimate.shape != truth.shape or not seen.shape == visible.shape == truth.shape[:2]:
        raise ValueError(f"tracks of {estimate.shape[:2]} and {truth.shape[:2]} frames and points")
    frames, query = np.arange(len(truth))[:, None], np.asarray(query_frame_N)
    counts = np.asarray(frames > query if protocol == "first" else frames != query)
    if not (counts & visible).any():
        raise ValueError("no true point is visible after its query")
    distance = np.linalg.norm((estimate - truth) * scale, axis=2)
    distance = np.where(np.isfinite(distance), distance, np.inf)
    within = [_within(distance < t, seen, visible, counts) for t in THRESHOLDS]
    return TrackScores(
        protocol,
        float(np.mean([share for share, _ in within])),
        float(np.mean([jaccard for _, jaccard in within])),
        float(np.mean(np.equal(seen, visible)[counts])),
        truth.shape[1],
    )


def held(tracks_FN2: npt.ArrayLike, visible_FN: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Tracks with the last visible position wherever a point is not visible (before the first:
    that one), for estimates that give no position there. NaN for points never seen."""
    tracks, visible = np.array(tracks_FN2, np.float64), np.asarray(visible_FN, np.bool_)
    frames = np.arange(len(tracks))[:, None]
    last = np.maximum.accumulate(np.where(visible, frames, -1), axis=0)
    source = np.where(last >= 0, last, np.argmax(visible, 0))
    positions = np.take_along_axis(tracks, source[..., None], 0)
    ever_N = np.asarray(visible.any(0))
    return np.where(ever_N[None, :, None], positions, np.nan)


def _within(near: Mask, seen: Mask, visible: Mask, counts: Mask) -> tuple[float, float]:
    """Share of the visible points that are near, and Jaccard of near and seen."""
    total = np.count_nonzero(visible & counts)
    correct = near & visible & counts
    wrong = seen & counts & ~(visible & near)
    hits = np.count_nonzero(correct & seen)
    return np.count_nonzero(correct) / total, hits / (total + np.count_nonzero(wrong))
