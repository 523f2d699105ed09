"""Shot cuts, found while the frames stream by.

Candidates come from PySceneDetect's AdaptiveDetector: the change in colour between two frames
must stand out from its neighbours. Colours alone mistake flashes, passing objects and jerky
motion for cuts, and miss cuts between restless shots; so a candidate must also break the
tracks: corners before it are not found again after it. A change that stands out little must
break them where they hold on both sides. A stretch of black is a shot of its own.

Dissolves are not found, and neither is a jump cut on an unmoved camera.
"""

from __future__ import annotations

from collections import deque
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.curation.motion import there_and_back

LOOK_AHEAD = 2  # frames that must follow before a frame is judged
SMALL_SIDE = 320  # pixels: the longer side of the frames that are looked at
LEAST_CHANGE = 15.0  # mean HSV difference, 0..255 (PySceneDetect's default)
# Ratio of a change to its neighbours' mean. On hand-held clips without a cut it reached 1.7,
# with tracks that held; real cuts between restless shots had 1.7 and more. Next to an end of
# the clip two of the four neighbours are missing, which doubles the ratio.
WEAK, STRONG, AT_THE_END = 1.5, 2.0, 4.0
# Share of corners found again. Across real cuts at most 0.05, in fast motion mostly above 0.3.
SAME_VIEW, OTHER_VIEW, TRACKABLE = 0.25, 0.1, 0.2
SAME_PATCH = 0.7  # correlation
CORNERS = 150
BLACK_MEAN, BLACK_PEAK = 3.0, 12.0  # grey levels: nothing can be seen
NOMINAL_RATE = 25.0  # the detector counts frames; their times do not matter to it
_BEFORE = 3  # frames kept before the judged one


