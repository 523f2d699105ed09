"""The rest of an object: pixels beside what moves whose flow goes on as its flow does.

A part of a moving thing may look static, as where it moves along the epipolar lines. Around
what surely moves, the flow is extrapolated by local affine models, and pixels that agree over
several frames are added; what is added must end at a jump of motion, else it is background.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import Flow, Valid
from dynamicverse.backends.analysis.working import Map

Mask = npt.NDArray[np.bool_]

GAP = 4  # frames
SHRINK = 2  # of the working size
SIGMA = 5.0  # shrunk px, of the local models
NEAR = 0.04  # weight of what moves that a model needs
STEPS, STEP = 6, 3  # rounds, and how far each may grow, shrunk px
AGREES, NOISE_FLOOR, NOISE_MOST = 3.0, 0.12, 0.4  # noises; working px after GAP frames
JUMP = 2.0  # of the limit: residual outside of what was added
SHARP = 0.6  # of the outside that must be beyond
MOST = 1.5  # of what moves, to be added


def complete(moving_HW: Mask, chains: list[tuple[Flow, Valid]]) -> Mask:
    """What moves (H,W), completed; chains: flow over GAP frames, forward and backward."""
    if not chains or not moving_HW.any():
        return moving_HW
    small = slice(SHRINK // 2, None, SHRINK)
    moving_hw = moving_HW[small, small].copy()
    flows = [(f[small, small], v[small, small]) for f, v in chains]
    seen_hw = np.any([v for _, v in flows], axis=0)
    if not (moving_hw & seen_hw).any():
        return moving_HW
    residual_hw = _residual(moving_hw, flows)
    noise = max(NOISE_FLOOR, 1.5 * float(np.median(residual_hw[moving_hw & seen_hw])))
    if noise > NOISE_MOST:
        return moving_HW
    limit = AGREES * noise
    grown_hw, kernel = moving_hw, np.ones((2 * STEP + 1,) * 2, np.uint8)
    for _ in range(STEPS):
        near_hw = cv2.dilate(grown_hw.astype(np.uint8), kernel) > 0
        more_hw = near_hw & ~grown_hw & seen_hw & (residual_hw < limit)
        if not more_hw.any():
            break
        grown_hw = grown_hw | more_hw
        residual_hw = _residual(grown_hw, flows)
    added_hw = _bounded(grown_hw & ~moving_hw, grown_hw, residual_hw, seen_hw, JUMP * limit)
    if added_hw.sum() > MOST * moving_hw.sum():  # rather the background around an error
        return moving_HW
    height, width = moving_HW.shape
    full_HW = cv2.resize(
        added_hw.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(moving_HW | (full_HW > 0))


def _bounded(added_hw: Mask, grown_hw: Mask, residual_hw: Map, seen_hw: Mask, jump: float) -> Mask:
    """The regions of `added` outside of which the motion is another one."""
    count, regions_hw = cv2.connectedComponents(added_hw.astype(np.uint8), connectivity=8)
    kept_hw = np.zeros_like(added_hw)
    kernel = np.ones((5, 5), np.uint8)
    for region in range(1, count):
        inside_hw = regions_hw == region
        around_hw = (cv2.dilate(inside_hw.astype(np.uint8), kernel) > 0) & ~grown_hw
        outside = residual_hw[around_hw & seen_hw]
        if len(outside) < 4 or (outside > jump).mean() >= SHARP:
            kept_hw |= inside_hw
    return kept_hw


def _residual(moving_hw: Mask, flows: list[tuple[Flow, Valid]]) -> Map:
    """How far flow is from what the local models of what moves say, px; the larger of the
    flows that are valid."""
    worst_hw = np.zeros(moving_hw.shape, np.float32)
    rows, columns = np.mgrid[: moving_hw.shape[0], : moving_hw.shape[1]].astype(np.float32)
    x_hw, y_hw = columns - columns.mean(), rows - rows.mean()
    for flow_hw2, valid_hw in flows:
        w_hw = (moving_hw & valid_hw).astype(np.float32)
        terms = np.stack([w_hw, w_hw * x_hw, w_hw * y_hw], -1)
        u_hw, v_hw = flow_hw2[..., 0], flow_hw2[..., 1]
        stacked = np.concatenate(
            [
                terms,
                terms[..., 1:] * x_hw[..., None],
                terms[..., 2:] * y_hw[..., None],
                terms * u_hw[..., None],
                terms * v_hw[..., None],
            ],
            -1,
        )
        m = _blurred(stacked)
        s, sx, sy, sxx, sxy, syy = (m[..., k] for k in range(6))
        near_hw = s > NEAR
        s = np.maximum(s, 1e-6)
        mx, my = sx / s, sy / s
        ridge = np.float32(1.0)  # px²: a model of a few pixels is a translation
        cxx, cxy, cyy = sxx / s - mx * mx + ridge, sxy / s - mx * my, syy / s - my * my + ridge
        determinant = np.maximum(cxx * cyy - cxy * cxy, 1e-6)
        error_hw = np.zeros_like(w_hw)
        for k, value_hw in ((6, u_hw), (9, v_hw)):
            mean = m[..., k] / s
            cx, cy = m[..., k + 1] / s - mx * mean, m[..., k + 2] / s - my * mean
            gx = (cyy * cx - cxy * cy) / determinant
            gy = (cxx * cy - cxy * cx) / determinant
            error_hw += (value_hw - mean - gx * (x_hw - mx) - gy * (y_hw - my)) ** 2
        error_hw = np.where(near_hw, np.sqrt(error_hw), np.float32(1e3))
        worst_hw = np.where(valid_hw, np.maximum(worst_hw, error_hw), worst_hw)
    return worst_hw


def _blurred(channels: Map) -> Map:
    """Gaussian, channel by channel."""
    return np.stack(
        [
            cv2.GaussianBlur(channels[..., k], (0, 0), SIGMA, borderType=cv2.BORDER_CONSTANT)
            for k in range(channels.shape[-1])
        ],
        -1,
    )
