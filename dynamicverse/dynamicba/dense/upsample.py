"""Depth from working resolution to the size of the frames, with sharp edges."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

SMOOTH = 0.04  # relative spread of inverse depth over which interpolation is allowed


def upsample(
    depth_hw: Floats32, confidence_hw: Floats32, rgb_HW3: Bytes
) -> tuple[Floats32, Floats32]:
    """Depth and confidence (H,W) for a frame.

    On smooth surfaces inverse depth is interpolated (exact on planes). At depth edges each
    pixel takes the value of whichever of its four neighbours looks most like it; a pixel that
    looks like one without depth stays unknown.
    """
    height, width = rgb_HW3.shape[:2]
    if depth_hw.shape == (height, width):
        return depth_hw.copy(), confidence_hw.copy()
    known_hw = depth_hw > 0
    inverse_hw = np.divide(1, depth_hw, out=np.zeros_like(depth_hw), where=known_hw)
    corners = _corners((height, width), depth_hw.shape)
    inverse_HW = cv2.resize(inverse_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    confidence_HW = cv2.resize(confidence_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    edge = np.flatnonzero(_edges(inverse_hw, (height, width)))
    small_hw3 = cv2.resize(rgb_HW3, depth_hw.shape[::-1], interpolation=cv2.INTER_AREA)
    chosen = _most_alike(rgb_HW3, np.asarray(small_hw3, np.uint8), corners, edge)
    inverse_HW.ravel()[edge] = inverse_hw.ravel()[chosen]
    confidence_HW.ravel()[edge] = confidence_hw.ravel()[chosen]
    known_HW = inverse_HW > 0
    depth_HW = np.divide(1, inverse_HW, out=np.zeros_like(inverse_HW), where=known_HW)
    return depth_HW, np.where(known_HW, confidence_HW, 0)


def _corners(full: tuple[int, int], small: tuple[int, int]) -> list[npt.NDArray[np.intp]]:
    """For rows, then columns: indices (2, n) of the samples on either side of each pixel."""
    both = []
    for n, m in zip(full, small, strict=True):
        position = (np.arange(n) + 0.5) * m / n - 0.5
        first = np.floor(position).astype(np.intp)
        both.append(np.clip(np.stack([first, first + 1]), 0, m - 1))
    return both


def _edges(inverse_hw: Floats32, full: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels (H,W) among whose four samples some are known, and one is not or is far off."""
    window = np.ones((2, 2), np.uint8)
    anchor = (0, 0)
    low_hw = cv2.erode(inverse_hw, window, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    high_hw = cv2.dilate(inverse_hw, window, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    rough_hw = high_hw - low_hw > SMOOTH * high_hw  # also true next to 0, not amid zeros
    rows, columns = (c[0] for c in _corners(full, inverse_hw.shape))
    return np.asarray(rough_hw[rows[:, None], columns], np.bool_)


def _most_alike(
    rgb_HW3: Bytes,
    small_hw3: Bytes,
    corners: list[npt.NDArray[np.intp]],
    edge: npt.NDArray[np.intp],
) -> npt.NDArray[np.intp]:
    """For flat pixel indices `edge`, the flat index of the sample with the nearest colour."""
    rows, columns = np.divmod(edge, rgb_HW3.shape[1])
    colour_E3 = rgb_HW3.reshape(-1, 3)[edge].astype(np.float32)
    small_N3 = small_hw3.reshape(-1, 3).astype(np.float32)
    best_E = np.full(len(edge), np.inf, np.float32)
    chosen_E = np.zeros(len(edge), np.intp)
    for row_side in corners[0]:
        for column_side in corners[1]:
            sample_E = row_side[rows] * small_hw3.shape[1] + column_side[columns]
            difference_E3 = small_N3[sample_E] - colour_E3
            distance_E = np.einsum("ec,ec->e", difference_E3, difference_E3)
            nearer_E = distance_E < best_E
            best_E[nearer_E] = distance_E[nearer_E]
            chosen_E[nearer_E] = sample_E[nearer_E]
    return chosen_E
