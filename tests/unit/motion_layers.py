"""Clips of flat textured layers that move by whole pixels: exact pictures, flow and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

Path2 = Callable[[int], tuple[int, int]]


@cache
def texture(seed: int, side: int = 700) -> np.ndarray:
    """Smoothed colour noise, (side,side,3) uint8; every seed has colours of its own."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(side, side, 3)).astype(np.float32), (0, 0), 1.5)
    tint = rng.uniform(70, 185, 3)
    return np.clip(tint + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Layer:
    """A rectangle of texture; path: frame → its top left corner (x, y). instance 0 = static."""

    path: Path2
    size: tuple[int, int] = (44, 36)
    instance: int = 0
    seed: int = 1


@dataclass(frozen=True)
class LayeredClip:
    """Layers over a background that fills the picture, the last on top.

    Implements `ClipReader`, and what `scene_tree.write_tree` asks of a clip.
    """

    frame_count: int
    background: Path2 = lambda t: (0, 0)
    layers: tuple[Layer, ...] = ()
    size: tuple[int, int] = (216, 120)
    keyframes: list[int] = field(default_factory=lambda: [0])

    def __len__(self) -> int:
        return self.frame_count

    @property
    def masks(self) -> list[np.ndarray]:
        names = np.array([0, *(layer.instance for layer in self.layers)], np.uint8)
        return [names[self._owner(t)] for t in range(self.frame_count)]

    @property
    def rgbs(self) -> list[np.ndarray]:
        return [self.rgb(t) for t in range(self.frame_count)]

    def rgb(self, frame: int) -> np.ndarray:
        x, y = self.background(frame)
        width, height = self.size
        picture = texture(0)[200 - y : 200 - y + height, 200 - x : 200 - x + width].copy()
        for layer in self.layers:
            inside, corner = self._inside(layer, frame)
            rows, columns = np.nonzero(inside)
            picture[inside] = texture(layer.seed)[rows - corner[1], columns - corner[0]]
        return picture

    def flow(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        paths = [self.background, *(layer.path for layer in self.layers)]
        steps = np.array([np.subtract(p(target), p(source)) for p in paths], np.float32)
        owner, later = self._owner(source), self._owner(target)
        flow = steps[owner]
        rows, columns = np.indices(owner.shape)
        x = (columns + flow[..., 0]).astype(int)
        y = (rows + flow[..., 1]).astype(int)
        inside = (x >= 0) & (y >= 0) & (x < self.size[0]) & (y < self.size[1])
        x, y = x.clip(0, self.size[0] - 1), y.clip(0, self.size[1] - 1)
        return flow, inside & (later[y, x] == owner)

    def _owner(self, frame: int) -> np.ndarray:
        """Index of the layer on top, 0 = background."""
        owner = np.zeros(self.size[::-1], int)
        for index, layer in enumerate(self.layers):
            owner[self._inside(layer, frame)[0]] = index + 1
        return owner

    def _inside(self, layer: Layer, frame: int) -> tuple[np.ndarray, tuple[int, int]]:
        x, y = layer.path(frame)
        inside = np.zeros(self.size[::-1], bool)
        low, high = max(y, 0), max(y + layer.size[1], 0)
        left, right = max(x, 0), max(x + layer.size[0], 0)
        inside[low:high, left:right] = True
        return inside, (x, y)


def with_list(clip: LayeredClip) -> object:
    """The same clip as `scene_tree.write_tree` reads it: `rgb` is a list."""

    class Listed:
        rgb = clip.rgbs
        size, frame_count, flow = clip.size, clip.frame_count, staticmethod(clip.flow)

    return Listed()


def iou(one: np.ndarray, two: np.ndarray) -> float:
    union = (one | two).sum()
    return float((one & two).sum() / union) if union else 1.0
