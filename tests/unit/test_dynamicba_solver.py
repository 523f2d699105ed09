"""Bundle adjustment: recovery, invariances, and Ceres (pycolmap) as an independent oracle."""

from __future__ import annotations

import zlib  # noqa: F401  (before pycolmap, which brings its own)
from dataclasses import replace

import numpy as np
import pytest
from camera_clips import FOCAL, SIZE, film, room, walk

from dynamicverse.dynamicba.blocks import Observations, blocks
from dynamicverse.dynamicba.graph import TrackGraph
from dynamicverse.dynamicba.solver import (
    FocalPrior,
    Options,
    Solution,
    Structure,
    free_cameras,
    solve,
)
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.geometry.lie import se3, se3_inverse, so3_exp

FREE_FOCAL = Options(focal_prior=FocalPrior(FOCAL, 10.0), iterations=60, tolerance=1e-10)


def problem(
    frames: int = 12, count: int = 300, outliers: float = 0.0, noise: float = 0.4
) -> tuple[Structure, Observations, Structure]:
    """A disturbed start (focal +12 %, depth ±10 %), the observations and the truth."""
    rng = np.random.default_rng(5)
    clip = film(walk(frames), room(count), outliers=outliers, noise=noise)
    graph = TrackGraph(clip.tracks)
    seen = graph.observations(np.arange(frames), 3)
    w2c = se3_inverse(clip.c2w_F44)
    truth = Structure(w2c[:, :3, :3], w2c[:, :3, 3], clip.points_N3, FOCAL)
    turned = so3_exp(rng.normal(0, 0.01, (frames, 3))) @ w2c[:, :3, :3]
    moved = w2c[:, :3, 3] + rng.normal(0, 0.02, (frames, 3))
    turned[0], moved[0] = w2c[0, :3, :3], w2c[0, :3, 3]
    first = clip.c2w_F44[0, :3, 3]
    points = first + (clip.points_N3 - first) * (1 + rng.normal(0, 0.1, (count, 1)))
    return Structure(turned, moved, points, 1.12 * FOCAL), seen, truth


def gauge(start: Structure) -> np.ndarray:
    return free_cameras(len(start.t_F3), 0, len(start.t_F3) - 1, start.t_F3)


def poses(structure: Structure) -> np.ndarray:
    return se3_inverse(se3(structure.R_F33, structure.t_F3))


def run(start: Structure, seen: Observations, options: Options = FREE_FOCAL) -> Solution:
    return solve(start, seen, gauge(start), options)


def test_without_noise_the_truth_is_found_exactly() -> None:
    start, seen, truth = problem(noise=0.0)
    found = run(start, seen)
    assert found.converged
    assert found.structure.focal == pytest.approx(FOCAL, rel=2e-4)  # tracks are float32
    assert trajectory_error(poses(found.structure), poses(truth)).ate_of_path < 1e-3
    assert found.error_M.max() < 0.01


