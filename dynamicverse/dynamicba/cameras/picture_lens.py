"""Pictures as a pinhole would have taken them, and back (`lens.py`)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.lens import Lens, bend, straighten
from dynamicverse.geometry.projection import rays

Floats = npt.NDArray[np.float64]
Lookup = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # columns, rows
MAPS_KEPT = 4  # one lens that does not zoom needs a single one


class PictureLens:
    """Straightens pictures of one size and bends what was found in them back.

    size: width, height. K_F33: of that size. distortion: k1; 0 leaves every picture as it is.
    """

    def __init__(self, size: tuple[int, int], K_F33: Floats, distortion: float) -> None:
        width, height = size
        grid_HW2 = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        self._pixels_HW2 = grid_HW2.astype(np.float64)
        self._K_F33, self._distortion = K_F33, distortion
        self._maps = lru_cache(MAPS_KEPT)(self._load_maps)

    def straight(self, picture_HW: npt.NDArray[Any], frame: int, border: int) -> npt.NDArray[Any]:
        """The picture of the pinhole; `border` where the camera saw nothing."""
        if self._distortion == 0.0:
            return picture_HW
        lookup = self._maps(*self._key(frame))[0]
        return np.asarray(cv2.remap(picture_HW, *lookup, cv2.INTER_LINEAR, borderValue=(border,)))

    def bent(self, values_HW: npt.NDArray[np.float32], frame: int) -> npt.NDArray[np.float32]:
        """Values of straight pixels at the pixels of the camera (nearest); 0 where unknown."""
        if self._distortion == 0.0:
            return values_HW
        lookup = self._maps(*self._key(frame))[1]
        return np.asarray(cv2.remap(values_HW, *lookup, cv2.INTER_NEAREST), np.float32)

    def _key(self, frame: int) -> tuple[float, float, float]:
        K = self._K_F33[frame]
        return float(np.sqrt(K[0, 0] * K[1, 1])), float(K[0, 2]), float(K[1, 2])

    def _load_maps(self, focal: float, cx: float, cy: float) -> tuple[Lookup, Lookup]:
        """Where each straight pixel was seen, and where each seen pixel lies when straight."""
        lens, centre_2 = Lens(k1=self._distortion), np.array([cx, cy])
        offset_HW2 = self._pixels_HW2 - centre_2
        seen_HW2 = (bend(offset_HW2, focal, lens) + centre_2).astype(np.float32)
        lies_HW2 = (straighten(offset_HW2, focal, lens) + centre_2).astype(np.float32)
        return _planes(seen_HW2), _planes(lies_HW2)


def _planes(pixels_HW2: npt.NDArray[np.float32]) -> Lookup:
    return np.ascontiguousarray(pixels_HW2[..., 0]), np.ascontiguousarray(pixels_HW2[..., 1])


def straight_rays(pixels_N2: npt.ArrayLike, K: Floats, distortion: float) -> Floats:
    """Directions (N, 3) in camera coordinates with z = 1, of pixels of a distorting lens."""
    directions_N3 = rays(pixels_N2, K)
    directions_N3[..., :2] = straighten(directions_N3[..., :2], 1.0, Lens(k1=distortion))
    return directions_N3
