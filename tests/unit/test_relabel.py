"""Labels of tracks against their motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from object_clips import ObjectClip, things

from dynamicverse.dynamicba.cameras.mapping import Tolerances
from dynamicverse.dynamicba.motion.relabel import relabel

FRAMES = 24
LIMITS = Tolerances(3.0, np.radians(1.0), 1.0)


@pytest.fixture(scope="module")
def clip() -> ObjectClip:
    return things("box", "dolly", FRAMES, objects=2)


def known_static(clip: ObjectClip) -> np.ndarray:
    return np.zeros(len(clip.tracks.instance_id_N), bool)


def test_right_labels_are_kept(clip: ObjectClip) -> None:
    found = relabel(clip.tracks, known_static(clip), clip.cameras, LIMITS)
    changed = found.instance_id_N != clip.tracks.instance_id_N
    assert changed.mean() < 0.01
    assert found.parked == []


def test_background_in_a_mask_becomes_static_with_its_point(clip: ObjectClip) -> None:
    rng = np.random.default_rng(0)
    background = np.flatnonzero(clip.tracks.instance_id_N == 0)
    wrong = rng.choice(background, 30, replace=False)
    labels = clip.tracks.instance_id_N.copy()
    labels[wrong] = 1
    tracks = replace(clip.tracks, instance_id_N=labels)
    found = relabel(tracks, known_static(clip), clip.cameras, LIMITS)
    righted = wrong[found.instance_id_N[wrong] == 0]
    assert len(righted) > 20
    assert found.to_static >= len(righted)
    error = np.linalg.norm(found.points_N3[righted] - clip.points_FN3[0, righted], axis=1)
    assert np.median(error) < 0.2
    assert any("stand still" in s for s in found.statements)


def test_a_missed_part_of_an_object_joins_it(clip: ObjectClip) -> None:
    rng = np.random.default_rng(0)
    moving = np.flatnonzero(clip.tracks.instance_id_N == 1)
    missed = rng.choice(moving, len(moving) // 5, replace=False)
    labels = clip.tracks.instance_id_N.copy()
    labels[missed] = 0
    tracks = replace(clip.tracks, instance_id_N=labels)
    found = relabel(tracks, known_static(clip), clip.cameras, LIMITS)
    joined = found.instance_id_N[missed] == 1
    assert joined.mean() > 0.5
    assert found.to_moving >= joined.sum()


def test_what_moves_alone_is_set_aside(clip: ObjectClip) -> None:
    labels = np.zeros_like(clip.tracks.instance_id_N)
    tracks = replace(clip.tracks, instance_id_N=labels)
    found = relabel(tracks, known_static(clip), clip.cameras, LIMITS)
    moving = clip.tracks.instance_id_N > 0
    assert found.to_moving == 0
    assert (found.instance_id_N[moving] == -1).mean() > 0.5
    assert (found.instance_id_N[~moving] == -1).mean() < 0.01


def test_an_object_that_stands_still_keeps_its_tracks_and_is_named(clip: ObjectClip) -> None:
    background = np.flatnonzero(clip.tracks.instance_id_N == 0)
    labels = clip.tracks.instance_id_N.copy()
    labels[background[::7]] = 9
    tracks = replace(clip.tracks, instance_id_N=labels)
    found = relabel(tracks, known_static(clip), clip.cameras, LIMITS)
    assert found.parked == [9]
    assert (found.instance_id_N[background[::7]] == 9).all()
    assert any(s.endswith("9") for s in found.statements)
