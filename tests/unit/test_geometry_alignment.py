"""Alignment and trajectory errors against evo."""

from __future__ import annotations

import numpy as np
import pytest
from camera_clips import walk
from evo.core import metrics
from evo.core.trajectory import PosePath3D

from dynamicverse.geometry.alignment import trajectory_error, umeyama
from dynamicverse.geometry.lie import se3, so3_exp


def disturbed(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = walk(40)
    noise = se3(so3_exp(rng.normal(0, 0.02, (40, 3))), rng.normal(0, 0.05, (40, 3)))
    estimate = se3(so3_exp([0.4, -1.0, 0.2]), [3.0, -1.0, 2.0]) @ truth @ noise
    estimate[:, :3, 3] *= 0.37
    return estimate, truth


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("scale", [True, False])
def test_errors_equal_those_of_evo(seed: int, scale: bool) -> None:
    estimate, truth = disturbed(seed)
    ours = trajectory_error(estimate, truth, scale)
    reference, aligned = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))
    aligned.align(reference, correct_scale=scale)
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, aligned))
    assert ours.ate == pytest.approx(ape.get_statistic(metrics.StatisticsType.rmse), rel=1e-9)
    for relation, value in (
        (metrics.PoseRelation.translation_part, ours.rpe_trans),
        (metrics.PoseRelation.rotation_angle_deg, ours.rpe_rot_deg),
    ):
        rpe = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames, all_pairs=True)
        rpe.process_data((reference, aligned))
        assert value == pytest.approx(rpe.get_statistic(metrics.StatisticsType.rmse), rel=1e-7)
    path = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum()
    assert ours.ate_of_path == pytest.approx(ours.ate / path)


def test_a_similar_trajectory_has_no_error() -> None:
    truth = walk(30)
    moved = umeyama([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 1, 1], [1, 3, 1], [-1, 1, 1]])
    error = trajectory_error(moved.apply_to_poses(truth), truth)
    assert error.ate < 1e-12
    assert error.worst_rot_deg < 1e-5


def test_umeyama_never_reflects() -> None:
    points = np.random.default_rng(0).normal(size=(10, 3))
    assert np.linalg.det(umeyama(points, points * [1, 1, -1]).R) == pytest.approx(1)


def test_unregistered_frames_are_left_out() -> None:
    estimate, truth = disturbed(0)
    estimate[10:12] = np.nan
    error = trajectory_error(estimate, truth)
    assert error.frames == 38
    assert np.isfinite([error.ate, error.rpe_trans, error.rpe_rot_deg]).all()


def test_what_cannot_be_aligned() -> None:
    with pytest.raises(ValueError, match="coincide"):
        umeyama(np.ones((4, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="shapes"):
        umeyama(np.ones((1, 3)), np.zeros((1, 3)))
