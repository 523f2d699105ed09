"""Masks that take most of some frames: refused where they are wrong, kept where they are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from camera_clips import Clip, film, room, walk

from dynamicverse.config import CamerasConfig, ReconstructionConfig
from dynamicverse.dynamicba.cameras.solution import CameraSolution
from dynamicverse.dynamicba.cameras.solve import solve_cameras
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.geometry.lie import se3, so3_exp

FRAMES, EARLY = 16, 6
CONFIG = ReconstructionConfig(cameras=CamerasConfig(tracks_per_frame=200))


def labelled(clip: Clip, share: float, instance: int = 1) -> Tracks:
    """A mask over a share of what is seen in the first frames: over what is on the left."""
    early_N = clip.tracks.visibility_FN[:EARLY].any(0)
    from_left_N = np.argsort(np.argsort(clip.points_N3[:, 0])) / len(clip.points_N3)
    ids_N = np.where(early_N & (from_left_N < share), instance, clip.tracks.instance_id_N)
    return replace(clip.tracks, instance_id_N=ids_N.astype(np.int32))


def ate(found: CameraSolution, clip: Clip) -> float:
    error = trajectory_error(found.c2w_F44, clip.c2w_F44).ate_of_path
    assert error is not None
    return error


def refusals(found: CameraSolution) -> list[str]:
    return [line for line in found.statements if "masks take most" in line]


def both(one: Tracks, two: Tracks, instance: int) -> Tracks:
    """The tracks of two clips; those of the second are on an instance."""
    joined = {
        name: np.concatenate([getattr(one, name), getattr(two, name)], 1)
        for name in ("tracks_FN2", "visibility_FN", "confidence_FN")
    }
    query_N = np.append(one.query_frame_N, two.query_frame_N)
    ids_N = np.append(one.instance_id_N, np.full(len(two.instance_id_N), instance, np.int32))
    return Tracks(**joined, query_frame_N=query_N, instance_id_N=ids_N, size=one.size)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return film(walk(FRAMES), room(450), length=7)


def test_what_stands_still_under_a_mask_holds_the_cameras(clip: Clip) -> None:
    """Hardly anything is left of the first frames, and what is masked stands still."""
    found = solve_cameras(labelled(clip, 0.97), CONFIG)
    assert found.registered_F.all()
    assert ate(found, clip) < 0.01
    (line,) = refusals(found)
    assert line.endswith("of 1")


def test_of_two_objects_only_the_one_that_stands_still_is_refused(clip: Clip) -> None:
    away = se3(so3_exp(np.outer(np.arange(FRAMES), [0, 0.01, 0.04])), walk(FRAMES)[:, :3, 3] * -1)
    mover = film(away, room(120, seed=5), length=7, seed=5)
    found = solve_cameras(both(labelled(clip, 0.97), mover.tracks, 2), CONFIG)
    assert found.registered_F.all()
    assert ate(found, clip) < 0.01
    (line,) = refusals(found)
    assert line.endswith("of 1")
    assert found.static_N[len(clip.points_N3) :].mean() < 0.1


def test_a_large_thing_that_moves_keeps_its_label() -> None:
    """It is rigid, and twice as much of every frame as the background."""
    clip = film(walk(FRAMES), room(300), length=20)
    away = se3(so3_exp(np.outer(np.arange(FRAMES), [0, 0.01, 0.04])), walk(FRAMES)[:, :3, 3] * -1)
    mover = film(away, room(600, seed=5), length=20, seed=5)
    found = solve_cameras(both(clip.tracks, mover.tracks, 1), CONFIG)
    assert not refusals(found)
    assert found.registered_F.all()
    assert ate(found, clip) < 0.01
