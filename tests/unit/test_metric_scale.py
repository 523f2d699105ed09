"""The unit of a reconstruction from a depth prior, against a scene of known size."""

from __future__ import annotations

import numpy as np
import pytest
from camera_clips import SIZE, film, room, walk

from dynamicverse.dynamicba.dense.metric_scale import prior_scale
from dynamicverse.dynamicba.dense.views import SparsePoints
from dynamicverse.geometry.lie import se3_inverse

UNIT = 2.5  # metres


def prior(noise: float, wrong: float, points: int = 400) -> tuple[object, ...]:
    """Arguments of `prior_scale`: depth at the tracks only, in metres, noisy; `wrong` of it."""
    rng = np.random.default_rng(0)
    clip = film(walk(10), room(points), noise=0.0)
    w2c = se3_inverse(clip.c2w_F44)
    pixels_FN = np.rint(clip.tracks.tracks_FN2).astype(int)

    def read(frame: int) -> np.ndarray:
        depth_HW = np.zeros(SIZE[::-1], np.float32)
        z_N = clip.points_N3 @ w2c[frame, 2, :3] + w2c[frame, 2, 3]
        seen = np.flatnonzero(clip.tracks.visibility_FN[frame])
        factor = UNIT * np.exp(rng.normal(0, noise, len(seen)) + rng.normal(0, noise / 4))
        factor[rng.random(len(seen)) < wrong] *= 3
        column, row = pixels_FN[frame, seen].T
        depth_HW[row, column] = z_N[seen] * factor
        return depth_HW

    sparse = SparsePoints(clip.points_N3, clip.tracks.visibility_FN)
    registered_F = np.ones(10, bool)
    registered_F[3] = False
    return sparse, clip.tracks.tracks_FN2, clip.c2w_F44, registered_F, read


@pytest.mark.parametrize(("noise", "wrong"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2)])
def test_the_unit_is_found(noise: float, wrong: float) -> None:
    found = prior_scale(*prior(noise, wrong))  # type: ignore[arg-type]
    assert found is not None
    assert found.metres == pytest.approx(UNIT, rel=0.01 + 0.5 * noise + noise * wrong)
    assert found.spread < 0.01 + noise


def test_too_few_points_tell_no_unit() -> None:
    assert prior_scale(*prior(0.0, 0.0, points=5)) is None  # type: ignore[arg-type]
