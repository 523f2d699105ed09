"""Where a point of one image lies in another: pyramidal Lucas-Kanade with its checks.

Bouguet, "Pyramidal implementation of the affine Lucas Kanade feature tracker" (2001), as
in OpenCV; forward-backward error after Kalal et al., "Forward-backward error" (ICPR 2010).
Positions are (K,2) float32 pixels, x first; images are (H,W) uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]

WINDOW = 15  # px, side of the Lucas-Kanade window
PATCH = 11  # px, side of the patch compared by correlation
COARSE_SIDE = 480  # px, the longer side of the images of the coarse flow
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01)
_MAX_ROWS = 30_000  # cv2.remap takes less than 2**15 rows


@dataclass(frozen=True)
class Match:
    """K points found in another image.

    ok_K: solved, inside the image. error_K: forward-backward error in px (inf if not ok).
    """

    points_K2: Points
    ok_K: npt.NDArray[np.bool_]
    error_K: npt.NDArray[np.float32]


def match(
    source: Grey,
    target: Grey,
    points_K2: Points,
    guess_K2: Points,
    levels: int,
    back_K2: Points | None = None,
) -> Match:
    """Find points of `source` in `target`, starting from `guess_K2`, and go back again.

    levels: pyramid levels above full resolution. back_K2: displacement to start the way
    back with, (K,2) from target to source; by default the way there, reversed.
    """
    if len(points_K2) == 0:
        return Match(points_K2, np.zeros(0, bool), np.zeros(0, np.float32))
    found_K2, ok_K = _lucas_kanade(source, target, points_K2, guess_K2, levels)
    step_K2 = points_K2 - guess_K2 if back_K2 is None else back_K2
    back, ok_back_K = _lucas_kanade(target, source, found_K2, found_K2 + step_K2, levels)
    height, width = target.shape
    x, y = found_K2[:, 0], found_K2[:, 1]
    ok_K = ok_K & ok_back_K & (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    error_K = np.where(ok_K, np.linalg.norm(back - points_K2, axis=1), np.inf)
    return Match(found_K2, ok_K, error_K.astype(np.float32))


def _lucas_kanade(
    source: Grey, target: Grey, points_K2: Points, guess_K2: Points, levels: int
) -> tuple[Points, npt.NDArray[np.bool_]]:
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source,
        target,
        np.ascontiguousarray(points_K2, np.float32),
        np.array(guess_K2, np.float32, order="C"),  # a copy: OpenCV writes into it
        winSize=(WINDOW, WINDOW),
        maxLevel=levels,
        criteria=_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found, status[:, 0].astype(bool) & np.isfinite(found).all(axis=1)


def patches(image: Grey, points_K2: Points) -> npt.NDArray[np.float32]:
    """Square patches around sub-pixel positions, (K, PATCH**2), zero mean and unit norm.

    A patch without contrast is all zero.
    """
    reach = np.arange(PATCH, dtype=np.float32) - PATCH // 2
    dy, dx = (d.ravel() for d in np.meshgrid(reach, reach, indexing="ij"))
    blocks = [
        cv2.remap(
            image,
            np.ascontiguousarray(block[:, :1] + dx),
            np.ascontiguousarray(block[:, 1:] + dy),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for block in np.split(points_K2, range(_MAX_ROWS, len(points_K2), _MAX_ROWS))
        if len(block)
    ]
    if not blocks:
        return np.zeros((0, PATCH * PATCH), np.float32)
    values = np.concatenate(blocks).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.where(norm > PATCH, values / np.maximum(norm, 1e-6), np.float32(0.0))


def similarity(
    source: Grey, target: Grey, points_K2: Points, found_K2: Points
) -> npt.NDArray[np.float32]:
    """Zero-mean normalised cross-correlation of the patches around matched points, (K,)."""
    return np.einsum("kp,kp->k", patches(source, points_K2), patches(target, found_K2))


class CoarseFlow:
    """Dense flow of reduced images: a first guess that survives large motion."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setFinestScale(1)

    @staticmethod
    def reduce(image: Grey) -> Grey:
        """The image at the size that the flow works on."""
        scale = -(-max(image.shape) // COARSE_SIDE)
        size = tuple(max(16, round(side / scale)) for side in reversed(image.shape))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale > 1 else image  # type: ignore[return-value]

    def __call__(self, source: Grey, target: Grey) -> npt.NDArray[np.float32]:
        """Flow (h,w,2) between reduced images, in their pixels."""
        flow: npt.NDArray[np.float32] = self._dis.calc(source, target, None)
        return flow


def sample_flow(
    flow_hw2: npt.NDArray[np.float32], size: tuple[int, int], points_K2: Points
) -> Points:
    """Displacement in full-resolution px at points of an image of `size` (width, height)."""
    height, width = flow_hw2.shape[:2]
    ratio_2 = np.array([width / size[0], height / size[1]], np.float32)
    at_K2 = (points_K2 + 0.5) * ratio_2 - 0.5
    x = np.clip(np.rint(at_K2[:, 0]).astype(np.int64), 0, width - 1)
    y = np.clip(np.rint(at_K2[:, 1]).astype(np.int64), 0, height - 1)
    return flow_hw2[y, x] / ratio_2
