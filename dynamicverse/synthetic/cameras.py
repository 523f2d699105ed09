"""Camera paths of rendered scenes, as functions of time: poses and focal lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from dynamicverse.geometry.lie import Array, se3, so3_exp

FOCAL_OF_WIDTH = 0.85


def pose(position_3: Array, yaw: float = 0.0) -> Array:
    """A rigid motion: a turn about the vertical axis, then a move."""
    return se3(so3_exp([0.0, yaw, 0.0]), position_3)


def orbit(time: float, seed: int) -> Array:
    """Around a point 4 m ahead, looking at it."""
    angle = 0.6 * np.sin(0.8 * time)
    centre, radius = np.array([0.0, 0.0, 4.0]), 3.8
    place = centre + radius * np.array([np.sin(angle), -0.03 * angle, -np.cos(angle)])
    return pose(place, -angle)


def dolly(time: float, seed: int) -> Array:
    """Straight ahead."""
    return pose(np.array([0.25 * np.sin(0.5 * time), -0.1, 2.2 * np.sin(0.9 * time) - 0.4]))


def handheld(time: float, seed: int) -> Array:
    """A walk sideways and forward with a hand's sway and shake."""
    rng = np.random.default_rng(seed + 1000)
    slow, fast = rng.uniform(0.8, 1.2, 6), rng.uniform(5.0, 8.0, 6)
    phase = rng.uniform(0, 2 * np.pi, 6)
    sway = np.sin(fast * time + phase)
    walk = np.sin(slow[:3] * time)
    place = np.array([0.9, 0.12, 0.6]) * walk + 0.02 * sway[:3] + [0, -0.2, 0]
    turn = np.array([0.05, -0.16, 0.03]) * np.sin(slow[3:] * time) + 0.012 * sway[3:]
    return se3(so3_exp(turn), place)


def rotation(time: float, seed: int) -> Array:
    """Turning on the spot."""
    turned = pose(np.array([0.0, -0.2, 0.0]), 0.35 * np.sin(time))
    turned[:3, :3] = turned[:3, :3] @ so3_exp([0.08 * np.sin(1.3 * time), 0.0, 0.0])
    return turned


def static(time: float, seed: int) -> Array:
    """On a tripod."""
    return pose(np.array([0.0, -0.2, 0.0]))


CAMERAS: Mapping[str, Callable[[float, int], Array]] = MappingProxyType(
    {
        "orbit": orbit,
        "dolly": dolly,
        "handheld": handheld,
        "rotation": rotation,
        "static": static,
    }
)


def zoom_factor(time: float) -> float:
    """Focal length over that of the first frame, for a lens that zooms in."""
    return float(1.0 + 0.4 * (1.0 - np.cos(0.9 * time)))
