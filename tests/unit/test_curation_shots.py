"""Cuts between synthetic shots, and none where there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from media_files import Image, shot, texture

from dynamicverse.curation.shots import LOOK_AHEAD, ShotDetector, found_again, is_black, small

SIZE = (320, 192)


def cuts(frames: list[Image]) -> list[int]:
    """Push all frames; check that each answer comes LOOK_AHEAD frames late."""
    detector = ShotDetector()
    found = []
    for index, frame in enumerate(frames):
        answer = detector.push(small(frame))
        if answer is not None:
            assert answer == index - LOOK_AHEAD
            found.append(answer)
    return found + detector.finish()


def scene(seed: int, count: int, step: float = 2.0) -> list[Image]:
    return shot(seed, count, *SIZE, step=step)


def test_hard_cuts_at_the_right_frame() -> None:
    frames = scene(1, 20) + scene(2, 7) + scene(3, 30, step=5) + scene(4, 15, step=0)
    assert cuts(frames) == [20, 27, 57]


@pytest.mark.parametrize("stray", [1, 2, 3])
def test_a_cut_next_to_either_end(stray: int) -> None:
    assert cuts(scene(1, 20) + scene(2, stray)) == [20]
    assert cuts(scene(1, stray) + scene(2, 20)) == [stray]


@pytest.mark.parametrize("step", [0.0, 1.0, 10.0, 40.0])
def test_no_cut_in_a_pan_of_any_speed(step: float) -> None:
    assert cuts(scene(1, 30, step)) == []


def test_no_cut_where_a_pan_starts_and_stops() -> None:
    picture = texture(5, 1400, 224)
    x = np.cumsum([0.0] * 12 + [16.0] * 12 + [0.0] * 12)
    frames = [cv2.getRectSubPix(picture, SIZE, (170 + float(i), 110)) for i in x]
    assert cuts(frames) == []


def test_flashes_and_switched_light_are_no_cuts() -> None:
    for length in (1, 2):
        frames = scene(1, 40)
        for i in range(15, 15 + length):
            frames[i] = np.full_like(frames[i], 250)
        assert cuts(frames) == []
    frames = scene(1, 40)
    dimmed = [(f * 0.35).astype(np.uint8) if i >= 20 else f for i, f in enumerate(frames)]
    assert cuts(dimmed) == []


def test_an_object_that_passes_close_by_is_no_cut() -> None:
    frames = [f.copy() for f in scene(1, 40)]
    for i, x in enumerate(range(-200, 320, 70)):
        frames[15 + i][:, max(0, x) : max(0, x + 180)] = (20, 30, 200)
    assert cuts(frames) == []


def test_a_fade_through_black_gives_a_black_shot() -> None:
    out, into = scene(1, 30), scene(2, 30)
    for i in range(10):
        out[20 + i] = (out[20 + i] * (1.0 - i / 10)).astype(np.uint8)
        into[i] = (into[i] * ((i + 1) / 10)).astype(np.uint8)
    black = [np.zeros_like(out[0])] * 8
    assert cuts(out + black + into) == [30, 38]


def test_a_single_black_frame_is_no_shot() -> None:
    frames = scene(1, 30)
    frames[12] = np.zeros_like(frames[12])
    assert cuts(frames) == []


def test_short_clips() -> None:
    for count in range(6):
        assert cuts(scene(1, count)) == []
    assert ShotDetector().finish() == []


def test_black_and_dark() -> None:
    dark = (texture(1, *SIZE) * 0.1).astype(np.uint8)
    assert not is_black(dark)
    assert is_black(np.full((192, 320, 3), 2, np.uint8))


def test_corners_are_found_again_only_in_the_same_view() -> None:
    first, *_, last = scene(1, 6)
    other = scene(2, 1)[0]
    assert found_again(first, last) > 0.7
    assert found_again(first, other) < 0.1
    assert found_again(np.zeros_like(first), other) == 0.0


def test_small_keeps_the_shape() -> None:
    assert small(np.zeros((480, 854, 3), np.uint8)).shape == (180, 320, 3)
    assert small(np.zeros((2000, 100, 3), np.uint8)).shape == (320, 16, 3)
    assert small(np.zeros((64, 64, 3), np.uint8)).shape == (64, 64, 3)
