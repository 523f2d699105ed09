"""Cameras against truth: `monst3r-pose`, `megasam-pose`, `metric-pose`.

| protocol | alignment | unit |
|---|---|---|
| monst3r-pose | Sim(3), Umeyama, as evo does it | that of the truth |
| megasam-pose | Sim(3) | distance of the first and last true camera |
| metric-pose | rigid, no scale | that of the truth |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.geometry.lie import Array

PROTOCOLS = ("monst3r-pose", "megasam-pose", "metric-pose")


@dataclass(frozen=True)
class PoseScores:
    """Errors of the registered frames after alignment.

    ate: RMSE of camera centres; ate_of_path: over the length of the true path, None where the
    true camera stands; rpe_trans, rpe_rot_deg: RMSE over steps of one frame, None where no two
    neighbours are registered; worst_rot_deg: the largest step.
    frames: registered ones; frame_count: all of the truth.
    """

    protocol: str
    ate: float
    ate_of_path: float | None
    rpe_trans: float | None
    rpe_rot_deg: float | None
    worst_rot_deg: float | None
    frames: int
    frame_count: int


@dataclass(frozen=True)
class FocalScores:
    """afe_px: mean |f̂ − f| over frames; rfe: mean of |f̂ − f| / f."""

    afe_px: float
    rfe: float


def pose_scores(protocol: str, estimate_F44: npt.ArrayLike, truth_F44: npt.ArrayLike) -> PoseScores:
    """Compare camera-to-world poses; NaN where a frame is not registered.

    Raises ValueError for an unknown protocol, unequal lengths, fewer than two registered
    frames, and cameras that cannot be aligned because they stand still.
    """
    estimate, truth = np.asarray(estimate_F44, np.float64), np.asarray(truth_F44, np.float64)
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol '{protocol}' (known: {', '.join(PROTOCOLS)})")
    if estimate.shape != truth.shape:
        raise ValueError(f"{len(estimate)} estimated cameras, {len(truth)} true ones")
    if not np.isfinite(truth).all():
        raise ValueError("the truth holds cameras that are not known")
    if protocol == "megasam-pose":
        truth = _unit_baseline(truth)
    found = trajectory_error(estimate, truth, scale=protocol != "metric-pose")
    return PoseScores(
        protocol,
        found.ate,
        _known(found.ate_of_path),
        _known(found.rpe_trans),
        _known(found.rpe_rot_deg),
        _known(found.worst_rot_deg),
        found.frames,
        len(truth),
    )


def focal_scores(estimate_F: npt.ArrayLike, truth_F: npt.ArrayLike) -> FocalScores:
    """Compare focal lengths in px, one a frame."""
    estimate, truth = np.asarray(estimate_F, np.float64), np.asarray(truth_F, np.float64)
    if estimate.shape != truth.shape or not len(truth):
        raise ValueError(f"{len(estimate)} estimated focal lengths, {len(truth)} true ones")
    error = np.abs(estimate - truth)
    return FocalScores(float(error.mean()), float((error / truth).mean()))


def mean_scores(scores: Sequence[PoseScores]) -> dict[str, float]:
    """Means of ATE, RPE-trans and RPE-rot over sequences, as the protocols report them."""
    if len({s.protocol for s in scores}) != 1:
        raise ValueError("means are taken over sequences of one protocol")
    keys = ("ate", "rpe_trans", "rpe_rot_deg")
    return {k: float(np.mean([getattr(s, k) for s in scores])) for k in keys}


def _unit_baseline(truth_F44: Array) -> Array:
    baseline = float(np.linalg.norm(truth_F44[-1, :3, 3] - truth_F44[0, :3, 3]))
    if baseline <= 0:
        raise ValueError("the first and last true camera coincide: no baseline to divide by")
    scaled = truth_F44.copy()
    scaled[:, :3, 3] /= baseline
    return scaled


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
