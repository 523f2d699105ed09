"""DIS optical flow: no weights, CPU.

Kroeger et al., "Fast optical flow using dense inverse search" (ECCV 2016), in OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.flow import Flow, Rgb
from dynamicverse.config import KeyframesConfig

REFINEMENTS = 3  # variational; against exact flow no worse than the preset's five, and faster
MIN_SIDE = 16  # px; smaller frames are padded, the pyramid needs this much


class DisFlow:
    """DIS at its medium preset: patches at half resolution; three variational refinements.

    Both directions run at the same time; the result does not depend on the number of
    threads.
    """

    info = BackendInfo(name="dis", licence="Apache-2.0")

    def __init__(self, settings: KeyframesConfig) -> None:
        self._there, self._back = _solver(), _solver()

    def stream(self, frames: Iterator[Rgb]) -> Iterator[tuple[Flow, Flow]]:
        """Forward and backward flow (H,W,2) px of every pair of consecutive frames."""
        before: npt.NDArray[np.uint8] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="flow") as executor:
            for frame in frames:
                height, width = frame.shape[:2]
                grey = _grey(frame)
                if before is not None:
                    backward = executor.submit(_flow, self._back, grey, before)
                    forward = _flow(self._there, before, grey)
                    yield forward[:height, :width], backward.result()[:height, :width]
                before = grey


def _solver() -> cv2.DISOpticalFlow:
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    solver.setVariationalRefinementIterations(REFINEMENTS)
    return solver


def _flow(
    solver: cv2.DISOpticalFlow, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]
) -> Flow:
    return np.asarray(solver.calc(source, target, None), np.float32)  # type: ignore[call-overload]


def _grey(frame: Rgb) -> npt.NDArray[np.uint8]:
    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    below, right = (max(0, MIN_SIDE - side) for side in grey.shape)
    return np.pad(grey, ((0, below), (0, right)), mode="edge") if below or right else grey
