"""Depth that several views confirm: agreement, averaging, confidence.

Merrell et al., "Real-time visibility-based fusion of depth maps", ICCV 2007, in its simplest
form: a depth is kept where enough of the other views, looked up where they see the point, put
it at the same place; the kept value is the mean of all that agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

LARGEST = 0.1  # relative difference of depths that still agree, whatever the parallax
VAGUE = 0.2  # hypotheses spaced by this share of the inverse depth halve the confidence


@dataclass(frozen=True)
class DepthView:
    """The depth that one view found for itself, at working resolution.

    inverse_HW: inverse depth, 0 = unknown. distinct_HW: 0..1, how clear the choice was.
    step: spacing of the hypotheses in inverse depth. K: (3,3) px. c2w: (4,4).
    """

    inverse_HW: Floats32
    distinct_HW: Floats32
    step: float
    K: Floats
    c2w: Floats


def agree(
    reference: DepthView, others: Sequence[DepthView], minimum: int
) -> tuple[Floats32, Floats32]:
    """Depth and confidence 0..1 (H,W) of what at least `minimum` other views confirm."""
    inverse_HW = reference.inverse_HW
    support_HW = np.zeros(inverse_HW.shape, np.float32)
    sum_HW = inverse_HW.copy()
    for other in others:
        seen_HW = _as_seen_by(reference, other)
        tolerance_HW = np.minimum(reference.step + other.step, LARGEST * inverse_HW)
        same_HW = (seen_HW > 0) & (np.abs(seen_HW - inverse_HW) < tolerance_HW)
        support_HW += same_HW
        sum_HW += np.where(same_HW, seen_HW, 0)
    kept_HW = (inverse_HW > 0) & (support_HW >= minimum)
    mean_HW = sum_HW / (1 + support_HW)
    depth_HW = np.divide(1, mean_HW, out=np.zeros_like(mean_HW), where=kept_HW)
    vague_HW = np.divide(reference.step, mean_HW, out=np.zeros_like(mean_HW), where=kept_HW)
    confidence_HW = (1 - 0.5**support_HW) * (0.5 + 0.5 * reference.distinct_HW)
    confidence_HW /= 1 + (vague_HW / VAGUE) ** 2
    return depth_HW, np.where(kept_HW, confidence_HW, 0).astype(np.float32)


def _as_seen_by(reference: DepthView, other: DepthView) -> Floats32:
    """Inverse depth in the reference of the surface that the other view has on the same ray.

    0 where the other view does not see the point or knows nothing there.
    """
    motion = np.linalg.inv(other.c2w) @ reference.c2w
    A = (other.K @ motion[:3, :3] @ np.linalg.inv(reference.K)).astype(np.float32)
    b = (other.K @ motion[:3, 3]).astype(np.float32)
    inverse_HW = reference.inverse_HW
    height, width = inverse_HW.shape
    x_W = np.arange(width, dtype=np.float32)
    y_H1 = np.arange(height, dtype=np.float32)[:, None]
    ray_3HW = [A[i, 0] * x_W + A[i, 1] * y_H1 + A[i, 2] for i in range(3)]
    along_HW = ray_3HW[2] + b[2] * inverse_HW
    front_HW = along_HW > 1e-6
    safe_HW = np.where(front_HW, along_HW, np.float32(1))
    u_HW = np.where(front_HW, (ray_3HW[0] + b[0] * inverse_HW) / safe_HW, np.float32(-9))
    v_HW = (ray_3HW[1] + b[1] * inverse_HW) / safe_HW
    found_HW = cv2.remap(other.inverse_HW, u_HW, v_HW, cv2.INTER_NEAREST, borderValue=0)
    # ρ of the reference with depth 1/found in the other: (ray + b·ρ) / ρ = 1 / found
    left_HW = 1 - b[2] * found_HW
    known_HW = (found_HW > 0) & (left_HW > 1e-6)
    result_HW = np.zeros_like(inverse_HW)
    np.divide(ray_3HW[2] * found_HW, left_HW, out=result_HW, where=known_HW)
    return np.maximum(result_HW, 0)
