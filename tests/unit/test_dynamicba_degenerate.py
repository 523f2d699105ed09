"""Motions and scenes from which not everything can be known, and tracks that are mostly wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from camera_clips import FOCAL, SIZE, Clip, drive, film, room, walk

from dynamicverse.config import CamerasConfig, ReconstructionConfig
from dynamicverse.dynamicba.cameras.solution import CameraSolution
from dynamicverse.dynamicba.cameras.solve import solve_cameras
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.geometry.lie import se3
from dynamicverse.geometry.projection import image_centre

CONFIG = ReconstructionConfig()


def ate(found: CameraSolution, clip: Clip) -> float:
    error = trajectory_error(found.c2w_F44, clip.c2w_F44).ate_of_path
    assert error is not None
    return error


def focal_is_honest(found: CameraSolution) -> None:
    """Within two and a half stated standard deviations, and doubt is put into words."""
    assert found.focal_sigma_F is not None
    focal, sigma = found.K_F33[0, 0, 0], found.focal_sigma_F[0]
    assert abs(focal - FOCAL) < 2.5 * sigma
    if abs(focal / FOCAL - 1) > 0.1:
        assert any("focal length" in line for line in found.statements)


def test_a_straight_line_without_turns_tells_no_focal_length() -> None:
    place = np.outer(np.arange(20), [0.0, 0.0, 0.15])
    clip = film(se3(np.eye(3), place), room(700) * [1.5, 1, 2], noise=0.2)
    found = solve_cameras(clip.tracks, CONFIG)
    assert found.status == "full"
    assert found.registered_F.all()
    assert ate(found, clip) < 0.02
    assert found.focal_source == "assumed"
    assert found.K_F33[0, 0, 0] == pytest.approx(max(SIZE))
    assert "the focal length cannot be estimated from this motion" in found.statements
    focal_is_honest(found)


def test_poses_are_as_uncertain_as_an_assumed_focal_length_makes_them() -> None:
    """Without turns, the direction of a slanting path follows from the focal length."""
    place = np.outer(np.arange(20), [0.1, 0.0, 0.15])
    clip = film(se3(np.eye(3), place), room(700) * [1.5, 1, 2], noise=0.2)
    found = solve_cameras(clip.tracks, CONFIG)
    assert found.focal_source == "assumed"
    assert found.pose_sigma_F6 is not None
    centres = found.c2w_F44[:, :3, 3]
    last, depth = centres[-1], np.argmax(np.abs(centres[-1]))  # this coordinate gives the scale
    truth = place[-1] * last[depth] / place[-1, depth]
    assert np.abs(last - truth).max() > 0.1 * np.linalg.norm(truth)
    sigma = found.pose_sigma_F6[-1, 3:]
    side = 0 if depth == 2 else 2
    assert abs(last[side] - truth[side]) < 2.5 * sigma[side]


def test_a_plane() -> None:
    points = room(700)
    points[:, 2] = 6 + 0.3 * points[:, 0] - 0.2 * points[:, 1]
    clip = film(walk(24), points)
    found = solve_cameras(clip.tracks, CONFIG)
    assert found.status == "full"
    assert found.registered_F.sum() >= 20
    focal_is_honest(found)


def test_few_frames_with_little_parallax() -> None:
    clip = film(walk(6, step=0.03), room(500))
    found = solve_cameras(clip.tracks, CONFIG)
    if found.status == "full":
        focal_is_honest(found)
    else:
        assert found.statements


def test_a_tiny_baseline_and_then_a_large_one() -> None:
    step = np.where(np.arange(24) < 12, 0.004, 0.12)
    c2w_F44 = walk(24)
    c2w_F44[:, :3, 3] = np.cumsum(step)[:, None] * [1.0, 0.1, 0.2]
    clip = film(c2w_F44, room(800))
    found = solve_cameras(clip.tracks, CONFIG)
    assert found.status == "full"
    assert found.registered_F.all()
    assert ate(found, clip) < 0.01
    focal_is_honest(found)


@pytest.mark.parametrize("zoom_sigma", [0.02, "auto"])
def test_a_zoom(zoom_sigma: float | Literal["auto"]) -> None:
    clip = film(walk(24), room(800), noise=0.2)
    zoom_F = np.exp(0.008 * np.arange(24))
    found = solve_cameras(
        zoomed(clip.tracks, zoom_F),
        ReconstructionConfig(cameras=CamerasConfig(zoom_sigma=zoom_sigma)),
    )
    assert found.status == "full"
    np.testing.assert_allclose(found.K_F33[:, 0, 0], FOCAL * zoom_F, rtol=0.03)
    assert ate(found, clip) < 0.02
    said = any("the clip zooms" in statement for statement in found.statements)
    assert said == (zoom_sigma == "auto")


def test_what_may_look_like_a_zoom() -> None:
    """Driving straight ahead, and sliding tracks: one focal length is enough."""
    ahead = film(drive(24), room(800) * [2, 2, 2], noise=0.2).tracks
    rng = np.random.default_rng(2)
    walked = film(walk(24), room(800), noise=0.2).tracks
    steps = rng.normal(0, 0.3, (24, 800, 2)).astype(np.float32)
    drifting = replace(walked, tracks_FN2=walked.tracks_FN2 + np.cumsum(steps, 0))
    for tracks in (ahead, drifting):
        found = solve_cameras(tracks, CONFIG)
        assert found.status == "full"
        assert np.ptp(found.K_F33[:, 0, 0]) == 0


def zoomed(tracks: Tracks, zoom_F: npt.NDArray[np.float64]) -> Tracks:
    """The tracks as a focal length times `zoom_F` (F,) sees them."""
    centre = image_centre(SIZE)
    pixels = (tracks.tracks_FN2 - centre) * zoom_F[:, None, None] + centre
    return replace(tracks, tracks_FN2=pixels.astype(np.float32))


@pytest.mark.parametrize("outliers", [0.1, 0.2, 0.3, 0.4])
def test_outliers_up_to_40_per_cent(outliers: float) -> None:
    clip = film(walk(20), room(900), outliers=outliers)
    found = solve_cameras(clip.tracks, CONFIG)
    assert found.status == "full"
    assert found.registered_F.all()
    assert ate(found, clip) < 0.01
    assert found.K_F33[0, 0, 0] == pytest.approx(FOCAL, rel=0.05)


def test_sliding_tracks_do_not_bend_the_focal_length() -> None:
    """A third of the tracks slide smoothly, as on moving edges: the others decide."""
    clip = film(walk(24), room(900), noise=0.03, length=40)
    rng = np.random.default_rng(1)
    frames, count = clip.tracks.visibility_FN.shape
    slides_N = (rng.random(count) < 0.33).astype(np.float64)
    away_N2 = (clip.tracks.tracks_FN2.mean(0) - image_centre(SIZE)) / max(SIZE)
    phase = np.linspace(-1, 1, frames)[:, None, None] ** 2
    drift = 6 * phase * away_N2 * slides_N[:, None]
    tracks = replace(clip.tracks, tracks_FN2=(clip.tracks.tracks_FN2 + drift).astype(np.float32))
    found = solve_cameras(tracks, CONFIG)
    assert found.K_F33[0, 0, 0] == pytest.approx(FOCAL, rel=0.01)
    assert ate(found, clip) < 0.002
