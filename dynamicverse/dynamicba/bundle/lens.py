"""What departs from an ideal pinhole: principal point, radial distortion, zoom (NumPy).

A camera point (x, y, z) is seen at c + f·(1 + k1·r²)·(a, b) with a = x/z, b = y/z, r² = a² + b²
(Brown 1971, as COLMAP's SIMPLE_RADIAL). Pixels are relative to a nominal centre; c is small.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDS = 12  # Newton's method; four are enough for ordinary lenses
EXACT = 1e-15  # relative: what is left is rounding
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
    x_M, y_M = distorted_M2[..., 0], distorted_M2[..., 1]
    if k1 == 0.0:
        return np.ones_like(x_M)
    bend_M = k1 * (x_M * x_M + y_M * y_M)
    # s = r/r_d solves s + bend·s³ = 1; where the lens has folded over s stays below its largest
    most_M = np.inf if k1 > 0 else FOLD / np.sqrt(np.maximum(-3 * bend_M, 1e-300))
    s_M = np.minimum(1.0, most_M)
    for _ in range(ROUNDS):
        before_M, cubed_M = s_M, bend_M * s_M * s_M
        s_M = np.minimum((1 + 2 * cubed_M * s_M) / (1 + 3 * cubed_M), most_M)
        if np.abs(s_M - before_M).max(initial=0.0) <= EXACT:
            break
    return np.asarray(s_M)
