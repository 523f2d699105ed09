"""Linking of moving regions over time."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.backends.analysis.instances import APART_FRAMES, LOST_AFTER, Linker

SHAPE = (60, 120)
Spot = tuple[int, int, int, int]  # x, y, width, height
RED, BLUE = (220, 30, 30), (30, 30, 220)


class Film:
    """Feeds a linker with rectangles that all move by `flow` a frame."""

    def __init__(self, flow: tuple[int, int] = (0, 0)) -> None:
        self.linker = Linker()
        self.frame = 0
        self.backward = np.broadcast_to(-np.float32(flow), (*SHAPE, 2)).copy()

    def show(self, *spots: Spot, colours: tuple[tuple[int, int, int], ...] = ()) -> np.ndarray:
        moving = np.zeros(SHAPE, bool)
        rgb = np.full((*SHAPE, 3), 128, np.uint8)
        for k, (x, y, w, h) in enumerate(spots):
            moving[y : y + h, x : x + w] = True
            rgb[y : y + h, x : x + w] = colours[k] if colours else RED
        votes = np.where(moving, 1.0, -1.0).astype(np.float32)
        ids = self.linker.add(self.frame, moving, votes, rgb, self.backward if self.frame else None)
        self.frame += 1
        assert np.array_equal(ids > 0, moving)
        return ids


def test_regions_are_linked_by_the_flow_not_by_place() -> None:
    film = Film(flow=(25, 0))  # farther than its width
    first = film.show((5, 10, 20, 20), (5, 40, 20, 15))
    second = film.show((30, 10, 20, 20), (30, 40, 20, 15))
    assert second[20, 40] == first[20, 10]
    assert second[45, 40] == first[45, 10]
    assert len(film.linker.instances) == 2


def test_specks_get_no_id() -> None:
    linker = Linker()
    moving = np.zeros(SHAPE, bool)
    moving[5, 5:10] = True
    rgb = np.zeros((*SHAPE, 3), np.uint8)
    ids = linker.add(0, moving, np.ones(SHAPE, np.float32), rgb, None)
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
    back = film.show((x, 20, 20, 20))
    assert (back.max() == 1) == same


def test_another_colour_is_another_object() -> None:
    film = Film()
    film.show((10, 20, 20, 20), colours=(RED,))
    film.show()
    film.show()
    assert film.show((10, 20, 20, 20), colours=(BLUE,)).max() == 2


def test_far_away_is_another_object() -> None:
    film = Film()
    film.show((5, 5, 15, 15))
    film.show()
    film.show()
    assert film.show((95, 40, 15, 15)).max() == 2


def test_objects_that_touch_keep_their_ids() -> None:
    film = Film()
    for _ in range(6):
        film.show((10, 20, 20, 20), (60, 20, 20, 20))
    together = film.show((10, 20, 70, 20))
    assert together[30, 12] == 1
    assert together[30, 78] == 2
    apart = film.show((10, 20, 20, 20), (60, 20, 20, 20))
    assert (apart[30, 12], apart[30, 78]) == (1, 2)
    assert film.linker.merged() == {1: 1, 2: 2}


def test_parts_that_touch_most_of_the_time_are_one_object() -> None:
    film = Film()
    film.show((10, 20, 20, 20), (60, 20, 20, 20))
    for _ in range(5):
        film.show((10, 20, 70, 20))
    assert film.linker.merged() == {1: 1, 2: 1}


def test_parts_that_stay_apart_become_two() -> None:
    film = Film()
    film.show((10, 20, 70, 20))
    for _ in range(APART_FRAMES - 1):
        ids = film.show((10, 20, 25, 20), (55, 20, 25, 20))
        assert ids.max() == 1
    ids = film.show((10, 20, 25, 20), (55, 20, 25, 20))
    assert {int(ids[30, 15]), int(ids[30, 60])} == {1, 2}
    after = film.show((10, 20, 25, 20), (55, 20, 25, 20))
    assert np.array_equal(after, ids)
