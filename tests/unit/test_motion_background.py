"""Robust background models: recovered from flow that is mostly theirs."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.backends.analysis.background import (
    epipolar_offset,
    fit_background,
    plane_flow,
)

K = np.array([[200.0, 0, 107.5], [0, 200.0, 59.5], [0, 0, 1]])
rows, columns = np.mgrid[:120, :216].astype(np.float32)
POINTS = np.stack([columns, rows], -1)[::3, ::3].reshape(-1, 2)


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def project(depth_N: np.ndarray, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    rays = np.c_[POINTS, np.ones(len(POINTS))] @ np.linalg.inv(K).T
    seen = (rays * depth_N[:, None]) @ R.T + t
    image = seen @ K.T
    return (image[:, :2] / image[:, 2:]).astype(np.float32)


def spoil(ends: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise everywhere, and a block that moves on its own; returns what was spoilt."""
    rng = np.random.default_rng(3)
    ends = ends + rng.normal(0, 0.05, ends.shape).astype(np.float32)
    off = np.arange(len(ends)) < share * len(ends)
    ends[off] += np.float32([6, 4])
    return ends, off


def test_a_rotation_is_a_homography_whatever_the_depth() -> None:
    depth = np.random.default_rng(0).uniform(2, 20, len(POINTS))
    ends, _off = spoil(project(depth, rotation(0.03), np.zeros(3)), 0.35)
    found = fit_background(POINTS, ends, seed=1)
    assert found is not None
    true = K @ rotation(0.03) @ np.linalg.inv(K)
    error = plane_flow(found.H, columns, rows) - plane_flow(true, columns, rows)
    assert np.abs(error).max() < 0.05
    assert found.plane_noise < 0.15
    back = plane_flow(found.reversed().H, columns, rows)
    assert np.abs(back + plane_flow(true, columns, rows)).max() < 0.6  # not the same pixels


def test_static_points_are_on_epipolar_lines_and_a_mover_is_not() -> None:
    depth = np.random.default_rng(0).uniform(2, 12, len(POINTS))
    t = np.array([0.25, 0.0, 0.05])
    ends, off = spoil(project(depth, rotation(0.02), t), 0.25)
    found = fit_background(POINTS, ends, seed=1)
    assert found is not None
    assert found.F is not None
    x, y = POINTS.T
    distance, offset = epipolar_offset(found.F, x[None], y[None], (ends - POINTS)[None])
    assert np.percentile(distance[0][~off], 95) < 0.2
    # 4 px down, across the nearly level lines; the Sampson distance halves it in both frames
    assert np.percentile(distance[0][off], 5) > 1.5
    on_line, _ = epipolar_offset(found.F, x[None], y[None], (ends - POINTS)[None] + offset)
    assert on_line.max() < 1e-3


def test_too_few_vectors_say_nothing() -> None:
    assert fit_background(POINTS[:150], POINTS[:150] + 1, seed=0) is None


def test_a_still_picture_has_the_identity() -> None:
    found = fit_background(POINTS, POINTS.copy(), seed=0)
    assert found is not None
    assert np.abs(plane_flow(found.H, columns, rows)).max() < 1e-3


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_bits(seed: int) -> None:
    depth = np.random.default_rng(0).uniform(2, 12, len(POINTS))
    ends, _ = spoil(project(depth, rotation(0.02), np.array([0.2, 0, 0])), 0.2)
    one, two = fit_background(POINTS, ends, seed), fit_background(POINTS, ends, seed)
    assert one is not None
    assert two is not None
    assert np.array_equal(one.H, two.H)
    assert np.array_equal(one.F, two.F)
