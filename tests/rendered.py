"""Small rendered clips held in memory, from `dynamicverse.synthetic`: the boxes room of the tests.

World frame: x right, y down, z forward, metres. Everything follows from the arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dynamicverse.synthetic.scenes import World, film, room
from dynamicverse.synthetic.truth import ExactTracks, Truth
from dynamicverse.synthetic.writer import object_poses

Motion = Literal["orbit", "dolly", "handheld", "rotation", "static"]


@dataclass(frozen=True)
class RenderedClip:
    """Frames with their truth. depth is along the optical axis in metres; masks hold ids."""

    rgb: list[np.ndarray]
    depth: list[np.ndarray]
    masks: list[np.ndarray]
    c2w_F44: np.ndarray
    K: np.ndarray
    times: np.ndarray
    size: tuple[int, int]  # width, height
    truth: Truth

    @property
    def frame_count(self) -> int:
        return len(self.rgb)

    @property
    def object_poses_MF44(self) -> np.ndarray:
        """Object-to-world of the moving boxes, in the order of their ids (1, 2, …)."""
        return object_poses(self.truth.world)[1]

    def flow(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact flow in px and where its end is inside the picture and not occluded."""
        return self.truth.flow(source, target)

    def tracks(self, step: int = 16, interval: int = 10) -> ExactTracks:
        """Points on a grid of `step` px, seeded every `interval` frames, followed both ways."""
        return self.truth.tracks(step, interval)


def world(frames: int, size: tuple[int, int], motion: Motion, objects: int, seed: int = 0) -> World:
    """What `render` renders: its cameras are known without a picture."""
    return film(room(size, seed, "box", objects), motion, frames, size, seed)


def render(
    frames: int = 20,
    size: tuple[int, int] = (320, 192),
    motion: Motion = "orbit",
    objects: int = 1,
    seed: int = 0,
    supersample: int = 2,
) -> RenderedClip:
    """Render a clip.

    size: width, height in px. objects: how many boxes move over the floor (0 = static scene).
    """
    filmed = world(frames, size, motion, objects, seed)
    truth = Truth(filmed)
    seen = [truth.view(f).render(supersample) for f in range(frames)]
    return RenderedClip(
        [s.rgb_HW3 for s in seen],
        [s.depth_HW for s in seen],
        [s.ids_HW for s in seen],
        filmed.c2w_F44,
        filmed.K_F33[0],
        filmed.times_F,
        size,
        truth,
    )
