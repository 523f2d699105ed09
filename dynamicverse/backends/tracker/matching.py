"""Where a point of one image lies in another: pyramidal Lucas-Kanade with its checks.

Bouguet, "Pyramidal implementation of the affine Lucas Kanade feature tracker" (2001), as
in OpenCV; forward-backward error after Kalal et al., "Forward-backward error" (ICPR 2010).
Positions are (K,2) float32 pixels, x first; images are (H,W) uint8. Lucas-Kanade takes the
brightness of a point for constant; exposure and shadows change it, so from frame to frame it
sees images whose local brightness and contrast are `even`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Flow = npt.NDArray[np.float32]

WINDOW = 15  # px, side of the Lucas-Kanade window
LEVELS = 0  # pyramid levels: coarser ones would spoil the guess of the coarse flow
MIN_SIDE = 16  # px that the coarse flow needs
COARSE_SIDE = 480  # px, the longer side of the images of the coarse flow
LOCAL = 15  # px, side of the square whose mean and contrast are evened out
CONTRAST = 40.0  # grey levels that a local standard deviation becomes
FAINT = 4.0  # grey levels; contrast below is left faint, or noise would look like texture
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01)


@dataclass(frozen=True)
class Match:
    """K points found in another image; the forward-backward error in px, inf if not found."""

    points_K2: Points
    error_K: npt.NDArray[np.float32]


def even(image: Grey) -> Grey:
    """The image with the same mean and contrast everywhere."""
    square = (LOCAL, LOCAL)
    mean = np.asarray(cv2.boxFilter(image, cv2.CV_32F, square), np.float32)
    deviation = np.asarray(cv2.sqrBoxFilter(image, cv2.CV_32F, square), np.float32)
    deviation -= mean * mean
    np.sqrt(np.maximum(deviation, 0, out=deviation) + np.float32(FAINT**2), out=deviation)
    values = np.subtract(image, mean, out=mean)
    values *= np.float32(CONTRAST) / deviation
    values += 128.5  # whole grey levels are cut, not rounded
    return values.clip(0.0, 255.0, out=values).astype(np.uint8)


def step(source: Grey, target: Grey, points_K2: Points, there: Flow, back: Flow) -> Match:
    """Find points of `source` in the neighbouring frame `target`, and go back again.

    there, back: coarse flows (h,w,2) between the frames, as guesses for either way.
    """
    size = (source.shape[1], source.shape[0])
    guess_K2 = points_K2 + sample_flow(there, size, points_K2)
    return _there_and_back(
        source, target, points_K2, guess_K2, lambda at_K2: at_K2 + sample_flow(back, size, at_K2)
    )


def retry(source: Grey, target: Grey, points_K2: Points, motion_K2: Points) -> Match:
    """As `step`, from a motion (K,2) px that is expected of each point."""
    return _there_and_back(
        source, target, points_K2, points_K2 + motion_K2, lambda at_K2: at_K2 - motion_K2
    )


def _there_and_back(
    source: Grey,
    target: Grey,
    points_K2: Points,
    guess_K2: Points,
    guess_back: Callable[[Points], Points],
) -> Match:
    if len(points_K2) == 0:
        return Match(points_K2, np.zeros(0, np.float32))
    found_K2, ok_K = _lucas_kanade(source, target, points_K2, guess_K2)
    home_K2, home_ok_K = _lucas_kanade(target, source, found_K2, guess_back(found_K2))
    error_K = np.linalg.norm(home_K2 - points_K2, axis=1)
    return Match(found_K2, np.where(ok_K & home_ok_K, error_K, np.inf).astype(np.float32))


def _lucas_kanade(
    source: Grey, target: Grey, points_K2: Points, guess_K2: Points
) -> tuple[Points, npt.NDArray[np.bool_]]:
    answer = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        np.ascontiguousarray(points_K2, np.float32),
        np.array(guess_K2, np.float32, order="C"),  # a copy: OpenCV writes into it
        winSize=(WINDOW, WINDOW),
        maxLevel=LEVELS,
        criteria=_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    found_K2 = np.asarray(answer[0], np.float32)
    return found_K2, (answer[1][:, 0] != 0) & np.isfinite(found_K2).all(axis=1)


class CoarseFlow:
    """Dense flow of reduced images: a first guess that survives large motion."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setFinestScale(0)
        self._dis.setVariationalRefinementIterations(0)  # Lucas-Kanade refines

    @staticmethod
    def reduce(image: Grey) -> Grey:
        """The image at the size that the flow works on."""
        scale = -(-max(image.shape) // COARSE_SIDE)
        size = tuple(max(MIN_SIDE, round(side / scale)) for side in reversed(image.shape))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

    def __call__(self, source: Grey, target: Grey) -> npt.NDArray[np.float32]:
        """Flow (h,w,2) between reduced images, in their pixels."""
        flow = self._dis.calc(source, target, None)  # type: ignore[call-overload]
        return np.asarray(flow, np.float32)


def sample_flow(
    flow_hw2: npt.NDArray[np.float32], size: tuple[int, int], points_K2: Points
) -> Points:
    """Displacement in full-resolution px at points of an image of `size` (width, height)."""
    height, width = flow_hw2.shape[:2]
    ratio_2 = np.array([width / size[0], height / size[1]], np.float32)
    at_K2 = (points_K2 + 0.5) * ratio_2 - 0.5
    x = np.clip(np.rint(at_K2[:, 0]).astype(np.int64), 0, width - 1)
    y = np.clip(np.rint(at_K2[:, 1]).astype(np.int64), 0, height - 1)
    moved_K2: Points = flow_hw2[y, x] / ratio_2
    return moved_K2
