"""How SAM 2's masks are put together and its frames read, without its network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from dynamicverse.backends.segmenter.joined import Joined
from dynamicverse.backends.segmenter.pictures import Pictures

CPU = torch.device("cpu")


def _scores(*values: float) -> Any:
    return torch.tensor(values)[None]


@pytest.mark.parametrize("packed", [False, True])
def test_labels_come_in_order_once_all_scores_of_a_frame_are_there(packed: bool) -> None:
    joined = Joined([0, 1], 3, (3, 1), CPU, packed)
    joined.add(1, False, 7, _scores(2, -1, -1))
    joined.add(2, False, 9, _scores(1, 1, 1))
    assert list(joined.ready()) == []
    joined.add(0, True, 9, _scores(5, 5, -5))
    joined.add(0, False, 7, _scores(1, -1, -1))
    [(first, label_HW)] = joined.ready()
    # 9 is surer of the first pixel, but its prompt comes later
    assert (first, label_HW.tolist()) == (0, [[7, 9, 0]])
    joined.add(1, False, 9, _scores(3, -1, -1))
    joined.add(2, False, 7, _scores(2, 0, -1))
    found = [(t, label_HW.numpy()) for t, label_HW in joined.ready()]
    assert [t for t, _ in found] == [1, 2]
    np.testing.assert_array_equal(found[0][1], [[9, 0, 0]])
    np.testing.assert_array_equal(found[1][1], [[7, 9, 9]])


def test_without_objects_every_frame_is_empty_at_once() -> None:
    found = list(Joined([], 2, (4, 3), CPU).ready())
    assert [t for t, _ in found] == [0, 1]
    assert all(label_HW.shape == (3, 4) and not label_HW.any() for _, label_HW in found)


def _counted(most: int) -> tuple[list[list[int]], Pictures[int]]:
    batches: list[list[int]] = []

    def encode(frames: list[Any]) -> Iterator[list[int]]:
        batches.append([int(frame[0]) for frame in frames])
        yield [10 * int(frame[0]) for frame in frames[:1]]
        yield [10 * int(frame[0]) for frame in frames[1:]]

    return batches, Pictures(lambda t: np.array([t], np.uint8), 10, encode, 4, most)


def test_pictures_are_encoded_once_in_the_direction_that_is_taken() -> None:
    batches, pictures = _counted(10)
    with closing(pictures):
        assert [pictures(t, 1) for t in range(5, 10)] == [50, 60, 70, 80, 90]
        assert [pictures(t, -1) for t in range(6, -1, -1)] == [60, 50, 40, 30, 20, 10, 0]
    assert batches == [[5, 6, 7, 8], [9], [4, 3, 2, 1], [0]]


def test_pictures_hold_no_more_than_they_may() -> None:
    batches, pictures = _counted(4)
    with closing(pictures):
        assert [pictures(t, 1) for t in range(10)] == [10 * t for t in range(10)]
        assert pictures(0, 1) == 0
    assert batches[-1] == [0, 1, 2, 3]
