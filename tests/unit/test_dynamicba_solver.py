"""Bundle adjustment: recovery, invariances, and Ceres (pycolmap) as an independent oracle."""

from __future__ import annotations

import zlib  # noqa: F401  (before pycolmap, which brings its own)
from dataclasses import replace

import numpy as np
import pytest
import torch
from camera_clips import FOCAL, SIZE, film, room, walk

from dynamicverse.dynamicba.bundle import reduced
from dynamicverse.dynamicba.bundle.blocks import Observations, Shape, arrange
from dynamicverse.dynamicba.bundle.lens import Lens, bend, straighten
from dynamicverse.dynamicba.bundle.reduced import plan
from dynamicverse.dynamicba.bundle.solver import (
    FocalPrior,
    LensPrior,
    Options,
    Solution,
    Structure,
    free_cameras,
    solve,
)
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.geometry.lie import se3, se3_inverse, so3_exp

FREE_FOCAL = Options(focal_prior=FocalPrior(FOCAL, 10.0), iterations=60, tolerance=1e-12)


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


def test_blocks_hold_every_observation_once() -> None:
    _, seen, _ = problem(60, 500)
    layout = arrange(seen, torch.device("cpu"), Shape(512, 4000))
    assert len(layout.blocks) > 3
    slots = [block.weight_PW.numel() for block in layout.blocks]
    assert len(np.unique(layout.slot_M.numpy())) == len(seen)
    for plane, expected in ((0, seen.xy_M2[:, 0]), (1, seen.xy_M2[:, 1])):
        flat = torch.cat([block.xy_2PW[plane].reshape(-1) for block in layout.blocks])
        np.testing.assert_array_equal(flat[layout.slot_M].numpy(), expected)
    starts = np.cumsum([0, *slots])
    for block, start in zip(layout.blocks, starts, strict=False):
        filled = block.weight_PW > 0
        index = np.flatnonzero((layout.slot_M >= start) & (layout.slot_M < start + filled.numel()))
        assert int(filled.sum()) == len(index)
        first = block.first + filled.to(torch.int8).argmax(1)
        torch.testing.assert_close(first, block.anchor_P)
        point, camera = np.divmod(layout.slot_M[index].numpy() - start, block.window)
        np.testing.assert_array_equal(block.order_P[point].numpy(), seen.point_M[index])
        np.testing.assert_array_equal(block.first + camera, seen.frame_M[index])
    assert sum(int((block.weight_PW > 0).sum()) for block in layout.blocks) == len(seen)


LENS = LensPrior(centre_sigma=30.0, k1_sigma=0.3)


@pytest.mark.parametrize("k1", [-0.08, 0.12])
def test_principal_point_and_distortion_are_found(k1: float) -> None:
    start, seen, truth = problem(20, 600)
    lens = Lens(np.array([6.0, -9.0]), k1)
    bent = replace(seen, xy_M2=bend(seen.xy_M2, FOCAL, lens))
    solution = run(start, bent, replace(FREE_FOCAL, lens_prior=LENS, uncertainty=True))
    found, sigma = solution.structure, solution.uncertainty
    assert sigma is not None
    assert (np.abs(found.lens.centre_2 - lens.centre_2) < 3.5 * sigma.centre_2).all()
    assert (sigma.centre_2 < 2).all()
    assert abs(found.lens.k1 - k1) < 3.5 * sigma.k1
    assert found.lens.k1 == pytest.approx(k1, abs=0.004)
    assert found.focal == pytest.approx(FOCAL, rel=0.004)
    assert trajectory_error(poses(found), poses(truth)).ate_of_path < 0.003
    pinhole = run(start, bent).structure
    assert abs(pinhole.focal / FOCAL - 1) > 2 * abs(found.focal / FOCAL - 1)


def test_a_known_lens_is_kept() -> None:
    start, seen, _ = problem(12, 300, noise=0.1)
    lens = Lens(np.array([6.0, -9.0]), -0.1)
    bent = replace(seen, xy_M2=bend(seen.xy_M2, FOCAL, lens))
    found = run(replace(start, lens=lens), bent).structure
    assert found.focal == pytest.approx(FOCAL, rel=0.004)
    assert found.lens.k1 == -0.1
    np.testing.assert_array_equal(found.lens.centre_2, lens.centre_2)


@pytest.mark.parametrize("k1", [-0.3, -0.05, 0.0, 0.2])
def test_bending_is_undone(k1: float) -> None:
    xy = np.random.default_rng(0).uniform(-200, 200, (50, 2))
    lens = Lens(np.array([5.0, -3.0]), k1)
    np.testing.assert_allclose(straighten(bend(xy, 400.0, lens), 400.0, lens), xy, atol=1e-9)


def test_pixels_beyond_the_fold_of_a_lens_stay_finite() -> None:
    far = np.array([[3000.0, 0.0], [0.0, -9000.0]])
    assert np.isfinite(straighten(far, 400.0, Lens(k1=-0.3))).all()


