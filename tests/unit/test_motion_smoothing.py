"""Smooth motion: firm frames stay, doubtful ones follow."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.dynamicba.motion.motion_smoothing import Sightings, smooth_motion
from dynamicverse.geometry.lie import rotation_angle, se3, so3_exp

FRAMES, COUNT, FOCAL = 40, 30, 400.0


def motion() -> np.ndarray:
    time = np.arange(FRAMES) / 10
    turn = np.stack([0.05 * time, 0.4 * np.sin(0.5 * time), 0 * time], 1)
    place = np.stack([0.3 * time - 0.6, 0.1 * np.sin(time), 4 + 0.2 * time], 1)
    return se3(so3_exp(turn), place)


def cameras() -> np.ndarray:
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, 0, 3] = 0.02 * np.arange(FRAMES)
    return c2w


def sightings(per_frame: np.ndarray) -> Sightings:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.4, 0.4, (COUNT, 3))
    frame = np.repeat(np.arange(FRAMES), per_frame)
    which = np.concatenate([np.arange(n) for n in per_frame])
    return Sightings(frame, points[which], FOCAL, 0.4)


def shaken(truth: np.ndarray, frames: list[int], size: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    poses = truth.copy()
    turn = rng.normal(0, size, (len(frames), 3))
    poses[frames, :3, :3] = so3_exp(turn) @ poses[frames, :3, :3]
    poses[frames, :3, 3] += rng.normal(0, size, (len(frames), 3))
    return poses


def angles(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return rotation_angle(one[:, :3, :3] @ np.swapaxes(two[:, :3, :3], 1, 2))


def test_a_smooth_motion_stays() -> None:
    truth = motion()
    found = smooth_motion(truth, cameras(), sightings(np.full(FRAMES, COUNT)))
    np.testing.assert_allclose(found, truth, atol=5e-3)


def test_doubtful_frames_follow_their_neighbours() -> None:
    truth, doubtful = motion(), [9, 20, 31]
    per_frame = np.full(FRAMES, COUNT)
    per_frame[doubtful] = 0
    noisy = shaken(truth, doubtful, 0.1)
    found = smooth_motion(noisy, cameras(), sightings(per_frame))
    assert angles(found, truth)[doubtful].max() < 0.2 * angles(noisy, truth)[doubtful].max()
    error = np.linalg.norm(found[:, :3, 3] - truth[:, :3, 3], axis=1)
    before = np.linalg.norm(noisy[:, :3, 3] - truth[:, :3, 3], axis=1)
    assert error[doubtful].max() < 0.2 * before[doubtful].max()


def test_firm_frames_keep_a_sudden_turn() -> None:
    truth = motion()
    sudden = shaken(truth, [15], 0.1)
    found = smooth_motion(sudden, cameras(), sightings(np.full(FRAMES, COUNT)))
    # the observations say so: it is mostly kept
    assert angles(found, truth)[15] > 0.5 * angles(sudden, truth)[15]


@pytest.mark.parametrize("gap", [[10], [3, 4, 36]])
def test_frames_without_pose_split_the_motion(gap: list[int]) -> None:
    poses = motion()
    poses[gap] = np.nan
    seen = sightings(np.full(FRAMES, COUNT))
    keep = ~np.isin(seen.frame_S, gap)
    seen = Sightings(seen.frame_S[keep], seen.points_S3[keep], FOCAL, 0.4)
    found = smooth_motion(poses, cameras(), seen)
    assert np.isnan(found[gap]).all()
    known = np.isfinite(poses[:, 0, 0])
    np.testing.assert_allclose(found[known], poses[known], atol=5e-3)
