"""Rigid bodies from their own tracks, against exact truth."""

from __future__ import annotations

import numpy as np
import pytest
from object_clips import SIZE, ObjectClip, rotation_errors, things

from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.mapping import Tolerances
from dynamicverse.dynamicba.motion import rigid_objects
from dynamicverse.dynamicba.motion.factorise import reconstruct
from dynamicverse.dynamicba.motion.moving_objects import solve_objects
from dynamicverse.dynamicba.motion.object_scale import object_tracks
from dynamicverse.dynamicba.motion.rigid_objects import fit_rigid
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.lie import so3_exp

FRAMES = 24
LIMITS = Tolerances(3.0, np.radians(1.0), 1.0)


@pytest.fixture(scope="module")
def clip() -> ObjectClip:
    return things("box", "orbit", FRAMES, objects=2)


def spinning(frames: int, turn: float, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Rays (F, N, 2) of points in a cube that turns before a camera, and its rotations."""
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.4, 0.4, (count, 3))
    R = so3_exp(np.linspace(0, turn, frames)[:, None] * np.array([0.3, 0.9, 0.2]))
    camera = points @ np.swapaxes(R, 1, 2) + np.array([0.2, 0.1, 5.0])
    return camera[..., :2] / camera[..., 2:], R


def tracks_of(rays_FN2: np.ndarray, focal: float = 300.0, noise: float = 0.2) -> TrackGraph:
    frames, count = rays_FN2.shape[:2]
    rng = np.random.default_rng(0)
    xy = focal * rays_FN2 + np.array([SIZE[0] - 1, SIZE[1] - 1]) / 2
    xy = xy + rng.normal(0, noise, xy.shape)
    visible = np.ones((frames, count), bool)
    zeros = np.zeros(count, np.int32)
    return TrackGraph(
        Tracks(xy.astype(np.float32), visible, visible.astype(np.float32), zeros, zeros, SIZE)
    )


def test_factorisation_finds_the_motion_or_its_reversal() -> None:
    rays, R = spinning(12, 0.8)
    shape = reconstruct(rays, np.ones(rays.shape[:2], bool), 1e-4)
    assert shape is not None
    assert shape.known_V.all()
    mirror = np.diag([1.0, 1.0, -1.0])
    errors = [rotation_errors(shape.R_V33, m @ R @ m).max() for m in (np.eye(3), mirror)]
    assert min(errors) < 3.0


def test_factorisation_needs_relief_and_tracks() -> None:
    rays, _ = spinning(12, 0.0)
    rays = rays + np.linspace(0, 0.1, 12)[:, None, None]  # moves, but never turns
    noisy = rays + np.random.default_rng(0).normal(0, 1e-3, rays.shape)
    assert reconstruct(noisy, np.ones(rays.shape[:2], bool), 1e-3) is None
    few, _ = spinning(12, 0.8, count=6)
    assert reconstruct(few, np.ones(few.shape[:2], bool), 1e-4) is None


def test_tracks_seen_for_a_while_only_are_joined() -> None:
    rays, R = spinning(40, 2.0, count=120)
    start = np.arange(120) // 10 * 3
    frame = np.arange(40)[:, None]
    visible = (frame >= start) & (frame < start + 14)
    shape = reconstruct(rays, visible, 1e-4)
    assert shape is not None
    assert shape.known_V.mean() > 0.9
    mirror = np.diag([1.0, 1.0, -1.0])
    known = shape.known_V
    errors = [rotation_errors(shape.R_V33[known], (m @ R @ m)[known]) for m in (np.eye(3), mirror)]
    assert min(np.median(e) for e in errors) < 5.0


def test_bundle_adjustment_tells_a_shape_from_its_reversal() -> None:
    rays, R = spinning(16, 0.9)
    shape = fit_rigid(tracks_of(rays), 300.0, LIMITS, 100)
    assert shape is not None
    assert rotation_errors(shape.o2c_F44[:, :3, :3], R).max() < 2.0
    assert shape.explained > 0.85
    assert shape.rmse_px < 0.35


def test_two_motions_are_no_rigid_body() -> None:
    one, _ = spinning(16, 0.9)
    rng = np.random.default_rng(1)
    other = rng.uniform(-0.05, 0.05, (1, 60, 2)) + np.linspace(0, 0.2, 16)[:, None, None]
    other = other + 0.03 * np.sin(np.arange(16)[:, None, None] + np.arange(60)[None, :, None])
    shape = fit_rigid(tracks_of(np.concatenate([one, other], 1)), 300.0, LIMITS, 100)
    assert shape is None or shape.explained < 0.6


def test_nothing_is_made_of_too_few_tracks() -> None:
    rays, _ = spinning(16, 0.9, count=5)
    assert fit_rigid(tracks_of(rays), 300.0, LIMITS, 100) is None
    rays, _ = spinning(2, 0.9)
    assert fit_rigid(tracks_of(rays), 300.0, LIMITS, 100) is None


@pytest.mark.parametrize("instance", [1, 2])
def test_a_rendered_box_turns_as_it_did(clip: ObjectClip, instance: int) -> None:
    own = object_tracks(clip.tracks, clip.cameras, instance)
    shape = fit_rigid(own.graph(), own.focal, LIMITS, 100)
    assert shape is not None
    c2o_F44 = np.linalg.inv(clip.poses_F44(instance)) @ clip.cameras.c2w_F44
    known = np.isfinite(shape.o2c_F44[:, 0, 0])
    assert known.mean() > 0.9
    errors = rotation_errors(shape.o2c_F44[known, :3, :3], np.linalg.inv(c2o_F44)[known, :3, :3])
    assert np.median(errors) < 2.0


def test_a_long_clip_is_adjusted_in_part(clip: ObjectClip) -> None:
    own = object_tracks(clip.tracks, clip.cameras, 1)
    shape = fit_rigid(own.graph(), own.focal, LIMITS, 10)
    assert shape is not None
    assert np.isfinite(shape.o2c_F44[:, 0, 0]).mean() > 0.9


def test_the_longest_tracks_of_every_frame_are_used() -> None:
    visible = np.zeros((6, 5), bool)
    visible[:4, 0] = visible[:3, 1] = visible[:, 2] = visible[4:, 3] = True
    assert rigid_objects.longest(visible, 1).tolist() == [False, False, True, False, False]
    assert rigid_objects.longest(visible, 2).tolist() == [True, False, True, True, False]


def test_objects_are_placed_by_their_anchors(clip: ObjectClip) -> None:
    solved = solve_objects(clip.tracks, clip.cameras, clip.anchors(), "contact", LIMITS, 100)
    assert [item.instance for item in solved] == [1, 2]
    for item in solved:
        assert (item.model, item.scale_source) == ("rigid", "contact")
        truth_F44 = clip.poses_F44(item.instance)
        known = np.isfinite(item.o2w_F44[:, 0, 0])
        found = item.o2w_F44[known]
        assert np.median(rotation_errors(found[:, :3, :3], truth_F44[known, :3, :3])) < 2.0
        np.testing.assert_allclose(found[0, :3, :3], np.eye(3), atol=1e-6)
        seen = item.depth_FT > 0
        error = np.abs(item.depth_FT / clip.depth_FN[:, item.track_T] - 1)[seen]
        assert seen.sum() > 0.7 * clip.tracks.visibility_FN[:, item.track_T].sum()
        assert np.median(error) < 0.03
        # the origin is a fixed point of the object
        origin = np.linalg.inv(truth_F44[known]) @ found[:, :, 3:]
        assert np.linalg.norm(origin[:, :3, 0] - np.median(origin[:, :3, 0], 0), axis=1).max() < 0.2


def test_without_anchors_only_the_rotation_is_known(clip: ObjectClip) -> None:
    nothing: list[dict[int, None]] = [{1: None} for _ in range(FRAMES)]
    (item,) = solve_objects(clip.tracks, clip.cameras, nothing, "contact", LIMITS, 100)
    assert (item.model, item.scale_source) == ("rigid", "none")
    known = np.isfinite(item.o2w_F44[:, 0, 0])
    assert known.any()
    assert np.isnan(item.o2w_F44[known, :3, 3]).all()
    assert (item.o2w_F44[known, 3] == [0, 0, 0, 1]).all()
    assert not item.depth_FT.any()


def test_frames_without_camera_have_no_pose(clip: ObjectClip) -> None:
    c2w_F44 = clip.cameras.c2w_F44.copy()
    c2w_F44[[3, 4]] = np.nan
    cameras = type(clip.cameras)(c2w_F44, clip.cameras.K_F33)
    solved = solve_objects(clip.tracks, cameras, clip.anchors(), "contact", LIMITS, 100)
    assert np.isnan(solved[0].o2w_F44[[3, 4]]).all()
    assert not solved[0].depth_FT[[3, 4]].any()
    assert np.isfinite(solved[0].o2w_F44[5]).all()
