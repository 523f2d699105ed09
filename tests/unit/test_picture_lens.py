"""Pictures of a distorting lens made straight, and what was found in them bent back."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.dynamicba.bundle.lens import Lens, bend
from dynamicverse.dynamicba.cameras.picture_lens import PictureLens, straight_rays
from dynamicverse.geometry.projection import intrinsics, rays

SIZE, FOCAL, CENTRE = (160, 120), 150.0, np.array([82.0, 57.0])
K = intrinsics(FOCAL, CENTRE)
PIXELS_HW2 = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), -1).astype(float)


def pattern(directions: np.ndarray) -> np.ndarray:
    """A smooth picture (H,W) as a function of the direction (a, b)."""
    return (100 + 50 * np.sin(9 * directions[..., 0]) + 40 * np.cos(7 * directions[..., 1])).astype(
        np.float32
    )


@pytest.mark.parametrize("k1", [-0.15, 0.2])
def test_the_picture_of_a_pinhole_is_made_from_that_of_a_distorting_lens(k1: float) -> None:
    lens = PictureLens(SIZE, K[None], k1)
    ideal = pattern(rays(PIXELS_HW2, K))
    distorted = pattern(straight_rays(PIXELS_HW2, K, k1))
    inside = (slice(20, -20), slice(25, -25))
    assert np.abs(distorted - ideal)[inside].max() > 3
    assert np.abs(lens.straight(distorted, 0, 0) - ideal)[inside].max() < 0.5
    assert np.abs(lens.bent(ideal, 0) - distorted)[inside].max() < 4  # nearest pixel


def test_rays_of_a_distorting_lens_meet_its_pixels() -> None:
    directions = np.random.default_rng(0).uniform(-0.4, 0.4, (30, 2))
    pixels = bend(FOCAL * directions, FOCAL, Lens(k1=-0.1)) + CENTRE
    np.testing.assert_allclose(straight_rays(pixels, K, -0.1)[:, :2], directions, atol=1e-9)


def test_without_distortion_nothing_is_touched() -> None:
    lens, picture = PictureLens(SIZE, K[None], 0.0), np.ones(SIZE[::-1], np.float32)
    assert lens.straight(picture, 0, 0) is picture
    assert lens.bent(picture, 0) is picture
