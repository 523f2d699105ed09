"""What is missing of a moving thing is found by its flow; flow and masks are exact."""

from __future__ import annotations

import numpy as np

from dynamicverse.backends.analysis.completion import complete

SHAPE = (120, 216)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
ALL = np.ones(SHAPE, bool)
BOX = (X >= 60) & (X < 120) & (Y >= 40) & (Y < 90)
Chains = list[tuple[np.ndarray, np.ndarray]]


def chains(flow_HW2: np.ndarray, valid: np.ndarray = ALL) -> Chains:
    """The same motion forward and backward, with noise of 0.05 px."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=(2, *SHAPE, 2))
    return [
        ((sign * flow_HW2 + n).astype(np.float32), valid)
        for sign, n in zip((1, -1), noise, strict=True)
    ]


def moved(mask: np.ndarray, u: np.ndarray | float, v: np.ndarray | float) -> np.ndarray:
    flow = np.zeros((*SHAPE, 2), np.float32)
    flow[mask] = np.stack(np.broadcast_arrays(u, v, X), -1)[mask][:, :2]
    return flow


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


def test_the_rest_of_a_thing_is_added() -> None:
    """It turns and comes nearer while it goes, so no translation explains it."""
    turn, nearer = 0.03, 0.04
    u = 6 + nearer * (X - 90) - turn * (Y - 65)
    v = 1 + turn * (X - 90) + nearer * (Y - 65)
    known = BOX & (X < 85)
    assert overlap(known, BOX) < 0.45
    assert overlap(complete(known, chains(moved(BOX, u, v))), BOX) > 0.9


def test_a_small_error_does_not_grow_over_a_large_surface() -> None:
    known = BOX & (X < 75)
    assert np.array_equal(complete(known, chains(moved(BOX, 5, 0))), known)


def test_a_hole_is_filled() -> None:
    known = BOX & ~((abs(X - 90) < 8) & (abs(Y - 65) < 8))
    assert complete(known, chains(moved(BOX, 5, 0)))[BOX].mean() > 0.99


def test_another_motion_is_not_added() -> None:
    left, right = BOX & (X < 90), BOX & (X >= 90)
    found = complete(left, chains(moved(left, 5, 0) + moved(right, 3, 0)))
    assert (found & right).sum() < 0.05 * right.sum()


def test_motion_that_goes_on_without_a_jump_is_background() -> None:
    zoom = np.stack([0.05 * (X - 108), 0.05 * (Y - 60)], -1)
    assert np.array_equal(complete(BOX, chains(zoom)), BOX)


def test_flow_that_is_not_consistent_adds_nothing() -> None:
    known = BOX & (X < 85)
    found = complete(known, chains(moved(BOX, 5, 0), valid=X < 85))
    assert (found & ~known).sum() < 0.02 * known.sum()


def test_what_bends_at_every_pixel_is_left_alone() -> None:
    noise = np.random.default_rng(1).normal(scale=2, size=(*SHAPE, 2))
    known = BOX & (X < 85)
    assert np.array_equal(complete(known, chains(moved(BOX, 5, 0) + noise)), known)


def test_without_flow_or_without_motion_nothing_changes() -> None:
    assert np.array_equal(complete(BOX, []), BOX)
    assert not complete(~ALL, chains(moved(BOX, 5, 0))).any()
