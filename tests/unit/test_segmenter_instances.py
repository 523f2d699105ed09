"""Which of the instances that a name found is which object of the analysis."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynamicverse.backends.segmenter.instances import Instances
from dynamicverse.formats.objects import DynamicObject, Position

SIZE = (96, 64)


def _inside(x0: int, y0: int, x1: int, y1: int) -> Any:
    """A filled box, its last row and column included."""
    inside_HW = np.zeros(SIZE[::-1], bool)
    inside_HW[y0 : y1 + 1, x0 : x1 + 1] = True
    return inside_HW


def _object(i: int, name: str, *places: tuple[int, list[float]]) -> DynamicObject:
    return DynamicObject(
        name=name,
        category="other",
        tracking_id=i,
        reasoning="",
        confidence=None,
        position=[Position(frame=t, box=box) for t, box in places],
    )


def _drawn(instances: Instances, frame: int, owners: dict[int, int]) -> Any:
    label_HW = np.zeros(SIZE[::-1], np.uint8)
    instances.draw(frame, owners, label_HW)
    return label_HW


def test_of_many_instances_those_in_the_boxes_are_the_objects() -> None:
    instances = Instances()
    for t in range(3):
        instances.add(t, "car", 0, 0.9, _inside(5, 5, 20, 20))
        instances.add(t, "car", 1, 0.9, _inside(40, 5, 60, 20))  # parked
        instances.add(t, "dog", 2, 0.9, _inside(70, 30, 90, 50))
    owners = instances.owners(
        [_object(7, "car", (1, [4, 6, 21, 22])), _object(9, "dog", (0, [70, 30, 90, 50]))]
    )
    assert owners == {0: 7, 2: 9}
    label_HW = _drawn(instances, 2, owners)
    assert np.array_equal(label_HW == 7, _inside(5, 5, 20, 20))
    assert np.array_equal(label_HW == 9, _inside(70, 30, 90, 50))


def test_a_box_on_another_names_instance_does_not_make_it_that_object() -> None:
    instances = Instances()
    instances.add(0, "dog", 0, 0.9, _inside(5, 5, 20, 20))
    assert instances.owners([_object(1, "car", (0, [5, 5, 20, 20]))]) == {}


def test_neighbours_are_paired_one_to_one() -> None:
    """Both people overlap the first box most; only together they find the right ones."""
    instances = Instances()
    instances.add(0, "person", 0, 0.9, _inside(10, 10, 30, 50))
    instances.add(0, "person", 1, 0.9, _inside(18, 10, 38, 50))
    left, right = (
        _object(1, "person", (0, [13, 10, 33, 50])),
        _object(2, "person", (0, [28, 10, 48, 50])),
    )
    assert instances.owners([left, right]) == {0: 1, 1: 2}


def test_what_was_lost_and_found_again_is_one_object() -> None:
    instances = Instances()
    instances.add(0, "ball", 0, 0.9, _inside(10, 10, 20, 20))
    instances.add(9, "ball", 4, 0.9, _inside(50, 30, 60, 40))
    ball = _object(3, "ball", (0, [10, 10, 20, 20]), (9, [50, 30, 60, 40]))
    owners = instances.owners([ball])
    assert owners == {0: 3, 4: 3}
    assert _drawn(instances, 9, owners)[35, 55] == 3


def test_most_of_the_overlap_decides_over_all_boxes() -> None:
    instances = Instances()
    for t in (0, 1, 2):
        instances.add(t, "cat", 0, 0.9, _inside(10, 10, 29, 29))
    one = _object(1, "cat", (0, [10, 10, 29, 29]))
    two = _object(2, "cat", (1, [12, 10, 31, 29]), (2, [12, 10, 31, 29]))
    assert instances.owners([one, two]) == {0: 2}


def test_of_two_on_a_pixel_the_surer_has_it() -> None:
    for scores, expected in (((0.6, 0.7), 2), ((0.7, 0.6), 1)):
        instances = Instances()
        instances.add(0, "car", 0, scores[0], _inside(0, 0, 30, 30))
        instances.add(0, "red car", 1, scores[1], _inside(20, 20, 50, 50))
        label_HW = _drawn(instances, 0, {0: 1, 1: 2})
        assert label_HW[25, 25] == expected
        assert (label_HW[5, 5], label_HW[45, 45]) == (1, 2)


def test_an_instance_without_pixels_or_an_unknown_frame_draws_nothing() -> None:
    instances = Instances()
    instances.add(0, "car", 0, 0.9, np.zeros(SIZE[::-1], bool))
    assert instances.owners([_object(1, "car", (0, [0, 0, 90, 60]))]) == {}
    assert not _drawn(instances, 5, {0: 1}).any()
