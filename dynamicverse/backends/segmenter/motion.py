"""The embedded segmenter: coarse labels of what moves, refined to the objects' boundaries.

The coarse labels of neighbouring frames, carried by the flow, vote with the frame's own,
which keeps the masks steady; near the labels' outline colour models and edge-aware smoothing
decide (`dynamicverse.backends.analysis.appearance`). Works at a longer side of WORKING_SIDE.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.analysis import ClipReader, Flow, Labels, Rgb
from dynamicverse.backends.analysis.appearance import (
    EdgeAwareFilter,
    colour_ratios,
    smooth_labels,
)
from dynamicverse.backends.segmenter import CoarseReader
from dynamicverse.config import SegmentationConfig
from dynamicverse.formats.objects import DynamicObjects

Map = npt.NDArray[np.float32]

WORKING_SIDE = 427  # px, longer side; lengths below are for this size
BAND = 4.0  # px: the coarse outline is uncertain by so much
CERTAIN = 3.0  # log-odds inside and outside of the band
NEIGHBOUR_WEIGHT = 0.6  # of the frame before and of the frame after: both outvote a frame
COLOUR_RADIUS = 10  # frames
SEED = 2.0  # log-odds of pixels that teach the colour models
COLOUR_NEAR = 30.0  # px
COLOUR_WEIGHT = 0.6
REACH, CONTRAST, STRENGTH = 12.0, 60.0, 3.0  # of the smoothing; px, RGB, log-odds
MARGIN = 30  # px around the objects


class MotionSegmenter:
    """Refines the labels of the `motion` analysis."""

    info = BackendInfo(name="motion", licence="Apache-2.0")

    def __init__(self, settings: SegmentationConfig) -> None:
        """Nothing to load."""

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `SegmenterBackend`. Frames without coarse labels get empty masks."""
        count = len(clip)
        if not objects.dynamic:
            for t in range(count):
                write_mask(t, np.zeros(clip.size[::-1], np.uint8))
                progress(t + 1)
            return
        frames = _Frames(clip, coarse)
        radius = min(COLOUR_RADIUS, count)
        ratios = colour_ratios(count, radius, COLOUR_NEAR, frames.rgb, frames.seeds)
        for t, ratio_HW in enumerate(ratios):
            label_HW = _refine(frames.rgb(t), frames.prior(t), ratio_HW)
            write_mask(t, _full_size(label_HW, frames.labels(t), clip.size))
            frames.forget(t - 1)
            progress(t + 1)


class _Frames:
    """Frames, coarse labels and their log-odds at working size; a few frames are held."""

    def __init__(self, clip: ClipReader, coarse: CoarseReader) -> None:
        self._clip, self._coarse = clip, coarse
        shrink = min(1.0, WORKING_SIDE / max(clip.size))
        self.size = (max(1, round(clip.size[0] * shrink)), max(1, round(clip.size[1] * shrink)))
        rows, columns = np.mgrid[: self.size[1], : self.size[0]].astype(np.float32)
        self._x_HW, self._y_HW = columns, rows
        self._rgb: dict[int, Rgb] = {}
        self._labels: dict[int, Labels] = {}
        self._prior: dict[int, Map] = {}

    def rgb(self, t: int) -> Rgb:
        if t not in self._rgb:
            small = cv2.resize(self._clip.rgb(t), self.size, interpolation=cv2.INTER_AREA)
            self._rgb[t] = np.asarray(small, np.uint8)
        return self._rgb[t]

    def labels(self, t: int) -> Labels:
        """Coarse labels, 0 where there are none."""
        if t not in self._labels:
            found = self._coarse(t)
            if found is None:
                found = np.zeros(self.size[::-1], np.uint8)
            small = cv2.resize(found, self.size, interpolation=cv2.INTER_NEAREST)
            self._labels[t] = np.asarray(small, np.uint8)
        return self._labels[t]

    def prior(self, t: int) -> Map:
        """Log-odds (H,W) that a pixel is on an object, from the coarse labels around it."""
        if t not in self._prior:
            votes_HW = (self.labels(t) > 0).astype(np.float32)
            total_HW = np.ones_like(votes_HW)
            for other in (t - 1, t + 1):
                if 0 <= other < len(self._clip):
                    carried_HW, weight_HW = self._carry(t, other)
                    votes_HW += weight_HW * carried_HW
                    total_HW += weight_HW
            self._prior[t] = _log_odds(votes_HW / total_HW)
        return self._prior[t]

    def seeds(self, t: int) -> Map:
        """The log-odds where they are certain, 0 elsewhere."""
        prior_HW = self.prior(t)
        return np.where(np.abs(prior_HW) > SEED, prior_HW, np.float32(0))

    def forget(self, t: int) -> None:
        for held in (self._rgb, self._labels, self._prior):
            held.pop(t, None)

    def _carry(self, t: int, other: int) -> tuple[Map, Map]:
        """The labels of a neighbouring frame at the pixels of frame t, and their weight."""
        flow_HW2, valid_HW = self._clip.flow(t, other)
        flow_HW2 = _scaled(flow_HW2, self.size)
        valid = cv2.resize(valid_HW.view(np.uint8), self.size, interpolation=cv2.INTER_NEAREST)
        there_HW = (self.labels(other) > 0).astype(np.float32)
        x_HW, y_HW = self._x_HW + flow_HW2[..., 0], self._y_HW + flow_HW2[..., 1]
        carried_HW = cv2.remap(there_HW, x_HW, y_HW, cv2.INTER_LINEAR)
        return np.asarray(carried_HW), valid.astype(np.float32) * np.float32(NEIGHBOUR_WEIGHT)


