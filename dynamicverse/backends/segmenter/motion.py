"""Refine coarse motion labels to the boundaries of the objects, without a model.

Around every coarse object a graph cut with colour models (GrabCut: Rother, Kolmogorov, Blake,
SIGGRAPH 2004) decides a band at its border; what is well inside or well outside stays.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.segmenter import CoarseReader
from dynamicverse.config import SegmentationConfig
from dynamicverse.formats.objects import DynamicObjects

WORK_SIDE = 320  # pixels of the longer side while cutting
ITERATIONS = 2
MARGIN = 0.04  # of the longer side: the band that colour decides
MIN_CORE = 30  # pixels: a smaller object has no colour model worth the name


class MotionSegmenter:
    """The `motion` backend."""

    info = BackendInfo("motion", licence="Apache-2.0")

    def __init__(self, settings: SegmentationConfig) -> None:
        pass  # the method has no settings of its own

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """Refine every frame by itself; later ids lie over earlier ones."""
        width, height = clip.size
        for frame in range(len(clip)):
            labels = coarse(frame)
            if labels is None:
                write_mask(frame, np.zeros((height, width), np.uint8))
            else:
                write_mask(frame, self._refine(clip.rgb(frame), labels))
            progress(frame + 1)

    def _refine(self, rgb: NDArray[np.uint8], coarse: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = coarse.shape
        scale = min(1.0, WORK_SIDE / max(height, width))
        size = (round(width * scale), round(height * scale))
        small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        refined = np.zeros((height, width), np.uint8)
        for label in np.unique(coarse[coarse > 0]):
            mask = (coarse == label).astype(np.float32)
            rough = cv2.resize(mask, size, interpolation=cv2.INTER_AREA) > 0.5
            cut = self._cut(small, rough).astype(np.float32)
            # a smooth upsampling keeps the border from following the small pixels
            whole = cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR)
            refined[whole > 0.5] = label
        return refined

    def _cut(self, rgb: NDArray[np.uint8], rough: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Let colour decide a band around the border of a rough mask."""
        band = max(2, round(MARGIN * max(rough.shape)))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
        flat = rough.astype(np.uint8)
        core = cv2.erode(flat, kernel, borderValue=1) > 0
        reach = cv2.dilate(flat, kernel) > 0
        state = np.full(rough.shape, cv2.GC_BGD, np.uint8)
        state[reach] = cv2.GC_PR_BGD
        state[rough] = cv2.GC_PR_FGD
        state[core] = cv2.GC_FGD
        if rough.sum() < MIN_CORE or reach.all():
            return rough
        cv2.setRNGSeed(0)
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        everything = (0, 0, 0, 0)  # not used: the state says what is known
        cv2.grabCut(
            rgb, state, everything, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK
        )
        cut = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
        # a cut that loses most of the object has found no border, only a colour
        return cut if cut.sum() > 0.4 * rough.sum() else rough
