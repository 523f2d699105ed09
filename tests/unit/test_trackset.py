"""Tracks in the form in which trackers make them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from dynamicverse.backends.tracker.trackset import Samples, assemble, followed, joined

FRAMES, POINTS, SIZE = 13, 40, (9, 8)


def test_points_known_in_every_frame_become_what_their_samples_make() -> None:
    """Gaps, points seen once, and points that are never seen."""
    rng = np.random.default_rng(1)
    parts, samples = [], []
    seeds = (0, 5, 12)
    for turn, seed in enumerate(seeds):
        positions_FN2 = rng.normal(size=(FRAMES, POINTS, 2)).astype(np.float32)
        visible_FN = rng.random((FRAMES, POINTS)) < 0.4
        visible_FN[:, [0, 7]] = False
        visible_FN[6, 7] = turn == 1
        sure_FN = rng.random((FRAMES, POINTS)).astype(np.float32)
        parts.append(followed(seed, positions_FN2, visible_FN, sure_FN, SIZE))
        for t in range(FRAMES):
            seen = np.flatnonzero(visible_FN[t])
            samples.append(
                Samples(t, seen + turn * POINTS, positions_FN2[t, seen], sure_FN[t, seen])
            )
    query_I = np.repeat(np.array(seeds, np.int32), POINTS)
    expected, found = assemble(samples, query_I, FRAMES, SIZE), joined(parts)
    assert len(found) < len(query_I)
    assert (found.length_N == 1).any()
    for field in fields(expected):
        wanted, got = getattr(expected, field.name), getattr(found, field.name)
        np.testing.assert_array_equal(got, wanted, err_msg=field.name)
        assert np.asarray(got).dtype == np.asarray(wanted).dtype, field.name


def test_counts_and_rows_of_what_is_visible() -> None:
    rng = np.random.default_rng(2)
    visible_FN = rng.random((FRAMES, POINTS)) < 0.5
    visible_FN[3] = True
    values_FN = rng.random((FRAMES, POINTS)).astype(np.float32)
    found = followed(3, np.stack([values_FN] * 2, -1), visible_FN, values_FN, SIZE)
    np.testing.assert_array_equal(found.visible_count_N(), visible_FN.sum(axis=0))
    for t in range(FRAMES):
        track_K, sample_K = found.visible_in(t)
        np.testing.assert_array_equal(track_K, np.flatnonzero(visible_FN[t]))
        np.testing.assert_array_equal(found.positions_M2[sample_K, 0], values_FN[t, track_K])