def _scaled(flow_HW2: Flow, size: tuple[int, int]) -> Flow:
    height, width = flow_HW2.shape[:2]
    small_HW2 = cv2.resize(flow_HW2, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small_HW2 * np.float32([size[0] / width, size[1] / height]))


def _log_odds(share_HW: Map) -> Map:
    """From the share of votes: certain away from the outline, unsure at it."""
    inside_HW = share_HW > 0.5
    if not inside_HW.any():
        return np.full(share_HW.shape, -CERTAIN, np.float32)
    within_HW = cv2.distanceTransform(inside_HW.astype(np.uint8), cv2.DIST_L2, 3)
    outside_HW = cv2.distanceTransform((~inside_HW).astype(np.uint8), cv2.DIST_L2, 3)
    agreement_HW = 0.5 + np.abs(share_HW - 0.5)
    return np.asarray(CERTAIN * np.tanh((within_HW - outside_HW) / BAND) * agreement_HW, np.float32)


def _refine(rgb_HW3: Rgb, prior_HW: Map, ratio_HW: Map) -> Map:
    """Labels in ±1, above 0 = object; computed in a window around the objects."""
    label_HW = np.full(prior_HW.shape, -1, np.float32)
    rows, columns = (np.flatnonzero((prior_HW > 0).any(axis)) for axis in (1, 0))
    if not len(rows):
        return label_HW
    window = tuple(slice(max(0, a[0] - MARGIN), a[-1] + MARGIN + 1) for a in (rows, columns))
    unary_HW = prior_HW[window] + np.float32(COLOUR_WEIGHT) * ratio_HW[window]
    smooth = EdgeAwareFilter(rgb_HW3[window], REACH, CONTRAST)
    label_HW[window] = smooth_labels(unary_HW, smooth, STRENGTH)
    return label_HW


def _full_size(label_HW: Map, coarse_HW: Labels, size: tuple[int, int]) -> Labels:
    """Ids at full size: the refined outline, and in it the id of the nearest coarse label."""
    found = np.flatnonzero(np.bincount(coarse_HW.ravel(), minlength=1)[1:]) + 1
    if not len(found):
        return np.zeros(size[::-1], np.uint8)
    if len(found) == 1:
        owner_HW = np.full(coarse_HW.shape, found[0], np.uint8)
    else:
        _, nearest_HW = cv2.distanceTransformWithLabels(
            (coarse_HW == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        name = np.zeros(int(nearest_HW.max()) + 1, np.uint8)
        name[nearest_HW[coarse_HW > 0]] = coarse_HW[coarse_HW > 0]
        owner_HW = name[nearest_HW]
    inside_HW = cv2.resize(label_HW, size, interpolation=cv2.INTER_LINEAR) > 0
    owner_HW = cv2.resize(owner_HW, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(owner_HW * inside_HW, np.uint8)
