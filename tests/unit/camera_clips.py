"""Synthetic clips for the camera tests: exact cameras and points, noisy tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.lie import se3, se3_inverse, so3_exp
from dynamicverse.geometry.projection import image_centre

Floats = npt.NDArray[np.float64]
SIZE = (640, 480)
FOCAL = 520.0


@dataclass(frozen=True)
class Clip:
    """Tracks and the truth behind them. moving_N: tracks that do not belong to the scene."""

    tracks: Tracks
    c2w_F44: Floats
    points_N3: Floats
    moving_N: npt.NDArray[np.bool_]


def room(count: int, seed: int = 0) -> Floats:
    """Points (N, 3) in front of cameras near the origin that look along +z."""
    rng = np.random.default_rng(seed)
    return rng.uniform([-4, -2.5, 3], [4, 2.5, 9], (count, 3))


def walk(frames: int, step: float = 0.08) -> Floats:
    """Poses c2w (F, 4, 4) of a hand-held walk sideways, with turns."""
    s = np.arange(frames)
    turn = np.stack([0.04 * np.sin(s / 5), 0.12 * np.sin(s / 9), 0.03 * np.sin(s / 7)], 1)
    place = np.stack([step * s - step * frames / 2, 0.1 * np.sin(s / 4), 0.15 * np.sin(s / 8)], 1)
    return se3(so3_exp(turn), place)


def drive(frames: int) -> Floats:
    """Poses of a drive straight ahead."""
    s = np.arange(frames)
    turn = np.stack([0.004 * np.sin(s / 3), 0.02 * np.sin(s / 8), 0 * s], 1)
    return se3(so3_exp(turn), np.stack([0.02 * np.sin(s / 5), 0 * s, 0.12 * s], 1))


def pan(frames: int) -> Floats:
    """Poses of a camera that only turns, by about 40 degrees."""
    s = np.linspace(-1, 1, frames)
    return se3(so3_exp(np.stack([0.06 * np.sin(3 * s), 0.35 * s, 0.02 * s], 1)), np.zeros(3))


def film(
    c2w_F44: Floats,
    points_N3: Floats,
    *,
    focal: float = FOCAL,
    noise: float = 0.4,
    outliers: float = 0.0,
    moving: float = 0.0,
    labelled: bool = False,
    length: int = 25,
    seed: int = 0,
) -> Clip:
    """Project points into cameras; every track lives for about `length` frames.

    outliers: share of observations that are far off; moving: share of points that fly through
    the scene, labelled as an instance or not.
    """
    rng = np.random.default_rng(seed)
    frames, count = len(c2w_F44), len(points_N3)
    is_moving = np.arange(count) < moving * count
    flight = rng.normal(0, 0.05, (count, 3)) * is_moving[:, None]
    world = points_N3 + np.arange(frames)[:, None, None] * flight
    w2c = se3_inverse(c2w_F44)
    camera = np.einsum("fij,fnj->fni", w2c[:, :3, :3], world) + w2c[:, None, :3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = focal * camera[..., :2] / camera[..., 2:] + image_centre(SIZE)
    inside = (pixels >= 0).all(2) & (pixels <= np.array(SIZE) - 1).all(2) & (camera[..., 2] > 0.1)
    start = rng.integers(-length // 2, frames, count)
    age = np.arange(frames)[:, None] - start
    visible = inside & (age >= 0) & (age < length + rng.integers(0, length, count))
    pixels = pixels + rng.normal(0, noise, pixels.shape)
    wrong = rng.random((frames, count)) < outliers
    pixels[wrong] += rng.uniform(-40, 40, (int(wrong.sum()), 2))
    tracks = Tracks(
        np.where(visible[..., None], pixels, 0).astype(np.float32),
        visible,
        visible.astype(np.float32),
        np.argmax(visible, 0).astype(np.int32),
        (is_moving & labelled).astype(np.int32),
        SIZE,
    )
    return Clip(tracks, c2w_F44, points_N3, is_moving)
