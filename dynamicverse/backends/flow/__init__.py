"""Optical flow between neighbouring frames, in both directions.

Registered under `dynamicverse.backends.flow`; the constructor takes `KeyframesConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo

Rgb = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]


class FlowBackend(Protocol):
    """Computes optical flow; a backend on a GPU reads ahead to fill its batch."""

    info: BackendInfo

    def stream(self, frames: Iterator[Rgb]) -> Iterator[tuple[Flow, Flow]]:
        """For every pair of consecutive frames (H,W,3), in order: forward and backward flow.

        Each is (H,W,2), x and y in pixels: `image1(x)` is seen at `image2(x + forward(x))`,
        and the backward flow lives on the pixels of the later frame. F frames give F-1
        pairs. Consistency is not the backend's affair (see `consistency`).
        """
        ...


__all__ = ["Flow", "FlowBackend", "Rgb"]
