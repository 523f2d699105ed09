"""What departs from an ideal pinhole: principal point, radial distortion, zoom (NumPy).

A camera point (x, y, z) is seen at c + f·(1 + k1·r²)·(a, b) with a = x/z, b = y/z, r² = a² + b²
(Brown 1971, as COLMAP's SIMPLE_RADIAL). Pixels are relative to a nominal centre; c is small.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDS = 12  # Newton's method on the radius; four are enough for ordinary lenses
FOLD = 0.95  # of the radius at which a barrel distortion folds over; farther out has no inverse


@dataclass(frozen=True)
class Lens:
    """centre_2: principal point in px relative to the nominal one. k1: no unit.

    zoom_F: log of each frame's focal length over the shared one; None if they are all the same.
    """

    centre_2: Floats = field(default_factory=lambda: np.zeros(2))
    k1: float = 0.0
    zoom_F: Floats | None = None

    @property
    def ideal(self) -> bool:
        """Nothing to correct."""
        return not self.centre_2.any() and self.k1 == 0.0 and self.zoom_F is None

    def focal_F(self, focal: float, frames: int) -> Floats:
        """Focal lengths (F,) in px."""
        zoom_F = np.zeros(frames) if self.zoom_F is None else self.zoom_F
        return np.asarray(focal * np.exp(zoom_F))

    def of_frames(self, frame_K: npt.NDArray[np.int64]) -> Lens:
        """The lens of some frames."""
        return self if self.zoom_F is None else replace(self, zoom_F=self.zoom_F[frame_K])

    def spread(self, frame_K: npt.NDArray[np.int64], frames: int) -> Lens:
        """The lens of all frames from that of some; between them the zoom is interpolated."""
        if self.zoom_F is None:
            return self
        return replace(self, zoom_F=np.interp(np.arange(frames), frame_K, self.zoom_F))


IDEAL = Lens()


def straighten(
    xy_M2: Floats, focal: float, lens: Lens, frame_M: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Where a pinhole of focal length `focal` with its centre at 0 would have seen the pixels.

    frame_M: the frames of the pixels; needed where the lens zooms.
    """
    if lens.ideal:
        return xy_M2
    offset = xy_M2 - lens.centre_2
    if lens.zoom_F is not None:
        if frame_M is None:
            raise ValueError("a lens that zooms needs the frames of the pixels")
        offset = offset * np.exp(-lens.zoom_F[frame_M])[:, None]
    return np.asarray(offset * _inverse_factor(offset / focal, lens.k1)[..., None])


def bend(xy_M2: Floats, focal: float, lens: Lens) -> Floats:
    """The inverse of `straighten` for a lens that does not zoom."""
    squared = np.sum((xy_M2 / focal) ** 2, -1, keepdims=True)
    return np.asarray(xy_M2 * (1 + lens.k1 * squared) + lens.centre_2)


def _inverse_factor(distorted_M2: Floats, k1: float) -> Floats:
    """r/r_d (M,) where r_d = r·(1 + k1·r²)."""
    target = np.linalg.norm(distorted_M2, axis=-1)
    if k1 == 0.0:
        return np.ones_like(target)
    farthest = np.inf if k1 > 0 else FOLD / np.sqrt(-3 * k1)
    radius = np.minimum(target, farthest)
    for _ in range(ROUNDS):
        before = radius
        value = radius * (1 + k1 * radius**2) - target
        radius = np.clip(radius - value / (1 + 3 * k1 * radius**2), 0.0, farthest)
        if np.array_equal(radius, before):
            break
    return np.asarray(np.where(target > 0, radius / np.maximum(target, 1e-300), 1.0))