def small(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame with a longer side of at most SMALL_SIDE pixels (area-averaged)."""
    height, width = rgb_HW3.shape[:2]
    scale = SMALL_SIDE / max(width, height)
    if scale >= 1:
        return rgb_HW3
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)


class ShotDetector:
    """Tell the first frames of shots, LOOK_AHEAD frames after they were pushed.

    Push every frame (`small`, RGB) in order; each push may return the index of a frame that
    starts a new shot, LOOK_AHEAD frames back. `finish` returns those among the last frames.
    Memory: six small frames.
    """

    def __init__(self) -> None:
        self._change = _Change(WEAK)
        self._count = 0
        self._recent: deque[NDArray[np.uint8]] = deque(maxlen=_BEFORE + 1 + LOOK_AHEAD)
        self._black: deque[bool] = deque(maxlen=1 + LOOK_AHEAD)
        self._in_black = False

    def push(self, small_HW3: NDArray[np.uint8]) -> int | None:
        """Take the next frame; the index of the frame LOOK_AHEAD back if a shot starts there."""
        if not self._count:  # the first frame stands for those before it
            for _ in range(_BEFORE):
                self._recent.append(small_HW3)
                self._change.stands_out(small_HW3)
        self._count += 1
        return self._step(small_HW3, padding=0)

    def finish(self) -> list[int]:
        """The starts of shots among the last LOOK_AHEAD frames."""
        if not self._count:
            return []
        last = self._recent[-1]
        found = [self._step(last, padding=ahead) for ahead in range(1, LOOK_AHEAD + 1)]
        return [index for index in found if index is not None]

    def _step(self, small_HW3: NDArray[np.uint8], padding: int) -> int | None:
        """Judge the frame LOOK_AHEAD back, now that this one (or its copy) follows."""
        candidate = self._change.stands_out(small_HW3)
        self._recent.append(small_HW3)
        self._black.append(is_black(small_HW3))
        index = self._count - 1 + padding - LOOK_AHEAD
        if index < 0:
            return None
        at_the_end = index < _BEFORE or padding > 0
        fade = self._fade()
        # colours of black are noise: there, only brightness counts
        starts = fade or (candidate and not self._in_black and self._is_cut(at_the_end))
        return index if starts and index > 0 else None

    def _fade(self) -> bool:
        """True if a stretch of black starts or ends at the judged frame."""
        if not self._in_black and all(self._black):
            self._in_black = True
            return True
        if self._in_black and not self._black[0]:
            self._in_black = False
            return True
        return False

    def _is_cut(self, at_the_end: bool) -> bool:
        """True if the tracks break between the frame before the judged one and it."""
        frames = list(self._recent)
        before, after = frames[:_BEFORE], frames[_BEFORE:]
        across = 0.0
        # a flash or a passing object lets the view of a little before come back a little later
        for first, second in product(reversed(before), after):
            across = max(across, found_again(first, second))
            if across >= SAME_VIEW:
                return False
        if at_the_end:
            return self._ratio_exceeds(AT_THE_END)
        if self._ratio_exceeds(STRONG):
            return True
        held = min(found_again(*before[-2:]), found_again(*after[:2]))
        return across < OTHER_VIEW and held >= TRACKABLE

    def _ratio_exceeds(self, ratio: float) -> bool:
        change = _Change(ratio)
        return [change.stands_out(frame) for frame in self._recent][-1]


class _Change:
    """PySceneDetect's AdaptiveDetector: does a change stand out by `ratio`?"""

    def __init__(self, ratio: float) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self._timecode = FrameTimecode
        self._detector = AdaptiveDetector(
            adaptive_threshold=ratio,
            min_scene_len=1,
            window_width=LOOK_AHEAD,
            min_content_val=LEAST_CHANGE,
        )
        self._fed = 0

    def stands_out(self, small_HW3: NDArray[np.uint8]) -> bool:
        """Take the next frame; True if the frame LOOK_AHEAD back differs from the one before."""
        bgr = cv2.cvtColor(small_HW3, cv2.COLOR_RGB2BGR)
        timecode = self._timecode(self._fed, fps=NOMINAL_RATE)
        self._fed += 1
        return bool(self._detector.process_frame(timecode, bgr))


def is_black(small_HW3: NDArray[np.uint8]) -> bool:
    """True if nothing can be seen in the frame."""
    grey = cv2.cvtColor(small_HW3, cv2.COLOR_RGB2GRAY)
    return bool(grey.mean() < BLACK_MEAN and np.percentile(grey, 99.5) < BLACK_PEAK)


def found_again(first_HW3: NDArray[np.uint8], second_HW3: NDArray[np.uint8]) -> float:
    """The share of corners that Lucas–Kanade tracks forth and back to within a pixel."""
    first, second = _evened(first_HW3), _evened(second_HW3)
    corners = cv2.goodFeaturesToTrack(first, CORNERS, 0.02, 6)
    if corners is None:
        return 0.0
    here_N2 = np.asarray(corners, np.float32).reshape(-1, 2)
    there_N2, kept_N = there_and_back(first, second, here_N2)
    alike_N = _correlation(first, second, here_N2, there_N2) > SAME_PATCH
    return float(np.mean(kept_N & alike_N))


def _evened(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey with local brightness and contrast evened out, against flashes and switched lights."""
    grey = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.GaussianBlur(grey, (0, 0), 8)
    deviation = np.sqrt(cv2.GaussianBlur((grey - mean) ** 2, (0, 0), 8))
    return np.asarray(np.clip(128 + 40 * (grey - mean) / (deviation + 3), 0, 255), np.uint8)


def _correlation(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    here_N2: NDArray[np.float32],
    there_N2: NDArray[np.float32],
    radius: int = 5,
) -> NDArray[np.float64]:
    """Normalised correlation (N) of the patches around matched points."""
    steps = np.arange(-radius, radius + 1, dtype=np.float32)
    offset_P2 = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    patches = []
    for image, centre_N2 in ((first, here_N2), (second, there_N2)):
        where_NP2 = centre_N2[:, None] + offset_P2
        x, y = where_NP2[..., 0], where_NP2[..., 1]
        patch = np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR), np.float64)
        patch -= patch.mean(1, keepdims=True)
        patches.append(patch / (np.linalg.norm(patch, axis=1, keepdims=True) + 1e-6))
    return np.asarray((patches[0] * patches[1]).sum(1))
