"""Monocular depth models: a depth prior for the reconstruction.

Registered under `dynamicverse.backends.depth`; the constructor takes `DepthConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.formats.intrinsics import PriorIntrinsics

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]


class DepthBackend(Protocol):
    """Estimates the depth of single frames, in two passes over a clip."""

    info: BackendInfo

    def intrinsics(self, frames: Iterator[Rgb]) -> PriorIntrinsics | None:
        """First pass: the camera of the clip; None when the backend gives no prior at all."""
        ...

    def stream(
        self, frames: Iterator[Rgb], camera: PriorIntrinsics
    ) -> Iterator[tuple[Depth, Depth]]:
        """Second pass: depth in metres along the optical axis (H,W), 0 where unknown, and
        confidence 0..1, for every frame (H,W,3) in order, given the camera."""
        ...


__all__ = ["Depth", "DepthBackend", "Rgb"]
