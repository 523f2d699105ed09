"""The data filter: scores of a clip, and the verdict.

Everything is measured on grey frames of at most 320 pixels while they stream by; memory
grows by a few numbers a frame. A score is None where the clip does not show it.

sharpness: median over frames of var(Laplacian) / var(grey), less the variance of rounding.
    Ratio, 0 to about 10; below 0.002 nothing is sharp.
contrast: 90th percentile over frames of the standard deviation of grey. Share of white, 0..0.5.
brightness: mean grey of all frames. Share of white, 0..1.
clipped_share: mean share of pixels at most 4 or at least 251 of 255. 0..1.
motion: median over frame pairs of the median point shift. Share of the diagonal a frame, >= 0.
camera_smoothness: 1 / (1 + c / (s + 0.001)), c the median change of the camera's shift from
    frame to frame, s its median, shares of the diagonal. 0..1; 1 is steady.
parallax: median over pairs of views of the share of points that need depth to be explained.
    0..1; 0 is a rotation, a zoom or a plane. None if the camera hardly moves.
moving_share: median over pairs of views of the share of points that no rigid scene explains.
    0..1.
duplicate_share: share of frames that repeat the one before (mean difference below 0.1 of 255).
    0..1.
focal_stability: None: the focal length is not known before reconstruction.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.config import FilterConfig
from dynamicverse.curation.motion import MotionTrack

DARK, BRIGHT = 4, 251  # grey levels that carry no detail
ROUNDING = 20 / 12  # variance of the Laplacian of whole grey levels alone
SAME_FRAME = 0.1  # grey levels: mean difference of a repeated frame
STEADY = 0.001  # of the diagonal a frame: camera shift that is noise

Scores = dict[str, float | None]


class ClipScores:
    """Feed the frames of one clip in order, then ask for `scores`."""

    def __init__(self) -> None:
        self._motion = MotionTrack()
        self._previous: NDArray[np.uint8] | None = None
        self._sharpness: list[float] = []
        self._contrast: list[float] = []
        self._brightness: list[float] = []
        self._clipped: list[float] = []
        self._repeated: list[bool] = []

    def add(self, small_HW3: NDArray[np.uint8]) -> None:
        """Take the next frame: small RGB uint8."""
        grey = np.asarray(cv2.cvtColor(small_HW3, cv2.COLOR_RGB2GRAY), np.uint8)
        if self._previous is not None:
            same = bool(cv2.absdiff(grey, self._previous).mean() < SAME_FRAME)
            self._repeated.append(same)
        self._previous = grey
        mean, deviation = (float(v[0, 0]) for v in cv2.meanStdDev(grey))
        _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
        detail = max(0.0, float(edges[0, 0]) ** 2 - ROUNDING)
        self._sharpness.append(detail / (deviation**2 + 1.0))
        self._contrast.append(deviation / 255)
        self._brightness.append(mean / 255)
        histogram = np.bincount(grey.ravel(), minlength=256)
        clipped = histogram[: DARK + 1].sum() + histogram[BRIGHT:].sum()
        self._clipped.append(float(clipped) / grey.size)
        self._motion.add(grey)

    def scores(self) -> Scores:
        """The scores of the clip so far, rounded to six digits."""
        self._motion.finish()
        values: Scores = {
            "sharpness": _median(self._sharpness),
            "contrast": float(np.percentile(self._contrast, 90)) if self._contrast else None,
            "brightness": float(np.mean(self._brightness)) if self._brightness else None,
            "clipped_share": float(np.mean(self._clipped)) if self._clipped else None,
            "motion": _median(self._motion.steps),
            "camera_smoothness": _smoothness(self._motion.camera),
            "parallax": _median(self._motion.parallax),
            "moving_share": _median(self._motion.moving),
            "duplicate_share": float(np.mean(self._repeated)) if self._repeated else None,
            "focal_stability": None,
        }
        return {name: None if v is None else round(v, 6) for name, v in values.items()}


def verdict(scores: Scores, limits: FilterConfig) -> list[str]:
    """Why the clip is rejected, in words; empty if it is accepted.

    A threshold `min_x` or `max_x` that is null, or a score that is not known, decides nothing.
    """
    reasons = []
    for field, threshold in limits.model_dump().items():
        side, _, name = field.partition("_")
        value = scores.get(name)
        if threshold is None or value is None or side not in ("min", "max"):
            continue
        if side == "min" and value < threshold:
            reasons.append(f"{_WORDS[name][0]}: {name} {value:.4g} is below {threshold:g}")
        elif side == "max" and value > threshold:
            reasons.append(f"{_WORDS[name][1]}: {name} {value:.4g} is above {threshold:g}")
    return reasons


_WORDS = {
    "sharpness": ("blurred", "noisy"),
    "contrast": ("uniform frames", "too much contrast"),
    "brightness": ("black or too dark", "white or too bright"),
    "clipped_share": ("too little is clipped", "under- or overexposed"),
    "motion": ("too little motion", "too much motion"),
    "camera_smoothness": ("the camera shakes", "the camera is too steady"),
    "parallax": ("no parallax", "too much parallax"),
    "moving_share": ("too little moves by itself", "too much moves by itself"),
    "duplicate_share": ("too few repeated frames", "frozen or repeated frames"),
}


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _smoothness(camera: list[tuple[float, float] | None]) -> float | None:
    """From the camera's shifts (x, y) between frames; None if too few could be fitted."""
    pairs = [
        (np.array(a), np.array(b)) for a, b in pairwise(camera) if a is not None and b is not None
    ]
    if not pairs:
        return None
    change = float(np.median([np.linalg.norm(b - a) for a, b in pairs]))
    shift = float(np.median([np.linalg.norm(b) for _, b in pairs]))
    return 1.0 / (1.0 + change / (shift + STEADY))
