"""Instance masks of the moving objects of a clip.

Registered under `dynamicverse.backends.segmenter`; the constructor takes
`SegmentationConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.formats.objects import DynamicObjects


class CoarseReader(Protocol):
    """Coarse labels (H,W) of a frame from the analysis, value = tracking id; None: absent."""

    def __call__(self, frame: int) -> Labels | None: ...


class SegmenterBackend(Protocol):
    """Masks of objects that the analysis has named."""

    info: BackendInfo

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """Call write_mask once for every frame, in order, with ids (H,W).

        The ids are the tracking ids of `objects`; 0 is background. progress is called with
        the number of frames done.
        """
        ...


__all__ = ["CoarseReader", "SegmenterBackend"]
