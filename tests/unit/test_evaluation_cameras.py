"""Camera protocols against evo and by hand; moving objects against constructed motions."""

from __future__ import annotations

import numpy as np
import pytest
from camera_clips import walk
from evo.core import metrics
from evo.core.trajectory import PosePath3D

from dynamicverse.evaluation.cameras import focal_scores, mean_scores, pose_scores
from dynamicverse.evaluation.moving import depth_errors, rotation_errors
from dynamicverse.geometry.alignment import Similarity
from dynamicverse.geometry.lie import se3, so3_exp


def disturbed(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = walk(30)
    noise = se3(so3_exp(rng.normal(0, 0.02, (30, 3))), rng.normal(0, 0.05, (30, 3)))
    estimate = se3(so3_exp([0.4, -1.0, 0.2]), [3.0, -1.0, 2.0]) @ truth @ noise
    estimate[:, :3, 3] *= 0.37
    return estimate, truth


def by_evo(estimate: np.ndarray, truth: np.ndarray, scale: bool) -> tuple[float, float, float]:
    reference, aligned = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))
    aligned.align(reference, correct_scale=scale)
    found = []
    for metric in (
        metrics.APE(metrics.PoseRelation.translation_part),
        metrics.RPE(metrics.PoseRelation.translation_part, 1, metrics.Unit.frames, all_pairs=True),
        metrics.RPE(
            metrics.PoseRelation.rotation_angle_deg, 1, metrics.Unit.frames, all_pairs=True
        ),
    ):
        metric.process_data((reference, aligned))
        found.append(metric.get_statistic(metrics.StatisticsType.rmse))
    return found[0], found[1], found[2]


@pytest.mark.parametrize("protocol", ["monst3r-pose", "metric-pose"])
def test_scores_are_those_of_evo(protocol: str) -> None:
    estimate, truth = disturbed(1)
    ours = pose_scores(protocol, estimate, truth)
    theirs = by_evo(estimate, truth, scale=protocol == "monst3r-pose")
    assert (ours.ate, ours.rpe_trans, ours.rpe_rot_deg) == pytest.approx(theirs, rel=1e-7)
    path = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum()
    assert ours.ate_of_path == pytest.approx(ours.ate / path)
    assert (ours.frames, ours.frame_count) == (30, 30)


def test_megasam_measures_in_baselines() -> None:
    estimate, truth = disturbed(2)
    baseline = np.linalg.norm(truth[-1, :3, 3] - truth[0, :3, 3])
    one, other = (pose_scores(p, estimate, truth) for p in ("monst3r-pose", "megasam-pose"))
    assert other.ate == pytest.approx(one.ate / baseline)
    assert other.rpe_trans == pytest.approx(one.rpe_trans / baseline)
    assert other.rpe_rot_deg == pytest.approx(one.rpe_rot_deg)
    circle = np.concatenate([truth, truth[:1]])
    with pytest.raises(ValueError, match="baseline"):
        pose_scores("megasam-pose", circle, circle)


def test_one_wrong_camera_by_hand() -> None:
    """Scale and direction are fixed by far cameras; one of five is moved across by 0.1."""
    truth = np.tile(np.eye(4), (5, 1, 1))
    truth[:, 0, 3] = [0, 1, 2, 3, 4]
    estimate = truth.copy()
    estimate[2, 1, 3] = 0.1
    # the best rigid fit takes back the mean: residuals 0.08, and 4 × 0.02
    found = pose_scores("metric-pose", estimate, truth)
    assert found.ate == pytest.approx(np.sqrt((0.08**2 + 4 * 0.02**2) / 5), rel=1e-6)
    assert found.rpe_trans == pytest.approx(np.sqrt((0 + 0.01 + 0.01 + 0) / 4), rel=1e-6)
    assert found.rpe_rot_deg == pytest.approx(0, abs=1e-6)


