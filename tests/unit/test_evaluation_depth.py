"""Depth protocols: alignments against scipy, scores by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize_scalar

from dynamicverse.evaluation.depth import (
    PROTOCOLS,
    depth_scores,
    deviation_scale_shift,
    disparity_scale_shift,
    weiszfeld_scale,
)


def video(seed: int = 0, frames: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 20, (frames, 6, 8))
    estimate = truth * rng.lognormal(0, 0.1, truth.shape)
    return list(zip(estimate, truth, strict=True))


def flat(frames: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([f[0] for f in frames]).ravel(), np.array([f[1] for f in frames]).ravel()


def test_scores_by_hand() -> None:
    truth = np.array([[1.0, 2, 4, 0], [1, 2, 4, 5]])
    estimate = np.array([[1.1, 2, 5, 7], [0.7, 0, np.nan, 5]])
    found = depth_scores("metric", [(estimate, truth)])
    assert found.pixels == 5
    assert found.coverage == pytest.approx(5 / 7)
    assert found.absrel == pytest.approx((0.1 + 0 + 0.25 + 0.3 + 0) / 5)
    assert found.delta == pytest.approx(3 / 5)  # 5/4 is not below 1.25, 1/0.7 is beyond


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"metric"}))
def test_a_scaled_video_is_perfect(protocol: str) -> None:
    frames = [(0.31 * truth, truth) for _, truth in video()]
    found = depth_scores(protocol, frames)
    assert found.absrel < 1e-6
    assert (found.delta, found.coverage) == (1.0, 1.0)
    assert depth_scores("metric", frames).absrel == pytest.approx(0.69)


def test_only_per_frame_forgives_a_scale_that_drifts() -> None:
    frames = [(s * truth, truth) for s, (_, truth) in zip((0.5, 1, 2), video(), strict=True)]
    assert depth_scores("per-frame", frames).absrel < 1e-12
    assert depth_scores("one-scale", frames).absrel == pytest.approx((0.5 + 0 + 1) / 3)


def test_only_some_forgive_a_shift() -> None:
    shifted = [(truth + 3, truth) for _, truth in video()]
    assert depth_scores("monst3r-depth", shifted).absrel < 1e-6
    assert depth_scores("uni4d-depth", shifted).absrel > 0.05
    in_disparity = [(1 / (1 / truth + 0.2), truth) for _, truth in video()]
    assert depth_scores("uni4d-depth", in_disparity).absrel < 1e-6
    assert depth_scores("cut3r-depth-scale", in_disparity).absrel > 0.05


def test_weiszfeld_is_the_least_absolute_deviation() -> None:
    estimate, truth = flat(video(1))
    best = minimize_scalar(lambda s: np.abs(s * estimate - truth).sum(), (0.5, 2), tol=1e-12)
    np.testing.assert_allclose(weiszfeld_scale(estimate, truth), best.x * estimate, rtol=1e-5)


def test_scale_and_shift_have_the_least_absolute_deviation() -> None:
    """Against the linear programme: minimise Σ e with −e ≤ s·d̂ + t − d ≤ e."""
    estimate, truth = flat(video(2))
    truth[:10] *= 5  # outliers, which least squares would follow
    n = len(truth)
    A = np.stack([estimate, np.ones(n)], 1)
    bounds = np.block([[A, -np.eye(n)], [-A, -np.eye(n)]])
    best = linprog(
        np.r_[0, 0, np.ones(n)],
        A_ub=bounds,
        b_ub=np.r_[truth, -truth],
        bounds=[(None, None)] * 2 + [(0, None)] * n,
    )
    found = np.abs(deviation_scale_shift(estimate, truth) - truth).sum()
    assert found == pytest.approx(best.fun, rel=1e-4)


def test_disparity_is_aligned_by_least_squares() -> None:
    estimate, truth = flat(video(3))
    s, t = np.polyfit(1 / estimate, 1 / truth, 1)
    np.testing.assert_allclose(
        disparity_scale_shift(estimate, truth), 1 / (s / estimate + t), rtol=1e-9
    )


def test_far_truth_is_left_out_and_far_estimates_are_cut() -> None:
    truth = np.full((4, 4), 10.0)
    truth[0] = 80  # beyond 70
    truth[1] = 60
    estimate = truth.copy()
    estimate[1] = 90
    kitti = depth_scores("cut3r-depth-scale-kitti", [(estimate, truth)])
    found = depth_scores("cut3r-depth-scale", [(estimate, truth)])
    assert (kitti.pixels, found.pixels) == (16, 12)
    # the scale is 2/3 there (most of the weight), so nothing exceeds 70
    assert found.absrel == pytest.approx(2 / 3 * (1 / 3))
    assert depth_scores("metric", [(estimate, truth)]).absrel == pytest.approx(0.5 / 4)


@pytest.mark.parametrize(
    ("protocol", "frames", "message"),
    [
        ("scale", video(), "known: one-scale"),
        ("metric", [], "no pixel"),
        ("metric", [(np.zeros((2, 2)), np.ones((2, 2)))], "no pixel"),
        ("metric", [(np.ones((2, 2)), np.ones((2, 3)))], "depth maps of"),
    ],
)
def test_what_cannot_be_compared(protocol, frames, message) -> None:
    with pytest.raises(ValueError, match=message):
        depth_scores(protocol, frames)
