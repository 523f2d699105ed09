"""DIS flow against images moved by known maps; consistency against hand-computed fields."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from moving_clips import moved, shift, texture, true_flow, turn

from dynamicverse import backends
from dynamicverse.backends.flow.consistency import consistency
from dynamicverse.backends.flow.dis import DisFlow
from dynamicverse.config import KeyframesConfig

H, W = 120, 200


def one_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(DisFlow(KeyframesConfig()).stream(iter([first, second])))
    assert len(pairs) == 1
    return pairs[0]


def end_point_error(flow: np.ndarray, truth: np.ndarray, margin: int) -> np.ndarray:
    inner = (slice(margin, -margin), slice(margin, -margin))
    return np.linalg.norm(flow[inner] - truth[inner], axis=-1)


@pytest.mark.parametrize("motion", [(0.0, 0.0), (5.3, -2.7), (-19.0, 8.5)])
def test_translation_is_found_in_both_directions(motion: tuple[float, float]) -> None:
    first = texture()
    forward, backward = one_pair(first, moved(first, shift(*motion)))
    assert forward.shape == backward.shape == (H, W, 2)
    assert forward.dtype == backward.dtype == np.float32
    assert end_point_error(forward, np.broadcast_to(motion, (H, W, 2)), 25).mean() < 0.1
    assert end_point_error(backward, -np.broadcast_to(motion, (H, W, 2)), 25).mean() < 0.1


def test_zoom_and_rotation_are_found() -> None:
    homography = turn(3.0, 1.04, (W / 2, H / 2))
    first = texture(3)
    forward, backward = one_pair(first, moved(first, homography))
    assert end_point_error(forward, true_flow(homography, H, W), 15).mean() < 0.15
    assert end_point_error(backward, true_flow(np.linalg.inv(homography), H, W), 15).mean() < 0.15


def test_stream_gives_a_pair_for_every_two_neighbours_in_order() -> None:
    first = texture(1)
    steps = [3.0, -5.0, 8.0]
    frames, total = [first], 0.0
    for step in steps:
        total += step
        frames.append(moved(first, shift(total, 0)))
    pairs = list(DisFlow(KeyframesConfig()).stream(iter(frames)))
    found = [np.median(forward[20:-20, 40:-40, 0]) for forward, _ in pairs]
    assert found == pytest.approx(steps, abs=0.1)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_without_two_frames(count: int) -> None:
    assert list(DisFlow(KeyframesConfig()).stream(iter([texture()] * count))) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (16, 300)])
def test_tiny_frames_have_flow_of_their_own_size(size: tuple[int, int]) -> None:
    frame = texture(0, *size)
    forward, backward = one_pair(frame, frame)
    assert forward.shape == backward.shape == (*size, 2)
    assert np.abs(forward).max() < 0.5


def test_flow_does_not_depend_on_the_number_of_threads() -> None:
    first, second = texture(5), texture(6)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = one_pair(first, second)
        cv2.setNumThreads(3)
        together = one_pair(first, second)
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(alone[0], together[0])
    assert np.array_equal(alone[1], together[1])


def test_backend_is_registered() -> None:
    assert isinstance(backends.load("flow", "dis", KeyframesConfig()), DisFlow)
    assert backends.info("flow", "dis").weights == ""


def constant(x: float, y: float, height: int = 40, width: int = 50) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32), (height, width, 2)).copy()


def test_opposite_flows_agree_where_the_target_is_inside() -> None:
    valid = consistency(constant(3, -2), constant(-3, 2))
    expected = np.zeros((40, 50), bool)
    expected[2:, :47] = True  # x + 3 <= 49, y - 2 >= 0
    assert np.array_equal(valid, expected)


@pytest.mark.parametrize(
    ("there", "back", "agree"),
    [
        # |f+b|² against 0.01 (|f|² + |b|²) + 0.5, by hand
        (1.0, -0.3, True),  # 0.49 < 0.5109
        (1.0, -0.2, False),  # 0.64 > 0.5104
        (20.0, -17.5, True),  # 6.25 < 7.5625
        (20.0, -17.0, False),  # 9 > 7.39
        (0.0, 0.0, True),
        (0.0, 0.8, False),  # 0.64 > 0.5064
    ],
)
def test_tolerance_grows_with_the_motion(there: float, back: float, agree: bool) -> None:
    valid = consistency(constant(there, 0), constant(back, 0))
    assert valid[20, 10] == agree
    assert valid[:, :30].all() == valid[:, :30].any() == agree


def test_the_backward_flow_is_read_where_the_forward_flow_leads() -> None:
    backward = constant(0, 0)
    backward[:, 30:] = (-10, 0)  # only the right part came from the left
    valid = consistency(constant(10, 0), backward)
    assert valid[:, 20:40].all()  # leads to x >= 30
    assert not valid[:, :19].any()


def test_background_that_gets_covered_is_not_valid() -> None:
    background, patch = texture(8), texture(9)
    first, second = background.copy(), background.copy()
    first[25:95, 50:120] = patch[25:95, 50:120]
    second[25:95, 60:130] = patch[25:95, 50:120]  # the square moves by 10 px
    forward, backward = one_pair(first, second)
    valid = consistency(forward, backward)
    assert valid[35:85, 123:128].mean() < 0.2  # will be covered
    assert valid[35:85, 60:110].mean() > 0.9  # the square itself
    assert valid[:, 150:].mean() > 0.9  # background far away