def test_frames_without_a_camera_are_counted_and_left_out() -> None:
    truth = walk(12)
    estimate = truth.copy()
    estimate[[3, 7]] = np.nan
    found = pose_scores("monst3r-pose", estimate, truth)
    assert (found.frames, found.frame_count) == (10, 12)
    assert found.ate < 1e-12
    estimate[::2] = np.nan
    assert pose_scores("monst3r-pose", estimate, truth).rpe_trans is None


@pytest.mark.parametrize(
    ("protocol", "estimate", "truth", "message"),
    [
        ("best-pose", walk(4), walk(4), "known: monst3r-pose"),
        ("monst3r-pose", walk(3), walk(4), "3 estimated cameras, 4 true ones"),
        ("monst3r-pose", walk(4), walk(4) * np.nan, "not known"),
        ("monst3r-pose", np.tile(np.eye(4), (4, 1, 1)), walk(4), "coincide"),
    ],
)
def test_what_cannot_be_compared(protocol, estimate, truth, message) -> None:
    with pytest.raises(ValueError, match=message):
        pose_scores(protocol, estimate, truth)


def test_focal_errors() -> None:
    found = focal_scores([110, 90, 100], [100, 100, 50])
    assert found.afe_px == pytest.approx((10 + 10 + 50) / 3)
    assert found.rfe == pytest.approx((0.1 + 0.1 + 1.0) / 3)
    with pytest.raises(ValueError, match="2 estimated"):
        focal_scores([1, 2], [1])


def test_means_are_of_one_protocol() -> None:
    one, two = (pose_scores("monst3r-pose", *disturbed(s)) for s in (0, 1))
    assert mean_scores([one, two])["ate"] == pytest.approx((one.ate + two.ate) / 2)
    with pytest.raises(ValueError, match="one protocol"):
        mean_scores([one, pose_scores("metric-pose", *disturbed(1))])


def test_an_object_seen_in_another_world_and_frame_has_no_rotation_error() -> None:
    rng = np.random.default_rng(0)
    truth = se3(so3_exp(np.linspace(0, 1, 9)[:, None] * [0.2, 1.0, 0.1]), rng.normal(size=(9, 3)))
    to_truth = Similarity(2.0, so3_exp([0.3, 0.4, -1.0]), np.array([1.0, 2.0, 3.0]))
    own = se3(so3_exp([1.0, -0.5, 0.2]), [0.1, 0, 0])
    estimate = truth @ own
    estimate[:, :3, :3] = to_truth.R.T @ estimate[:, :3, :3]
    np.testing.assert_allclose(rotation_errors(estimate, truth, to_truth), 0, atol=1e-5)
    estimate[4] = np.nan
    assert np.isnan(rotation_errors(estimate, truth, to_truth)[4])


def test_an_object_that_turns_too_far() -> None:
    """Ten degrees between two frames instead of six: two degrees off in each, at best."""
    turns = lambda degrees: se3(so3_exp(np.radians([[0, 0, 0], [0, degrees, 0]])), np.zeros(3))  # noqa: E731
    still = Similarity(1.0, np.eye(3), np.zeros(3))
    np.testing.assert_allclose(rotation_errors(turns(10.0), turns(6.0), still), [2, 2], atol=1e-6)
    with pytest.raises(ValueError, match="fewer than two"):
        rotation_errors(np.full((2, 4, 4), np.nan), turns(6.0), still)


def test_points_at_ten_per_cent_too_far() -> None:
    K = np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    depth_HW = np.full((30, 40), 4.0)
    moving_HW = np.zeros((30, 40), bool)
    moving_HW[10:20, 10:30] = True
    v, u = np.mgrid[0:30:3, 0:40:3].reshape(2, -1)
    points = np.stack([(u - 20) / 50, (v - 15) / 50, np.ones(len(u))], 1) * 4.4
    to_truth = Similarity(2.0, np.eye(3), np.array([0.0, 0, 1.0]))
    c2w = np.eye(4)
    found = depth_errors((points - to_truth.t) / 2, to_truth, c2w, K, depth_HW, moving_HW)
    assert len(found) == moving_HW[v, u].sum()
    np.testing.assert_allclose(found, 0.1, atol=1e-9)
