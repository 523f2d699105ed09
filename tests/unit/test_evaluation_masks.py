"""J, F, matching and id switches, by hand and against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from dynamicverse.evaluation.regions import (
    boundary,
    boundary_f,
    disk,
    id_switches,
    instance_matches,
    jaccard,
    mask_scores,
)

SHAPE = (40, 60)


def square(x: int, y: int, side: int = 10, instance: int = 1) -> np.ndarray:
    ids = np.zeros(SHAPE, np.uint8)
    ids[y : y + side, x : x + side] = instance
    return ids


def test_jaccard_by_hand() -> None:
    assert jaccard(square(0, 0) > 0, square(5, 0) > 0) == pytest.approx(50 / 150)
    assert jaccard(square(0, 0) > 0, square(30, 0) > 0) == 0
    empty = np.zeros(SHAPE, bool)
    assert jaccard(empty, empty) == 1


def test_boundary_of_a_square() -> None:
    """Pixels whose right, lower or diagonal neighbour differs: an L on two sides of the
    outside and on the two others inside, 9 + 11 + 9 + 11 = 40 pixels for a side of 10."""
    edge = boundary(square(20, 10) > 0)
    expected = np.zeros(SHAPE, bool)
    expected[9, 19:30] = True  # above: the row before, from the corner on
    expected[9:20, 19] = True
    expected[19, 20:30] = True
    expected[10:20, 29] = True
    np.testing.assert_array_equal(edge, expected)


def test_boundary_f_forgives_the_tolerance() -> None:
    radius = int(np.ceil(0.008 * np.hypot(*SHAPE)))
    assert disk(SHAPE).shape == (2 * radius + 1,) * 2
    truth = square(20, 10) > 0
    assert boundary_f(truth, truth) == 1
    assert boundary_f(square(20 + radius, 10) > 0, truth) == 1
    assert boundary_f(square(45, 25) > 0, truth) == 0
    assert boundary_f(np.zeros(SHAPE, bool), truth) == 0
    assert boundary_f(np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)) == 1


def test_boundary_f_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    one, two = square(20, 10) > 0, square(22, 12, 12) > 0
    one &= rng.random(SHAPE) < 0.9
    radius = int(np.ceil(0.008 * np.hypot(*SHAPE)))
    a, b = (np.argwhere(boundary(m)) for m in (one, two))
    near = ((a[:, None] - b[None]) ** 2).sum(2) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    assert boundary_f(one, two) == pytest.approx(2 * precision * recall / (precision + recall))


def test_first_and_last_frame_do_not_count() -> None:
    good, bad = square(5, 5), square(40, 25)
    for protocol in ("davis2016", "davis2017-unsupervised"):
        found = mask_scores(protocol, [bad, good, good, bad], [good] * 4)
        assert (found.j, found.f, found.frames) == (1, 1, 2)


def test_instances_are_matched_over_the_whole_clip() -> None:
    """Two objects whose ids are swapped, and one that is found twice as large."""
    truth = [square(5, 5, instance=1) + square(30, 5, instance=2)] * 4
    found = [square(5, 5, instance=7) + square(30, 5, 20, instance=3)] * 4
    scores = mask_scores("davis2017-unsupervised", found, truth)
    assert scores.j == pytest.approx((1 + 100 / 400) / 2)
    assert (scores.instances, scores.estimated, scores.id_switches) == (2, 2, 0)
    assert scores.false_foreground == pytest.approx(300 / (SHAPE[0] * SHAPE[1]))
    together = mask_scores("davis2016", found, truth)
    assert together.j == pytest.approx(200 / 500)
    assert together.id_switches is None


def test_the_matching_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    truth = [np.kron(rng.integers(0, 4, (8, 12)), np.ones((5, 5))).astype(np.uint8)] * 3
    noisy = np.where(rng.random(SHAPE) < 0.5, truth[0], rng.integers(0, 4, SHAPE))
    swapped = np.array([0, 2, 3, 1], np.uint8)[noisy]
    scores = mask_scores("davis2017-unsupervised", [swapped] * 3, truth)

    def mean(order: tuple[int, ...]) -> float:
        pairs = [(swapped == e, truth[0] == t) for t, e in zip((1, 2, 3), order, strict=True)]
        return float(np.mean([(jaccard(e, t) + boundary_f(e, t)) / 2 for e, t in pairs]))

    assert (scores.j + scores.f) / 2 == pytest.approx(max(map(mean, permutations((1, 2, 3)))))


def test_matches_are_one_to_one() -> None:
    truth = [square(5, 5, instance=1) + square(30, 5, instance=2)] * 2
    found = [square(5, 5, instance=7) + square(30, 5, 20, instance=3), square(6, 5, instance=7)]
    assert instance_matches(found, truth) == {1: 7, 2: 3}
    assert instance_matches([square(5, 5, 35, instance=4)] * 2, truth) in ({1: 4}, {2: 4})
    assert instance_matches([square(5, 30)] * 2, truth) == {}
    with pytest.raises(ValueError, match="pixels"):
        instance_matches([found[0][1:]], truth[:1])


def test_a_missed_instance_has_no_score_and_nothing_is_perfect() -> None:
    truth = [square(5, 5, instance=1) + square(30, 5, instance=2)] * 3
    assert mask_scores("davis2017-unsupervised", [square(5, 5)] * 3, truth).j == 0.5
    empty = [np.zeros(SHAPE, np.uint8)] * 3
    assert mask_scores("davis2017-unsupervised", empty, truth).j == 0
    assert mask_scores("davis2017-unsupervised", empty, empty).j == 1
    assert mask_scores("davis2017-unsupervised", truth, empty).j == 0
    assert mask_scores("davis2017-unsupervised", truth, empty).false_foreground > 0


def test_switches_are_counted_over_gaps() -> None:
    truth = [square(5, 5)] * 6
    ids = (4, 4, 0, 4, 9, 9)
    found = [square(5, 5, instance=i) if i else np.zeros(SHAPE, np.uint8) for i in ids]
    assert id_switches(found, truth) == 1
    assert id_switches([square(12, 12, instance=i) for i in (1, 2, 3)], truth[:3]) == 0  # J < 0.5
    crossing = [square(5, 5, instance=1) + square(30, 5, instance=2)] * 2
    swapped = [crossing[0], square(5, 5, instance=2) + square(30, 5, instance=1)]
    assert id_switches(swapped, crossing) == 2


def test_what_cannot_be_compared() -> None:
    masks = [square(0, 0)] * 3
    for protocol, found, message in (
        ("davis", masks, "known: davis2016"),
        ("davis2016", masks[:2], "2 masks for 3"),
        ("davis2016", [m[:-1] for m in masks], "pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            mask_scores(protocol, found, masks)
