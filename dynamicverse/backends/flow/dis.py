"""DIS optical flow: no weights, CPU.

Kroeger et al., "Fast optical flow using dense inverse search" (ECCV 2016), in OpenCV.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.flow import Flow, Rgb
from dynamicverse.config import KeyframesConfig
from dynamicverse.cores import workers

REFINEMENTS = 3  # variational; against exact flow no worse than the preset's five, and faster
MIN_SIDE = 16  # px; smaller frames are padded, the pyramid needs this much
SOLVERS = max(2, workers())
AHEAD = SOLVERS // 2 + 1  # pairs under way: enough that no solver waits while one is taken

Grey = npt.NDArray[np.uint8]


class DisFlow:
    """DIS at its medium preset: patches at half resolution; three variational refinements.

    Pairs and their two directions are solved side by side, each in one thread; the result does
    not depend on the number of threads.
    """

    info = BackendInfo(name="dis", licence="Apache-2.0")

    def __init__(self, settings: KeyframesConfig) -> None:
        self._own = threading.local()  # a solver has buffers, so it serves one thread

    def stream(self, frames: Iterator[Rgb]) -> Iterator[tuple[Flow, Flow]]:
        """Forward and backward flow (H,W,2) px of every pair of consecutive frames."""
        before: Grey | None = None
        coming: deque[tuple[Future[Flow], Future[Flow]]] = deque()
        with ThreadPoolExecutor(SOLVERS, "flow", self._begin) as solvers:
            try:
                for frame in frames:
                    height, width = frame.shape[:2]
                    grey = _grey(frame)
                    if before is not None:
                        there = solvers.submit(self._flow, before, grey, height, width)
                        back = solvers.submit(self._flow, grey, before, height, width)
                        coming.append((there, back))
                    before = grey
                    if len(coming) > AHEAD:
                        yield _taken(coming)
                while coming:
                    yield _taken(coming)
            finally:
                solvers.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        self._own.solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._own.solver.setVariationalRefinementIterations(REFINEMENTS)

    def _flow(self, source: Grey, target: Grey, height: int, width: int) -> Flow:
        flow = np.asarray(self._own.solver.calc(source, target, None), np.float32)
        return flow[:height, :width]


def _taken(coming: deque[tuple[Future[Flow], Future[Flow]]]) -> tuple[Flow, Flow]:
    there, back = coming.popleft()
    return there.result(), back.result()


def _grey(frame: Rgb) -> Grey:
    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    below, right = (max(0, MIN_SIDE - side) for side in grey.shape)
    return np.pad(grey, ((0, below), (0, right)), mode="edge") if below or right else grey