@pytest.mark.parametrize("outliers", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("loss", ["huber", "cauchy"])
def test_focal_and_poses_with_noise_and_outliers(outliers: float, loss: str) -> None:
    start, seen, truth = problem(20, 800, outliers)
    found = run(start, seen, replace(FREE_FOCAL, loss=loss))
    assert found.structure.focal == pytest.approx(FOCAL, rel=0.01)
    assert trajectory_error(poses(found.structure), poses(truth)).ate_of_path < 0.004


def test_the_gauge_stays_fixed() -> None:
    start, seen, _ = problem()
    found = run(start, seen).structure
    np.testing.assert_array_equal(found.R_F33[0], start.R_F33[0])
    np.testing.assert_array_equal(found.t_F3[0], start.t_F3[0])


def test_a_fixed_focal_length_is_kept_and_fixed_cameras_too() -> None:
    start, seen, _ = problem()
    free = gauge(start)
    free[5:] = False
    found = solve(start, seen, free, Options())
    assert found.structure.focal == pytest.approx(start.focal, rel=1e-14)
    np.testing.assert_allclose(found.structure.R_F33[5:], start.R_F33[5:], atol=1e-15)
    assert np.abs(found.structure.t_F3[1:5] - start.t_F3[1:5]).max() > 1e-3
    assert found.cost < found.initial_cost


def test_order_of_frames_and_points_does_not_matter() -> None:
    start, seen, _ = problem()
    rng = np.random.default_rng(1)
    frames, count = len(start.t_F3), len(start.points_N3)
    frame_to, point_to = rng.permutation(frames), rng.permutation(count)
    frame_from, point_from = np.argsort(frame_to), np.argsort(point_to)
    shuffled = Observations(
        frame_to[seen.frame_M], point_to[seen.point_M], seen.xy_M2, seen.weight_M
    ).select(rng.permutation(len(seen)))
    other = Structure(
        start.R_F33[frame_from], start.t_F3[frame_from], start.points_N3[point_from], start.focal
    )
    first = run(start, seen)
    second = solve(other, shuffled, gauge(start)[frame_from], FREE_FOCAL)
    assert second.cost == pytest.approx(first.cost, rel=1e-8)
    assert second.structure.focal == pytest.approx(first.structure.focal, rel=1e-6)
    error = trajectory_error(poses(second.structure)[frame_to], poses(first.structure))
    assert error.ate_of_path < 1e-6


def test_unit_of_length_does_not_matter() -> None:
    start, seen, _ = problem()
    scaled = Structure(start.R_F33, 7 * start.t_F3, 7 * start.points_N3, start.focal)
    first, second = run(start, seen), run(scaled, seen)
    assert second.cost == pytest.approx(first.cost, rel=1e-8)
    np.testing.assert_allclose(second.structure.t_F3, 7 * first.structure.t_F3, atol=1e-4)


def test_same_input_same_bits() -> None:
    start, seen, _ = problem()
    first, second = run(start, seen).structure, run(start, seen).structure
    np.testing.assert_array_equal(first.R_F33, second.R_F33)
    np.testing.assert_array_equal(first.points_N3, second.points_N3)
    assert first.focal == second.focal


def test_uncertainty_of_the_focal_length_is_calibrated() -> None:
    """Over repeated noise the estimates scatter as the stated standard deviation says."""
    clip, w2c = walk(8), se3_inverse(walk(8))
    points, scores = room(150), []
    for seed in range(24):
        seen = TrackGraph(film(clip, points, noise=0.5, seed=seed).tracks).observations(
            np.arange(8), 2
        )
        seen = replace(seen, weight_M=np.full(len(seen), 4.0))
        start = Structure(w2c[:, :3, :3], w2c[:, :3, 3], points, FOCAL)
        found = run(start, seen, replace(FREE_FOCAL, scale=20.0, uncertainty=True))
        scores.append(np.log(found.structure.focal / FOCAL) / found.log_focal_sigma)
    assert 0.6 < float(np.std(scores)) < 1.5
    assert abs(float(np.mean(scores))) < 0.7


def test_blocks_hold_every_observation_once() -> None:
    import torch

    _, seen, _ = problem(60, 500)
    layout = blocks(seen, torch.device("cpu"), size=512)
    assert len(layout) > 3
    index = np.concatenate([block.index_K.numpy() for block in layout])
    np.testing.assert_array_equal(np.sort(index), np.arange(len(seen)))
    for block in layout:
        rows = torch.arange(len(block.order_P))[:, None].expand_as(block.weight_PW)
        filled = block.weight_PW > 0
        assert int(filled.sum()) == len(block.index_K)
        first = block.first + filled.to(torch.int8).argmax(1)
        torch.testing.assert_close(first, block.anchor_P)
        point = block.order_P[rows[filled]].numpy()
        np.testing.assert_array_equal(np.sort(point), np.sort(seen.point_M[block.index_K.numpy()]))


def test_no_observations() -> None:
    start, seen, _ = problem(4, 10)
    found = solve(start, seen.select(np.zeros(len(seen), bool)), gauge(start), FREE_FOCAL)
    np.testing.assert_array_equal(found.structure.points_N3, start.points_N3)
    np.testing.assert_array_equal(found.structure.R_F33, start.R_F33)
    assert found.iterations == 0


def test_optimum_equals_that_of_ceres() -> None:
    pycolmap = pytest.importorskip("pycolmap")
    start, seen, _ = problem(8, 120)
    keep = np.isin(seen.point_M, np.flatnonzero(np.bincount(seen.point_M) >= 3))
    seen = seen.select(keep)
    found = run(start, seen, replace(FREE_FOCAL, scale=1e3, focal_prior=FocalPrior(FOCAL, 1e3)))

    scene = pycolmap.Reconstruction()
    centre = (np.array(SIZE) - 1) / 2 + 0.5  # COLMAP: the corner of the first pixel is (0, 0)
    parameters = [start.focal, *centre]
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=SIZE[0], height=SIZE[1], params=parameters, camera_id=1
    )
    scene.add_camera_with_trivial_rig(camera)
    slot = np.zeros(len(seen), int)
    for frame in range(len(start.t_F3)):
        mine = np.flatnonzero(seen.frame_M == frame)
        slot[mine] = np.arange(len(mine))
        image = pycolmap.Image(
            name=f"{frame}", camera_id=1, image_id=frame + 1, keypoints=seen.xy_M2[mine] + centre
        )
        pose = pycolmap.Rigid3d(np.c_[start.R_F33[frame], start.t_F3[frame]])
        scene.add_image_with_trivial_frame(image, pose)
    for point in np.unique(seen.point_M):
        track = pycolmap.Track()
        for index in np.flatnonzero(seen.point_M == point):
            track.add_element(int(seen.frame_M[index]) + 1, int(slot[index]))
        scene.add_point3D(start.points_N3[point], track, np.zeros(3, np.uint8))
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = False
    options.print_summary = False
    config = pycolmap.BundleAdjustmentConfig()
    for frame in range(len(start.t_F3)):
        config.add_image(frame + 1)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, scene).solve()

    assert found.structure.focal == pytest.approx(scene.cameras[1].params[0], rel=2e-4)
    theirs = np.tile(np.eye(4), (len(start.t_F3), 1, 1))
    for frame in range(len(theirs)):
        theirs[frame, :3] = scene.images[frame + 1].cam_from_world().matrix()
    error = trajectory_error(poses(found.structure), se3_inverse(theirs))
    assert error.ate_of_path < 2e-4
    assert error.worst_rot_deg < 0.01
