"""Colour models of what moves and of what is beside it, and smoothing that stops at edges.

The colours are histograms over a window of frames, the background's weighted by nearness to
the object (as in Papazoglou and Ferrari, "Fast object segmentation in unconstrained video",
ICCV 2013, with histograms for mixtures). Labels are made smooth by mean-field steps
(Krähenbühl and Koltun, NIPS 2011) whose kernel is the domain transform, recursive form
(Gastal and Oliveira, "Domain transform for edge-aware image and video processing",
SIGGRAPH 2011).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import Rgb
from dynamicverse.backends.analysis.working import Map

BINS = 16  # a Lab axis
PRIOR = 2e-4  # share of pixels that every colour has in both models
FAR_WEIGHT = 0.03  # of background far from anything that moves
COLOUR_LIMIT = 2.5  # of the log likelihood ratio
SMOOTH_STEPS = 3
DOMAIN_ITERATIONS = 2


def colour_ratios(
    count: int,
    radius: int,
    near: float,
    rgb: Callable[[int], Rgb],
    votes: Callable[[int], Map],
) -> Iterator[Map]:
    """For every frame in order: log of how much likelier each pixel's colour (H,W) is on what
    moves than beside it.

    The models of frame t are learnt from the votes of the frames t ± radius, nearer frames
    weigh more. near: px, reach of the background's weight around what moves. Every frame is
    asked for twice; the histograms of 2 radius + 1 frames are held.
    """
    window: deque[tuple[int, npt.NDArray[np.float32]]] = deque()
    learnt = 0
    for t in range(count):
        while learnt < min(count, t + radius + 1):
            window.append((learnt, _histograms(rgb(learnt), votes(learnt), near)))
            learnt += 1
        while window[0][0] < t - radius:
            window.popleft()
        total_2B = np.zeros((2, BINS**3), np.float32)
        for frame, histogram_2B in window:
            total_2B += np.float32(1 - abs(frame - t) / (radius + 1)) * histogram_2B
        moving_B, still_B = (_blurred(h) / (h.sum() + 1) + PRIOR for h in total_2B)
        ratio_B = np.clip(np.log(moving_B / still_B), -COLOUR_LIMIT, COLOUR_LIMIT)
        yield ratio_B[_colour_bins(rgb(t))]


def _histograms(rgb_HW3: Rgb, votes_HW: Map, near: float) -> npt.NDArray[np.float32]:
    """Colours of what moves and of what does not, (2, BINS³)."""
    bins_N = _colour_bins(rgb_HW3).ravel()
    still_HW = (votes_HW <= 0).astype(np.uint8)
    if still_HW.all():
        nearness_HW = np.full(votes_HW.shape, FAR_WEIGHT, np.float32)
    else:
        distance_HW = cv2.distanceTransform(still_HW, cv2.DIST_L2, 3)
        nearness_HW = np.exp(-distance_HW / near) + FAR_WEIGHT
    moving_N = np.clip(votes_HW, 0, 1).ravel()
    background_N = (np.clip(-votes_HW - 0.2, 0, 1) * nearness_HW).ravel()
    both = (np.bincount(bins_N, w, BINS**3) for w in (moving_N, background_N))
    return np.stack(list(both)).astype(np.float32)


def _colour_bins(rgb_HW3: Rgb) -> npt.NDArray[np.int32]:
    lab_HW3 = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2LAB).astype(np.int32)
    lightness_HW = lab_HW3[..., 0] * BINS >> 8
    # a and b rarely leave the inner half of their range
    chroma_HW2 = np.clip((lab_HW3[..., 1:] - 64) * BINS >> 7, 0, BINS - 1)
    return np.asarray((lightness_HW * BINS + chroma_HW2[..., 0]) * BINS + chroma_HW2[..., 1])


def _blurred(histogram_B: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Share each bin with its neighbours, a quarter to either side along each axis."""
    cube = histogram_B.reshape(BINS, BINS, BINS)
    for axis in range(3):
        padded = np.pad(cube, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        low, high = (np.take(padded, range(k, k + BINS), axis) for k in (0, 2))
        cube = 0.5 * cube + 0.25 * (low + high)
    return np.asarray(cube.reshape(-1), np.float32)


class EdgeAwareFilter:
    """Smooths maps along the surfaces of one picture, not across its edges.

    reach: px, standard deviation on a flat picture; contrast: sum of the RGB differences
    that counts as much as a distance of `reach`.
    """

    def __init__(self, rgb_HW3: Rgb, reach: float, contrast: float) -> None:
        picture = rgb_HW3.astype(np.float32)
        across = np.abs(np.diff(picture, axis=1)).sum(2)
        down = np.abs(np.diff(picture, axis=0)).sum(2)
        across_WH = np.ascontiguousarray((1 + reach / contrast * across).T)
        down_HW = 1 + reach / contrast * down
        self._weights = []
        for i in range(DOMAIN_ITERATIONS):
            n = DOMAIN_ITERATIONS
            sigma = reach * np.sqrt(3) * 2 ** (n - i - 1) / np.sqrt(4**n - 1)
            rate = np.float32(-np.sqrt(2) / sigma)
            self._weights.append((np.exp(rate * across_WH), np.exp(rate * down_HW)))

    def __call__(self, map_HW: Map) -> Map:
        for across_WH, down_HW in self._weights:
            turned_WH = np.ascontiguousarray(map_HW.T)
            _recurse(turned_WH, across_WH)
            map_HW = np.ascontiguousarray(turned_WH.T)
            _recurse(map_HW, down_HW)
        return map_HW


def _recurse(rows: Map, weights: Map) -> None:
    """First-order recursive filter down the rows and up again, in place."""
    for k in range(1, len(rows)):
        rows[k] += weights[k - 1] * (rows[k - 1] - rows[k])
    for k in range(len(rows) - 2, -1, -1):
        rows[k] += weights[k] * (rows[k + 1] - rows[k])


def smooth_labels(unary_HW: Map, smooth: EdgeAwareFilter, strength: float) -> Map:
    """Mean-field labels in ±1 from log-odds (H,W); neighbours on the same surface agree."""
    label_HW = np.tanh(unary_HW / 2)
    for _ in range(SMOOTH_STEPS):
        label_HW = np.tanh((unary_HW + np.float32(strength) * smooth(label_HW)) / 2)
    return np.asarray(label_HW, np.float32)
