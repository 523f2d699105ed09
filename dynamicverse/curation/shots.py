"""Shot cuts, found while the frames stream by.

Candidates come from PySceneDetect's AdaptiveDetector: the change in colour between two frames
must stand out from its neighbours, so fast camera motion gives none. A candidate is dropped
if the views before and after it show the same things (a flash, a passing object). A stretch
of black is a shot of its own: cuts at both its ends.

Dissolves are not found, and neither is a jump cut on an unmoved camera.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.curation.motion import there_and_back

LOOK_AHEAD = 2  # frames that must follow before a frame is judged
SMALL_SIDE = 320  # pixels: the longer side of the frames that are looked at
CHANGE_RATIO = 3.0  # of a cut's change to its neighbours' (PySceneDetect's default)
LEAST_CHANGE = 15.0  # mean HSV difference, 0..255 (PySceneDetect's default)
SAME_PATCH = 0.7  # correlation
SAME_VIEW = 0.25  # share of corners found again in the other view
CORNERS = 150
BLACK_MEAN, BLACK_PEAK = 3.0, 12.0  # grey levels: nothing can be seen
NOMINAL_RATE = 25.0  # the detector counts frames; their times do not matter to it


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
    Memory: a handful of small frames.
    """

    def __init__(self) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self._timecode = FrameTimecode
        self._detector = AdaptiveDetector(
            adaptive_threshold=CHANGE_RATIO,
            min_scene_len=1,
            window_width=LOOK_AHEAD,
            min_content_val=LEAST_CHANGE,
        )
        self._fed = 0
        self._count = 0
        self._recent: deque[NDArray[np.uint8]] = deque(maxlen=LOOK_AHEAD + 2)
        self._black: deque[bool] = deque(maxlen=LOOK_AHEAD + 2)
        self._in_black = False

    def push(self, small_HW3: NDArray[np.uint8]) -> int | None:
        """Take the next frame; the index of the frame LOOK_AHEAD back if a shot starts there."""
        if not self._count:  # the detector judges a frame by both its neighbours
            for _ in range(LOOK_AHEAD):
                self._feed(small_HW3)
        self._count += 1
        return self._step(small_HW3)

    def finish(self) -> list[int]:
        """The starts of shots among the last LOOK_AHEAD frames."""
        if not self._count:
            return []
        last = self._recent[-1]
        found = [self._step(last, padding=ahead) for ahead in range(1, LOOK_AHEAD + 1)]
        return [index for index in found if index is not None]

    def _step(self, small_HW3: NDArray[np.uint8], padding: int = 0) -> int | None:
        candidate = self._feed(small_HW3)
        self._recent.append(small_HW3)
        self._black.append(is_black(small_HW3))
        index = self._count - 1 + padding - LOOK_AHEAD
        if index < 0:
            return None
        fade = self._fade()
        if index == 0 or not (fade or (candidate and not self._flash())):
            return None
        return index

    def _feed(self, small_HW3: NDArray[np.uint8]) -> bool:
        """True if the detector sees a cut LOOK_AHEAD frames back."""
        bgr = cv2.cvtColor(small_HW3, cv2.COLOR_RGB2BGR)
        timecode = self._timecode(self._fed, fps=NOMINAL_RATE)
        self._fed += 1
        return bool(self._detector.process_frame(timecode, bgr))

    def _fade(self) -> bool:
        """True if a stretch of black starts or ends at the judged frame."""
        judged = list(self._black)[-LOOK_AHEAD - 1 :]
        if not self._in_black and all(judged):
            self._in_black = True
            return True
        if self._in_black and not judged[0]:
            self._in_black = False
            return True
        return False

    def _flash(self) -> bool:
        """True if what was seen before the judged frame is still there at or soon after it."""
        if len(self._recent) < LOOK_AHEAD + 2:
            return False
        before, *after = self._recent
        return any(same_view(before, later) for later in reversed(after))


def is_black(small_HW3: NDArray[np.uint8]) -> bool:
    """True if nothing can be seen in the frame."""
    grey = cv2.cvtColor(small_HW3, cv2.COLOR_RGB2GRAY)
    return bool(grey.mean() < BLACK_MEAN and np.percentile(grey, 99.5) < BLACK_PEAK)


def same_view(first_HW3: NDArray[np.uint8], second_HW3: NDArray[np.uint8]) -> bool:
    """True if enough corners of one frame are found again in the other, there and back."""
    return found_again(first_HW3, second_HW3) >= SAME_VIEW


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
