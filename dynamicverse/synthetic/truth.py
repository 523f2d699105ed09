"""Exact correspondences of a world: optical flow and point tracks with their 3D positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array
from dynamicverse.synthetic.render import Integers, Mask, Surface, View, grid
from dynamicverse.synthetic.scenes import World
from dynamicverse.synthetic.surfaces import Floats32

KEPT_VIEWS = 4


@dataclass(frozen=True)
class ExactTracks:
    """Material points followed exactly through F frames.

    tracks_FN2: px, wherever the point is, seen or not; visibility_FN: in the picture and not
    hidden; points_FN3: world positions in metres; instance_id_N: 0 is the static scene.
    """

    tracks_FN2: Floats32
    visibility_FN: Mask
    query_frame_N: Integers
    instance_id_N: Integers
    points_FN3: Array


class Truth:
    """What is known exactly of the pixels of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.view: Callable[[int], View] = lru_cache(KEPT_VIEWS)(lambda f: View(world, f))

    def flow(self, source: int, target: int) -> tuple[Floats32, Mask]:
        """Flow (H,W,2) in px, and where its end is in the picture and not hidden (H,W)."""
        width, height = self.world.size
        pixels_N2 = grid(self.world.size)
        points_N3 = self.view(target).points(self.view(source).surface(pixels_N2))
        end_N2, visible_N = self.view(target).see(points_N3)
        flow_HW2 = (end_N2 - pixels_N2).reshape(height, width, 2).astype(np.float32)
        return flow_HW2, visible_N.reshape(height, width)

    def tracks(self, step: int = 16, interval: int = 10) -> ExactTracks:
        """Points on a grid of `step` px, seeded every `interval` frames, followed both ways."""
        grid_N2 = grid(self.world.size, step)
        queries = range(0, self.world.frame_count, interval)
        query_Q = np.repeat(np.array(queries, np.int32), len(grid_N2))
        return self.follow(np.tile(grid_N2, (len(queries), 1)), query_Q)

    def follow(self, pixels_N2: npt.ArrayLike, query_frame_N: npt.ArrayLike) -> ExactTracks:
        """The points seen at pixels (N,2) of their query frames (N), through all frames.

        Pixels must lie in the picture (half a pixel beyond the outermost centres at most).
        """
        pixels, query_N = np.asarray(pixels_N2, np.float64), np.asarray(query_frame_N, np.int32)
        triangle_N, weights_N3 = np.zeros(len(pixels), np.int32), np.zeros((len(pixels), 3))
        for frame in np.unique(query_N):
            own = query_N == frame
            seen = self.view(int(frame)).surface(pixels[own])
            triangle_N[own], weights_N3[own] = seen.triangle_N, seen.weights_N3
        surface = Surface(triangle_N, weights_N3)
        frames = self.world.frame_count
        tracks_FN2 = np.empty((frames, len(pixels), 2), np.float32)
        visibility_FN = np.empty((frames, len(pixels)), np.bool_)
        points_FN3 = np.empty((frames, len(pixels), 3))
        for frame in range(frames):
            points_FN3[frame] = self.view(frame).points(surface)
            tracks_FN2[frame], visibility_FN[frame] = self.view(frame).see(points_FN3[frame])
        instances = np.array([b.instance for b in self.world.bodies], np.int32)
        owner_N = self.view(0).body_T[triangle_N]
        return ExactTracks(tracks_FN2, visibility_FN, query_N, instances[owner_N], points_FN3)
