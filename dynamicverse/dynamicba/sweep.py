"""Plane sweep: how well neighbouring pictures agree with hypotheses of inverse depth.

Collins, "A space-sweep approach to true multi-image matching", CVPR 1996; the planes are
parallel to the reference picture and equally spaced in inverse depth. Agreement is the
zero-mean normalised correlation of a small window, and of the neighbours the better half
counts, so that a pixel may be covered in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.semiglobal import COST_RANGE

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

NOISE = 2.0  # grey levels; windows with less contrast say nothing
UNKNOWN = 2.0  # above every cost; marks pixels that a neighbour does not see


@dataclass(frozen=True)
class Picture:
    """A frame as the sweep sees it.

    grey_HW: uint8 at working resolution. usable_HW: False on moving objects.
    K: (3,3) px of that resolution. c2w: (4,4).
    """

    grey_HW: npt.NDArray[np.uint8]
    usable_HW: npt.NDArray[np.bool_]
    K: Floats
    c2w: Floats

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.grey_HW.shape[1], self.grey_HW.shape[0]


def relative_motion(reference: Picture, other: Picture) -> tuple[Floats, Floats]:
    """R (3,3), t (3) that take points of the reference camera to the other camera."""
    w2c = np.linalg.inv(other.c2w)
    motion = w2c @ reference.c2w
    return motion[:3, :3], motion[:3, 3]


def transfer(reference: Picture, other: Picture) -> tuple[Floats, Floats]:
    """A (3,3), b (3): pixel x of the reference at inverse depth ρ is seen at A·x + ρ·b."""
    R, t = relative_motion(reference, other)
    return other.K @ R @ np.linalg.inv(reference.K), other.K @ t


def displacement(reference: Picture, other: Picture, near: float, far: float) -> float:
    """Pixels that the other picture moves between the nearest and the farthest hypothesis.

    The largest over a grid of reference pixels whose both ends fall inside the other picture.
    """
    A, b = transfer(reference, other)
    width, height = reference.size
    xs, ys = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 7))
    base = A @ np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)])
    ends = []
    for depth in (near, far):
        point = base + b[:, None] / depth
        point[:, point[2] < 1e-6] = np.nan
        ends.append(point[:2] / point[2])
    length = np.linalg.norm(ends[0] - ends[1], axis=0)
    limit = 1.5 * max(width, height)
    length = length[np.isfinite(length) & (length < limit)]
    return float(np.percentile(length, 90)) if len(length) else 0.0


def cost_volume(
    reference: Picture, others: Sequence[Picture], inverse_depth_D: Floats, window: int
) -> npt.NDArray[np.int16]:
    """Costs (H,W,D) in 0..COST_RANGE: 0 agrees, half the range says nothing.

    window: side of the correlation window in px.
    """
    width, height = reference.size
    volume_DHW = np.empty((len(inverse_depth_D), height, width), np.int16)
    patches = _Window(reference.grey_HW, window)
    targets = [(transfer(reference, o), _with_validity(o)) for o in others]
    for index, inverse_depth in enumerate(inverse_depth_D):
        first_HW = np.full((height, width), UNKNOWN, np.float32)
        second_HW = first_HW.copy()
        for (A, b), image_HW2 in targets:
            cost_HW = _plane_cost(patches, image_HW2, A, b * inverse_depth)
            if len(others) > 2:
                np.minimum(second_HW, np.maximum(first_HW, cost_HW), out=second_HW)
            np.minimum(first_HW, cost_HW, out=first_HW)
        volume_DHW[index] = _combine(first_HW, second_HW)
    volume_HWD = np.ascontiguousarray(volume_DHW.transpose(1, 2, 0))
    volume_HWD[~reference.usable_HW] = COST_RANGE // 2
    return volume_HWD


def _combine(first_HW: Floats32, second_HW: Floats32) -> npt.NDArray[np.int16]:
    """Mean of the best two where there are two; neutral where there is none."""
    mean_HW = np.where(second_HW < UNKNOWN, 0.5 * (first_HW + second_HW), first_HW)
    mean_HW[first_HW >= UNKNOWN] = 0.5
    return np.asarray(np.rint(mean_HW * COST_RANGE), np.int16)


def _with_validity(picture: Picture) -> npt.NDArray[np.uint8]:
    validity_HW = np.where(picture.usable_HW, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(np.stack([picture.grey_HW, validity_HW], -1))


class _Window:
    """Window statistics of the reference picture."""

    def __init__(self, grey_HW: npt.NDArray[np.uint8], window: int) -> None:
        self.side = (window, window)
        self.image_HW = grey_HW.astype(np.float32)
        self.mean_HW = cv2.boxFilter(self.image_HW, -1, self.side)
        square_HW = cv2.boxFilter(self.image_HW * self.image_HW, -1, self.side)
        self.variance_HW = np.maximum(square_HW - self.mean_HW * self.mean_HW, 0) + NOISE**2

    def cost(self, other_HW: Floats32) -> Floats32:
        """(1 − correlation) / 2 with a picture of the same size."""
        mean_HW = cv2.boxFilter(other_HW, -1, self.side)
        square_HW = cv2.boxFilter(other_HW * other_HW, -1, self.side)
        cross_HW = cv2.boxFilter(self.image_HW * other_HW, -1, self.side)
        variance_HW = np.maximum(square_HW - mean_HW * mean_HW, 0) + NOISE**2
        covariance_HW = cross_HW - self.mean_HW * mean_HW
        correlation_HW = covariance_HW / np.sqrt(self.variance_HW * variance_HW)
        return np.asarray(0.5 - 0.5 * np.clip(correlation_HW, -1, 1), np.float32)


def _plane_cost(
    patches: _Window, image_HW2: npt.NDArray[np.uint8], A: Floats, shift: Floats
) -> Floats32:
    height, width = patches.image_HW.shape
    H = A.copy()
    H[:, 2] += shift
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped_HW2 = cv2.warpPerspective(image_HW2, H, (width, height), flags=flags)
    cost_HW = patches.cost(warped_HW2[..., 0].astype(np.float32))
    cost_HW[warped_HW2[..., 1] < 255] = UNKNOWN
    _hide_behind(cost_HW, H)
    return cost_HW


def _hide_behind(cost_HW: Floats32, H: Floats) -> None:
    """Mark pixels whose hypothesis is behind the other camera."""
    height, width = cost_HW.shape
    corners = [H[2] @ [x, y, 1] for x in (0, width - 1) for y in (0, height - 1)]
    if min(corners) > 1e-6:
        return
    w_HW = H[2, 0] * np.arange(width) + H[2, 1] * np.arange(height)[:, None] + H[2, 2]
    cost_HW[w_HW <= 1e-6] = UNKNOWN
