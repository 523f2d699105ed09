"""Point trackers: which points to follow and where they go through a clip.

Registered under `dynamicverse.backends.tracker`; the constructor takes `TracksConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.tracker.trackset import TrackSet


class FrameReader(Protocol):
    """The frames of one clip, read when asked for: nothing is kept by the reader.

    A tracker that works on windows may read a frame more than once, in any order; reading
    forward once is the cheapest.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, frame: int) -> npt.NDArray[np.uint8]:
        """RGB (H,W,3) of the 0-based frame."""
        ...


class TrackerBackend(Protocol):
    """Follows points through a clip."""

    info: BackendInfo

    def track(self, frames: FrameReader, progress: Callable[[int], None]) -> TrackSet:
        """Tracks of the whole clip; `progress` is called with the number of frames done."""
        ...


__all__ = ["FrameReader", "TrackSet", "TrackerBackend"]