def test_zoom_a_focal_length_for_every_frame() -> None:
    start, seen, truth = problem(24, 800)
    zoom_F = 0.15 * np.sin(np.arange(24) / 6)
    zoomed = replace(seen, xy_M2=seen.xy_M2 * np.exp(zoom_F[seen.frame_M])[:, None])
    prior = FocalPrior(1.1 * FOCAL, 0.5, change_sigma=0.03)
    found = run(start, zoomed, replace(FREE_FOCAL, focal_prior=prior, uncertainty=True))
    focal_F = found.structure.lens.focal_F(found.structure.focal, 24)
    np.testing.assert_allclose(focal_F, FOCAL * np.exp(zoom_F), rtol=0.01)
    assert trajectory_error(poses(found.structure), poses(truth)).ate_of_path < 0.006
    assert found.uncertainty is not None
    score_F = np.log(focal_F / (FOCAL * np.exp(zoom_F))) / found.uncertainty.log_focal_F
    assert 0.2 < float(np.sqrt(np.mean(score_F**2))) < 2.5
    straight = straighten(zoomed.xy_M2, found.structure.focal, found.structure.lens, zoomed.frame_M)
    np.testing.assert_allclose(straight, seen.xy_M2 * found.structure.focal / FOCAL, atol=5)


def heavy(outliers: float, seed: int = 0) -> tuple[Structure, Observations, Structure]:
    """A start as in `problem` and a share of pixels that are anywhere in the picture."""
    start, seen, truth = problem(20, 800)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(seen)) < outliers
    xy_M2 = seen.xy_M2.copy()
    xy_M2[wrong] = rng.uniform([-320, -240], [320, 240], (int(wrong.sum()), 2))
    return start, replace(seen, xy_M2=xy_M2, weight_M=np.full(len(seen), 1 / 0.4**2)), truth


@pytest.mark.parametrize("outliers", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_graduated_non_convexity_up_to_40_per_cent_outliers(outliers: float) -> None:
    start, seen, truth = heavy(outliers)
    found = run(start, seen, replace(FREE_FOCAL, loss="graduated", scale=3.0, tolerance=1e-6))
    assert found.structure.focal == pytest.approx(FOCAL, rel=0.005)
    assert trajectory_error(poses(found.structure), poses(truth)).ate_of_path < 0.002


def test_a_convex_loss_does_not_stand_40_per_cent_outliers() -> None:
    start, seen, truth = heavy(0.4)
    found = run(start, seen, replace(FREE_FOCAL, tolerance=1e-6))
    assert trajectory_error(poses(found.structure), poses(truth)).ate_of_path > 0.005


def test_a_chain_of_segments_equals_the_dense_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """150 cameras with short tracks: cut into segments, and as one."""
    clip = film(walk(150), 1.5 * room(2500), length=6)
    seen = TrackGraph(clip.tracks).observations(np.arange(150), 3)
    w2c = se3_inverse(clip.c2w_F44)
    rng = np.random.default_rng(3)
    turned = so3_exp(rng.normal(0, 0.004, (150, 3))) @ w2c[:, :3, :3]
    points = clip.points_N3 * (1 + rng.normal(0, 0.02, (2500, 1)))
    start = Structure(turned, w2c[:, :3, 3], points, 1.03 * FOCAL)
    assert plan(150, 6, 1, arrange(seen, torch.device("cpu")).widest).segments > 3
    prior = FocalPrior(FOCAL, 0.5, change_sigma=0.01)
    for options in (
        replace(FREE_FOCAL, uncertainty=True, lens_prior=LENS),
        replace(FREE_FOCAL, uncertainty=True, focal_prior=prior),
    ):
        chain = solve(start, seen, gauge(start), options)
        with monkeypatch.context() as patch:
            patch.setattr(reduced, "DENSE", 1000)
            dense = solve(start, seen, gauge(start), options)
        assert chain.iterations == dense.iterations
        np.testing.assert_allclose(chain.structure.t_F3, dense.structure.t_F3, atol=1e-7)
        assert chain.structure.focal == pytest.approx(dense.structure.focal, rel=1e-7)
        assert chain.uncertainty is not None
        assert dense.uncertainty is not None
        np.testing.assert_allclose(
            chain.uncertainty.pose_F6, dense.uncertainty.pose_F6, rtol=1e-5, atol=1e-12
        )
        np.testing.assert_allclose(
            chain.uncertainty.log_focal_F, dense.uncertainty.log_focal_F, rtol=1e-5
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("loss", ["huber", "cauchy", "graduated"])
def test_cpu_and_gpu_agree(loss: str) -> None:
    start, seen, _ = problem(20, 800, 0.03)
    options = replace(FREE_FOCAL, loss=loss, uncertainty=True, lens_prior=LENS)
    first, second = run(start, seen, options), run(start, seen, replace(options, device="cuda"))
    assert second.cost == pytest.approx(first.cost, rel=1e-8)
    np.testing.assert_allclose(second.structure.t_F3, first.structure.t_F3, atol=1e-5)
    assert second.structure.focal == pytest.approx(first.structure.focal, rel=1e-6)
    assert first.uncertainty is not None
    assert second.uncertainty is not None
    np.testing.assert_allclose(
        second.uncertainty.pose_F6, first.uncertainty.pose_F6, rtol=1e-3, atol=1e-9
    )


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
