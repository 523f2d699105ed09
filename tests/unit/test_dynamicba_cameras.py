"""From tracks to cameras on synthetic clips: recovery, degenerate motion, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from camera_clips import FOCAL, SIZE, Clip, drive, film, pan, room, walk

from dynamicverse.config import CamerasConfig, ReconstructionConfig
from dynamicverse.dynamicba.cameras.solve import CameraSolution, solve_cameras
from dynamicverse.formats.intrinsics import PriorIntrinsics
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.alignment import TrajectoryError, trajectory_error, umeyama
from dynamicverse.geometry.lie import rotation_angle, se3, se3_inverse

CONFIG = ReconstructionConfig()
TRUE_PRIOR = PriorIntrinsics(fx=FOCAL, fy=FOCAL, cx=319.5, cy=239.5, source="truth")


def solve(clip: Clip, config: ReconstructionConfig = CONFIG) -> CameraSolution:
    return solve_cameras(clip.tracks, config)


def error(found: CameraSolution, clip: Clip) -> TrajectoryError:
    return trajectory_error(found.c2w_F44, clip.c2w_F44)


def consistent(found: CameraSolution, clip: Clip) -> None:
    """What holds for every solution, whatever the clip."""
    frames, tracks = clip.tracks.visibility_FN.shape
    assert found.c2w_F44.shape == (frames, 4, 4)
    assert found.K_F33.shape == (frames, 3, 3)
    assert found.points_N3.shape == (tracks, 3)
    np.testing.assert_array_equal(np.isfinite(found.c2w_F44).all((1, 2)), found.registered_F)
    np.testing.assert_array_equal(np.isfinite(found.points_N3).all(1), found.static_N)
    R = found.c2w_F44[found.registered_F, :3, :3]
    np.testing.assert_allclose(
        R @ np.swapaxes(R, 1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-9
    )


def empty(frames: int) -> Tracks:
    return Tracks(
        np.zeros((frames, 0, 2), np.float32),
        np.zeros((frames, 0), bool),
        np.zeros((frames, 0), np.float32),
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
        SIZE,
    )


@pytest.fixture(scope="module")
def walked() -> tuple[Clip, CameraSolution]:
    clip = film(walk(24), room(600), outliers=0.03)
    return clip, solve(clip)


def test_a_walk_with_unknown_focal_length(walked: tuple[Clip, CameraSolution]) -> None:
    clip, found = walked
    consistent(found, clip)
    assert found.status == "full"
    assert found.registered_F.all()
    assert found.focal_source == "estimated"
    assert found.K_F33[0, 0, 0] == pytest.approx(FOCAL, rel=0.01)
    np.testing.assert_allclose(found.K_F33[:, :2, 2], np.tile([319.5, 239.5], (24, 1)), atol=2)
    assert abs(found.distortion) < 0.01
    assert error(found, clip).ate_of_path < 0.004
    assert error(found, clip).worst_rot_deg < 0.3
    assert found.statements == []
    assert 0.3 < found.reprojection_rmse_px < 1.5


def test_static_points_lie_where_they_are(walked: tuple[Clip, CameraSolution]) -> None:
    clip, found = walked
    assert found.static_N.sum() > 100
    fit = umeyama(found.c2w_F44[:, :3, 3], clip.c2w_F44[:, :3, 3])
    points, truth = fit.apply(found.points_N3[found.static_N]), clip.points_N3[found.static_N]
    assert np.median(np.linalg.norm(points - truth, axis=1) / truth[:, 2]) < 0.02


def test_the_world_is_the_first_camera(walked: tuple[Clip, CameraSolution]) -> None:
    _, found = walked
    np.testing.assert_allclose(found.c2w_F44[0], np.eye(4), atol=1e-12)
    depth = found.points_N3[found.static_N, 2]
    assert 0.3 < np.median(depth) < 3


def test_same_tracks_same_bits(walked: tuple[Clip, CameraSolution]) -> None:
    clip, first = walked
    second = solve(clip)
    np.testing.assert_array_equal(first.c2w_F44, second.c2w_F44)
    np.testing.assert_array_equal(first.points_N3, second.points_N3)
    np.testing.assert_array_equal(first.K_F33, second.K_F33)


def test_the_film_backwards_gives_the_same_cameras(walked: tuple[Clip, CameraSolution]) -> None:
    clip, found = walked
    back = replace(
        clip.tracks,
        tracks_FN2=clip.tracks.tracks_FN2[::-1].copy(),
        visibility_FN=clip.tracks.visibility_FN[::-1].copy(),
        confidence_FN=clip.tracks.confidence_FN[::-1].copy(),
    )
    other = solve_cameras(back, CONFIG)
    assert other.K_F33[0, 0, 0] == pytest.approx(found.K_F33[0, 0, 0], rel=0.005)
    assert trajectory_error(other.c2w_F44[::-1], found.c2w_F44).ate_of_path < 0.002


def test_moving_objects_without_a_mask() -> None:
    clip = film(walk(20), room(600), moving=0.25)
    found = solve(clip)
    assert found.registered_F.all()
    assert error(found, clip).ate_of_path < 0.006
    assert found.static_N[clip.moving_N].mean() < 0.15


def test_tracks_on_instances_are_never_used() -> None:
    clip = film(walk(20), room(800), moving=0.6, labelled=True)
    found = solve(clip)
    assert error(found, clip).ate_of_path < 0.01
    assert not found.static_N[clip.moving_N].any()


def test_a_drive_straight_ahead() -> None:
    points = room(900) * [1.5, 1, 2.5]
    clip = film(drive(20), points)
    found = solve(clip)
    assert found.status == "full"
    assert found.registered_F.all()
    assert error(found, clip).ate_of_path < 0.02


def test_slow_motion_still_has_enough_keyframes() -> None:
    place = np.outer(np.arange(10), [0.022, 0.004, 0.0])  # 20 px: too little for three keyframes
    clip = film(se3(np.eye(3), place), room(500), noise=0.1, length=40)
    found = solve(clip)
    assert found.status == "full"
    assert found.registered_F.all()
    assert error(found, clip).ate_of_path < 0.05


def test_a_camera_that_only_turns() -> None:
    clip = film(pan(16), room(600))
    found = solve(clip)
    consistent(found, clip)
    assert found.status == "rotation_only"
    assert "depth unobservable: no parallax" in found.statements
    assert not found.c2w_F44[:, :3, 3].any()
    assert not found.static_N.any()
    assert found.focal_source == "estimated"
    assert found.K_F33[0, 0, 0] == pytest.approx(FOCAL, rel=0.02)
    step = se3_inverse(clip.c2w_F44[:-1]) @ clip.c2w_F44[1:]
    ours = se3_inverse(found.c2w_F44[:-1]) @ found.c2w_F44[1:]
    wrong = rotation_angle(np.swapaxes(ours[:, :3, :3], 1, 2) @ step[:, :3, :3])
    assert np.degrees(wrong).max() < 0.1


def test_a_camera_that_stands_still() -> None:
    clip = film(np.tile(np.eye(4), (20, 1, 1)), room(600), noise=0.2, moving=0.2)
    found = solve(clip)
    consistent(found, clip)
    assert found.status == "static_camera"
    assert found.statements[0].startswith("depth unobservable: the camera does not move")
    np.testing.assert_array_equal(found.c2w_F44, np.tile(np.eye(4), (20, 1, 1)))
    assert found.focal_source == "assumed"


def test_one_frame() -> None:
    clip = film(walk(1), room(300))
    found = solve(clip)
    consistent(found, clip)
    assert found.status == "too_short"
    assert found.registered_F.tolist() == [True]
    assert "single frame" in found.statements[0]


def test_two_frames_with_parallax() -> None:
    clip = film(walk(2, step=0.5), room(600), length=60)
    found = solve_cameras(clip.tracks, CONFIG, prior=TRUE_PRIOR)
    consistent(found, clip)
    assert found.status == "full"
    assert found.focal_source == "prior"
    step = se3_inverse(clip.c2w_F44[0]) @ clip.c2w_F44[1]
    assert np.degrees(rotation_angle(found.c2w_F44[1, :3, :3].T @ step[:3, :3])) < 0.5
    baseline = found.c2w_F44[1, :3, 3] / np.linalg.norm(found.c2w_F44[1, :3, 3])
    assert baseline @ step[:3, 3] / np.linalg.norm(step[:3, 3]) > 0.99


@pytest.mark.parametrize("frames", [2, 30])
def test_no_tracks(frames: int) -> None:
    found = solve_cameras(empty(frames), CONFIG)
    assert found.status == "failed"
    assert not found.registered_F.any()
    assert "too few" in found.statements[0]


def test_everything_moves_on_its_own() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform([0, 0], np.array(SIZE) - 1, (10, 120, 2)).astype(np.float32)
    seen = np.ones((10, 120), bool)
    tracks = Tracks(
        xy, seen, seen.astype(np.float32), np.zeros(120, np.int32), np.zeros(120, np.int32), SIZE
    )
    found = solve_cameras(tracks, CONFIG)
    assert found.status == "failed"
    assert "no motion of a camera" in found.statements[0]


def test_a_gap_without_tracks_leaves_frames_out() -> None:
    clip = film(walk(30), room(700))
    clip.tracks.visibility_FN[20:24] = False
    found = solve(clip)
    consistent(found, clip)
    assert not found.registered_F[20:24].any()
    assert np.isnan(found.c2w_F44[~found.registered_F]).all()  # the last row too
    assert found.registered_F.sum() >= 18
    assert any("could not be registered" in line for line in found.statements)


def test_stretches_without_overlap_are_separate_segments() -> None:
    clip = film(walk(36), room(900))
    seen_FN, count = clip.tracks.visibility_FN, clip.tracks.visibility_FN.shape[1]
    seen_FN[:22, count // 2 :] = False  # no track goes from before frame 22 to after it
    seen_FN[22:, : count // 2] = False
    found = solve(clip)
    consistent(found, clip)
    assert found.status == "full"
    assert found.registered_F.tolist() == [True] * 22 + [False] * 14
    assert found.segment_F is not None
    assert found.segment_c2w_F44 is not None
    assert found.segment_F.tolist() == [0] * 22 + [1] * 14
    for c2w_F44, part in ((found.c2w_F44, slice(0, 22)), (found.segment_c2w_F44, slice(22, 36))):
        assert trajectory_error(c2w_F44[part], clip.c2w_F44[part]).ate_of_path < 0.01
    assert np.isnan(found.segment_c2w_F44[:22]).all()
    assert any("segment of their own" in line for line in found.statements)


def test_a_loss_narrower_than_any_noise_is_kept() -> None:
    clip = film(walk(14), room(500))
    narrow = CONFIG.model_copy(
        update={"cameras": CONFIG.cameras.model_copy(update={"loss_px": 0.3})}
    )
    found = solve_cameras(clip.tracks, narrow)
    consistent(found, clip)
    assert found.status == "full"


def test_a_given_focal_length_is_kept_when_asked() -> None:
    clip = film(walk(14), room(500))
    wrong = replace_focal(TRUE_PRIOR, 600.0)
    kept = solve_cameras(clip.tracks, ReconstructionConfig(opt_intrinsics=False), prior=wrong)
    assert kept.focal_source == "prior"
    assert kept.K_F33[0, 0, 0] == pytest.approx(600.0)
    better = solve_cameras(clip.tracks, CONFIG, prior=wrong)
    assert better.focal_source == "estimated"
    assert better.K_F33[0, 0, 0] == pytest.approx(FOCAL, rel=0.02)


def replace_focal(prior: PriorIntrinsics, focal: float) -> PriorIntrinsics:
    return prior.model_copy(update={"fx": focal, "fy": focal})


def test_a_long_clip_is_solved_on_keyframes() -> None:
    config = ReconstructionConfig(cameras=CamerasConfig(max_frames=10))
    clip = film(walk(40), room(800))
    done: list[tuple[int, int]] = []
    found = solve_cameras(
        clip.tracks, config, progress=lambda count, total: done.append((count, total))
    )
    assert found.registered_F.all()
    assert error(found, clip).ate_of_path < 0.006
    assert done[-1] == (40, 40)
