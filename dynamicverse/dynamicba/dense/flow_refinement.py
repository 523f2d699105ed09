"""Depth of static pixels made to agree with optical flow.

Under known cameras the flow of a static pixel follows from its depth alone. As in the paper the
flow to the frames of a small window counts, weighted by its forward-backward error; other than
there the depth comes from a few Gauss-Newton steps. The unknown is a smooth correction of the
logarithm of depth: what all pixels nearby tell of it is pooled before it is solved for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.cameras.picture_lens import straight_rays
from dynamicverse.dynamicba.frame_pool import Kept, workers

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
ReadFlow = Callable[[int, int], Floats32 | None]

REACH = 2  # frames to either side: a window of five
SAMPLE = 4  # px between the samples at which the correction is computed
STORED = 2  # of the pixels of a flow field one in so many each way is kept in memory
POOLED = 8.0  # px, standard deviation of the Gaussian over which samples are pooled
ROUND_TRIP = 1.0  # px, forward-backward error that is usual
LOSS_PX = 1.0  # scale of the robust (Cauchy) loss
FLOW_SIGMA = 0.5 / 7**0.5  # px, of the flow that is pooled; neighbouring pixels err alike
ROUNDS = 3
LARGEST_STEP = 0.1  # of log depth


@dataclass(frozen=True)
class _Ends:
    """Where samples (S) of a frame are seen in another: rays (S,2) at z = 1, and weights."""

    frame: int
    rays_S2: Floats
    weight_S: Floats


class FlowRefinement:
    """Refines depth by the flow between neighbouring frames.

    c2w_F44: NaN where a frame is not registered. read: flow (H,W,2) between two frames, 0-based;
    None where there is none. distortion: k1 of `lens.py`. Called from several threads.
    """

    def __init__(
        self,
        c2w_F44: Floats,
        K_F33: Floats,
        distortion: float,
        read: ReadFlow,
    ) -> None:
        self._c2w_F44, self._K_F33, self._distortion = c2w_F44, K_F33, distortion
        self._read = read
        self._flow = Kept(self._load, 4 * (REACH + 1) + 2 * workers())

    def refine(self, frame: int, depth_HW: Floats32, ids_HW: Bytes, sigma: float) -> Floats32:
        """Depth (H,W), its static pixels corrected; 0 stays 0.

        sigma: standard deviation of the logarithm of the given depth.
        """
        height, width = depth_HW.shape
        y, x = np.arange(0, height, SAMPLE), np.arange(0, width, SAMPLE)
        pixels_S2 = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float64)
        depth_S = depth_HW[::SAMPLE, ::SAMPLE].ravel().astype(np.float64)
        used_S = (depth_S > 0) & (ids_HW[::SAMPLE, ::SAMPLE].ravel() == 0)
        ends = self._ends(frame, pixels_S2, used_S, (width, height))
        if not ends:
            return depth_HW
        information = (FLOW_SIGMA / sigma) ** 2
        correction_S = self._solve(frame, pixels_S2, depth_S, ends, (len(y), len(x)), information)
        field_HW = _enlarged(correction_S.reshape(len(y), len(x)), (width, height))
        refined_HW = depth_HW * np.exp(field_HW)
        return np.where(ids_HW == 0, refined_HW, depth_HW).astype(np.float32)

    def _ends(
        self, frame: int, pixels_S2: Floats, used_S: npt.NDArray[np.bool_], size: tuple[int, int]
    ) -> list[_Ends]:
        """Follow the samples through the flow to both sides."""
        ends = []
        for step in (-1, 1):
            at_S2, weight_S = pixels_S2, used_S.astype(np.float64)
            for source in range(frame, frame + step * REACH, step):
                target = source + step
                there, back = self._flow((source, target)), self._flow((target, source))
                if there is None or back is None:
                    break
                flow_S2 = _sampled(there, at_S2)
                at_S2 = at_S2 + flow_S2
                error_S = np.linalg.norm(flow_S2 + _sampled(back, at_S2), axis=1)
                inside_S = np.all((at_S2 >= 0) & (at_S2 <= np.array(size) - 1.0), axis=1)
                weight_S = weight_S * inside_S * np.exp(-0.5 * (error_S / ROUND_TRIP) ** 2)
                if np.isfinite(self._c2w_F44[target, 0, 0]):
                    # what left the picture has no weight: any pixel does
                    known_S2 = np.where(inside_S[:, None], at_S2, 0.0)
                    seen_S3 = straight_rays(known_S2, self._K_F33[target], self._distortion)
                    seen_S2 = seen_S3[:, :2]
                    ends.append(_Ends(target, seen_S2, weight_S))
        return ends

    def _solve(
        self,
        frame: int,
        pixels_S2: Floats,
        depth_S: Floats,
        ends: Sequence[_Ends],
        shape: tuple[int, int],
        information: float,
    ) -> Floats:
        """The correction of log depth (S); information: px², on its being zero."""
        rays_S3 = straight_rays(pixels_S2, self._K_F33[frame], self._distortion)
        motions = [np.linalg.inv(self._c2w_F44[e.frame]) @ self._c2w_F44[frame] for e in ends]
        turned = [rays_S3 @ motion[:3, :3].T for motion in motions]
        correction_S = np.zeros(len(depth_S))
        for _ in range(ROUNDS):
            z_S = depth_S * np.exp(correction_S)
            slope_S, curvature_S = np.zeros(len(z_S)), np.zeros(len(z_S))
            for end, motion, along_S3 in zip(ends, motions, turned, strict=True):
                g, h = _terms(end, along_S3, z_S, motion[:3, 3], self._K_F33[end.frame])
                slope_S, curvature_S = slope_S + g, curvature_S + h
            # the prior holds the correction, not the step
            slope = _pooled(slope_S, shape) - information * correction_S
            step_S = slope / (_pooled(curvature_S, shape) + information)
            correction_S = correction_S + np.clip(step_S, -LARGEST_STEP, LARGEST_STEP)
        return correction_S

    def _load(self, pair: tuple[int, int]) -> Floats32 | None:
        """Flow between two frames, thinned out; None outside the clip."""
        if min(pair) < 0 or max(pair) >= len(self._c2w_F44):
            return None
        flow_HW2 = self._read(*pair)
        if flow_HW2 is None:
            return None
        return np.ascontiguousarray(flow_HW2[::STORED, ::STORED], np.float32)


def _terms(
    end: _Ends, along_S3: Floats, z_S: Floats, t_3: Floats, K: Floats
) -> tuple[Floats, Floats]:
    """Jᵀr and JᵀJ (S) by log depth, in px², robustly weighted."""
    offset_S3 = along_S3 * z_S[:, None]
    point_S3 = offset_S3 + t_3
    front_S = point_S3[:, 2] > 1e-6
    near_S = np.where(front_S, point_S3[:, 2], 1.0)
    seen_S2 = point_S3[:, :2] / near_S[:, None]
    focal_2 = np.array([K[0, 0], K[1, 1]])
    r_S2 = focal_2 * (end.rays_S2 - seen_S2)
    J_S2 = focal_2 * (offset_S3[:, :2] - seen_S2 * offset_S3[:, 2:]) / near_S[:, None]
    robust_S = 1 / (1 + np.sum(r_S2**2, 1) / LOSS_PX**2)
    weight_S = np.where(front_S & (z_S > 0), end.weight_S * robust_S, 0.0)
    return weight_S * np.sum(J_S2 * r_S2, 1), weight_S * np.sum(J_S2**2, 1)


def _sampled(flow_hw2: Floats32, at_S2: Floats) -> Floats:
    """Flow (S,2) at positions in px of the whole frame."""
    column_1S, row_1S = (at_S2.T.astype(np.float32) / STORED)[:, None]
    result = np.empty((len(at_S2), 2))
    for start in range(0, len(at_S2), 32_000):  # remap takes at most 32767 columns
        part = slice(start, start + 32_000)
        found = cv2.remap(
            flow_hw2,
            column_1S[:, part],
            row_1S[:, part],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        result[part] = found[0]
    return result


def _pooled(values_S: Floats, shape: tuple[int, int]) -> Floats:
    """Gaussian mean over neighbouring samples."""
    blurred = cv2.GaussianBlur(values_S.reshape(shape), (0, 0), POOLED / SAMPLE)
    return np.asarray(blurred, np.float64).ravel()


def _enlarged(field_hw: Floats, size: tuple[int, int]) -> Floats32:
    """Bilinear from samples at every SAMPLE-th pixel to all pixels."""
    x_W, y_H = (np.arange(n, dtype=np.float32) / SAMPLE for n in size)
    x_HW, y_HW = np.meshgrid(x_W, y_H)
    return np.asarray(
        cv2.remap(
            field_hw.astype(np.float32),
            x_HW,
            y_HW,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )
