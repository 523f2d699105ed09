"""Linking of groups over time."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.backends.analysis.instances import LOST_AFTER, PART_FRAMES, Linker

SHAPE = (60, 120)
Spot = tuple[int, int, int, int]  # x, y, width, height
RED, BLUE = (220, 30, 30), (30, 30, 220)


class Film:
    """Feeds a linker with rectangles that all move by `flow` a frame.

    refused: pairs of groups that do not keep together.
    """

    def __init__(
        self, flow: tuple[int, int] = (0, 0), refused: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.linker = Linker(lambda a, b: (min(a, b), max(a, b)) in refused)
        self.frame = 0
        self.backward = np.broadcast_to(-np.float32(flow), (*SHAPE, 2)).copy()

    def show(
        self,
        *spots: Spot,
        groups: tuple[int, ...] = (),
        colours: tuple[tuple[int, int, int], ...] = (),
    ) -> np.ndarray:
        """groups: of the rectangles (0: not known), 1, 2, … if not given."""
        named = np.zeros(SHAPE, np.int32)
        moving = np.zeros(SHAPE, bool)
        rgb = np.full((*SHAPE, 3), 128, np.uint8)
        for k, (x, y, w, h) in enumerate(spots):
            moving[y : y + h, x : x + w] = True
            named[y : y + h, x : x + w] = groups[k] if groups else k + 1
            rgb[y : y + h, x : x + w] = colours[k] if colours else RED
        votes = np.where(moving, 1.0, -1.0).astype(np.float32)
        backward = self.backward if self.frame else None
        ids = self.linker.add(self.frame, moving, named, votes, rgb, backward)
        self.frame += 1
        assert np.array_equal(ids > 0, moving)
        return ids


def test_a_group_keeps_its_id_wherever_it_goes() -> None:
    film = Film()
    first = film.show((5, 10, 20, 20), (5, 40, 20, 15))
    second = film.show((80, 10, 20, 20), (50, 40, 20, 15))
    assert second[20, 90] == first[20, 10] != 0
    assert second[45, 60] == first[45, 10] != 0
    assert first[20, 10] != first[45, 10]


def test_a_new_group_is_linked_by_the_flow_not_by_place() -> None:
    film = Film(flow=(25, 0))  # farther than its width
    film.show((5, 10, 20, 20), groups=(1,))
    assert film.show((30, 10, 20, 20), groups=(2,))[20, 40] == 1
    assert film.show((30, 10, 20, 20), groups=(3,))[20, 40] == 2  # should be at 55


def test_groups_that_do_not_keep_together_are_never_one() -> None:
    film = Film(refused=((1, 2),))
    film.show((5, 10, 20, 20), groups=(1,))
    assert film.show((5, 10, 20, 20), groups=(2,))[20, 10] == 2


def test_objects_that_touch_keep_their_ids() -> None:
    film = Film()
    for _ in range(PART_FRAMES):
        film.show((10, 20, 20, 20), (60, 20, 20, 20))
    together = film.show((10, 20, 35, 20), (45, 20, 35, 20))
    assert (together[30, 12], together[30, 78]) == (1, 2)
    assert film.linker.merged() == {1: 1, 2: 2}


@pytest.mark.parametrize(
    ("x", "width", "frames", "one"),
    [
        (41, 4, 20, True),
        (41, 30, 20, False),
        (41, 20, PART_FRAMES - 2, True),
        (90, 4, 20, False),
        (90, 20, PART_FRAMES - 2, False),
    ],
)
def test_small_and_short_lived_parts_belong_to_what_they_touch(
    x: int, width: int, frames: int, one: bool
) -> None:
    film = Film()
    for t in range(24):
        film.show((10, 20, 30, 20), *([(x, 20, width, 20)] if t < frames else []))
    assert film.linker.merged() == {1: 1, 2: 1 if one else 2}


def test_what_has_no_group_is_named_by_the_flow_or_its_neighbour() -> None:
    film = Film(flow=(4, 0))
    film.show((10, 20, 20, 20), groups=(1,))
    assert film.show((14, 20, 20, 20), groups=(0,))[30, 20] == 1  # by the flow
    both = film.show((18, 20, 20, 20), (38, 20, 20, 20), groups=(1, 0))
    assert both[30, 50] == 1  # by its neighbour
    alone = film.show((22, 20, 20, 20), (80, 20, 20, 20), groups=(1, 0))
    assert alone[30, 90] == 2


def test_specks_get_no_id() -> None:
    linker = Linker(lambda a, b: False)
    moving = np.zeros(SHAPE, bool)
    moving[5, 5:10] = True
    rgb = np.zeros((*SHAPE, 3), np.uint8)
    for groups in (moving.astype(np.int32), np.zeros(SHAPE, np.int32)):
        ids = linker.add(0, moving, groups, np.ones(SHAPE, np.float32), rgb, None)
        assert not ids.any()
    assert not linker.instances


@pytest.mark.parametrize(("hidden", "same"), [(1, True), (6, True), (LOST_AFTER + 1, False)])
def test_an_object_that_comes_back_keeps_its_id_for_a_while(hidden: int, same: bool) -> None:
    film = Film(flow=(2, 0))
    for t in range(8):
        film.show((10 + 2 * t, 20, 20, 20))
    for _ in range(hidden):
        film.show()
    x = 10 + 2 * (8 + hidden)
    back = film.show((x, 20, 20, 20), groups=(2,))
    assert (back.max() == 1) == same


def test_another_colour_is_another_object() -> None:
    film = Film()
    film.show((10, 20, 20, 20), colours=(RED,))
    film.show()
    film.show()
    assert film.show((10, 20, 20, 20), groups=(2,), colours=(BLUE,)).max() == 2


def test_far_away_is_another_object() -> None:
    film = Film()
    film.show((5, 5, 15, 15))
    film.show()
    film.show()
    assert film.show((95, 40, 15, 15), groups=(2,)).max() == 2
