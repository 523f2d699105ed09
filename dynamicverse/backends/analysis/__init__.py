"""Which objects of a clip move, and roughly where they are.

Registered under `dynamicverse.backends.analysis`; the constructor takes `AnalysisConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.formats.objects import DynamicObjects

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]
Valid = npt.NDArray[np.bool_]


class ClipReader(Protocol):
    """A clip with its flow, read when asked for: nothing is kept by the reader.

    size: width, height in px.
    """

    size: tuple[int, int]

    @property
    def keyframes(self) -> Sequence[int]:
        """0-based, ascending."""
        ...

    def __len__(self) -> int: ...

    def rgb(self, frame: int) -> Rgb:
        """RGB (H,W,3) of the 0-based frame."""
        ...

    def flow(self, source: int, target: int) -> tuple[Flow, Valid]:
        """Flow (H,W,2) px between neighbouring frames, and where it is consistent (H,W)."""
        ...


class AnalysisBackend(Protocol):
    """Names and places what moves."""

    info: BackendInfo

    def analyse(
        self,
        clip: ClipReader,
        write_labels: Callable[[int, Labels], None],
        progress: Callable[[int], None],
        facts: dict[str, Any],
    ) -> DynamicObjects:
        """The moving objects; an empty list where nothing moves.

        write_labels is called with a frame and its coarse labels (H,W), value = tracking id,
        frame by frame, or never by a backend that has no labels. progress is called with the
        number of frames done. facts: what the manifest should say of the work is added.
        """
        ...


__all__ = ["AnalysisBackend", "ClipReader", "Flow", "Labels", "Rgb", "Valid"]
