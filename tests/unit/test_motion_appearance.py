"""Colour models and edge-aware smoothing."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.backends.analysis.appearance import (
    COLOUR_LIMIT,
    EdgeAwareFilter,
    colour_ratios,
    smooth_labels,
)

RED, GREEN = (200, 40, 40), (40, 160, 60)


def two_tone(width: int = 60, height: int = 40) -> np.ndarray:
    """Left half red, right half green."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2] = RED
    picture[:, width // 2 :] = GREEN
    return picture


def test_a_constant_stays_and_values_stay_in_range() -> None:
    smooth = EdgeAwareFilter(two_tone(), reach=8, contrast=50)
    assert smooth(np.full((40, 60), 0.3, np.float32)) == pytest.approx(0.3, abs=1e-5)
    noise = np.random.default_rng(0).uniform(-1, 1, (40, 60)).astype(np.float32)
    out = smooth(noise)
    assert np.abs(out).max() <= 1
    assert out[:, :30].std() < 0.4 * noise[:, :30].std()


def test_smoothing_stops_at_an_edge() -> None:
    step = np.where(np.arange(60) < 20, 1.0, 0.0).astype(np.float32) * np.ones((40, 1), np.float32)
    out = EdgeAwareFilter(two_tone(), reach=20, contrast=50)(step)
    assert out[:, 25].mean() > 0.2  # spreads over the red
    assert out[:, 32:].max() < 0.02  # never into the green


def test_the_input_is_left_alone() -> None:
    values = np.random.default_rng(1).normal(size=(40, 60)).astype(np.float32)
    before = values.copy()
    EdgeAwareFilter(two_tone(), 8, 50)(values)
    assert np.array_equal(values, before)


def test_unsure_pixels_take_the_label_of_their_surface() -> None:
    unary = np.zeros((40, 60), np.float32)
    unary[:, :10], unary[:, 50:] = 2, -2
    label = smooth_labels(unary, EdgeAwareFilter(two_tone(), 20, 50), 3.0)
    assert (label[:, :30] > 0).all()
    assert (label[:, 30:] < 0).all()


@pytest.mark.parametrize("count", [1, 5])
def test_colours_of_what_moves_are_learnt_from_the_votes(count: int) -> None:
    votes = np.full((40, 60), -1, np.float32)
    votes[:, :15] = 1  # half of the red is known to move
    votes[:, 15:30] = 0  # the other half is not known
    ratios = list(colour_ratios(count, 3, 10, lambda t: two_tone(), lambda t: votes))
    assert len(ratios) == count
    for ratio in ratios:
        assert (ratio[:, :30] == COLOUR_LIMIT).all()
        assert (ratio[:, 30:] == -COLOUR_LIMIT).all()


def test_nothing_moves_no_colour_is_likelier() -> None:
    still = np.full((40, 60), -1, np.float32)
    (ratio,) = colour_ratios(1, 3, 10, lambda t: two_tone(), lambda t: still)
    assert (ratio < 0).all()


def test_only_frames_in_the_window_teach() -> None:
    def votes(t: int) -> np.ndarray:
        values = np.full((40, 60), -1, np.float32)
        values[:, :30] = 1 if t == 9 else -1
        return values

    ratios = list(colour_ratios(10, 2, 10, lambda t: two_tone(), votes))
    assert (ratios[6][:, :30] < 0).all()
    assert (ratios[8][:, :30] > ratios[6][:, :30]).all()
    assert (ratios[9][:, :30] > 0).all()
