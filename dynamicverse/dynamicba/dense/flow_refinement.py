"""Depth of static pixels made to agree with optical flow.

Under known cameras the flow of a static pixel follows from its depth alone. As in the paper the
flow to the frames of a small window counts, weighted by its forward-backward error; other than
there the depth comes from a few Gauss-Newton steps. The unknown is a smooth correction of the
logarithm of depth: what all pixels nearby tell of it is pooled before it is solved for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.cores import workers
from dynamicverse.dynamicba.cameras.picture_lens import straight_rays
from dynamicverse.dynamicba.frame_pool import Kept

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
    """Where samples (S) of a frame are seen in another: rays (2,S) at z = 1, and weights."""

    frame: int
    rays_2S: Floats
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
        ahead: int = 0,
    ) -> None:
        """ahead: how many flow fields more than are needed at once may be in memory."""
        self._c2w_F44, self._K_F33, self._distortion = c2w_F44, K_F33, distortion
        self._read, self._ahead = read, ahead
        self._flow = Kept(self._load, 4 * (REACH + 1) + 2 * workers() + ahead)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads flow on other threads while something else is done.

        A file that cannot be read is an error when it is needed.
        """
        pairs = [pair for f in range(len(self._K_F33) - 1) for pair in ((f, f + 1), (f + 1, f))]
        with ThreadPoolExecutor(workers(), thread_name_prefix="flow") as pool:
            for pair in pairs[: self._ahead]:
                pool.submit(self._flow, pair)
            try:
                yield
            except BaseException:  # what has not begun is not wanted any more
                pool.shutdown(wait=False, cancel_futures=True)
                raise

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
            at_2S, weight_S = np.ascontiguousarray(pixels_S2.T), used_S.astype(np.float64)
            for source in range(frame, frame + step * REACH, step):
                target = source + step
                there, back = self._flow((source, target)), self._flow((target, source))
                if there is None or back is None:
                    break
                flow_2S = _sampled(there, at_2S)
                at_2S = at_2S + flow_2S
                (off_x_S, off_y_S), (x_S, y_S) = flow_2S + _sampled(back, at_2S), at_2S
                inside_S = (x_S >= 0) & (y_S >= 0) & (x_S <= size[0] - 1) & (y_S <= size[1] - 1)
                squared_S = off_x_S * off_x_S + off_y_S * off_y_S
                weight_S = weight_S * inside_S * np.exp(-0.5 / ROUND_TRIP**2 * squared_S)
                if np.isfinite(self._c2w_F44[target, 0, 0]):
                    # what left the picture has no weight: any pixel does
                    known_S2 = np.where(inside_S, at_2S, 0.0).T
                    seen_S3 = straight_rays(known_S2, self._K_F33[target], self._distortion)
                    ends.append(_Ends(target, np.ascontiguousarray(seen_S3.T[:2]), weight_S))
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
        others = [end.frame for end in ends]
        motion_E44 = np.linalg.inv(self._c2w_F44[others]) @ self._c2w_F44[frame]
        sight = _Sight(
            np.stack([end.rays_2S for end in ends], 1, dtype=np.float32),
            np.stack([end.weight_S for end in ends], dtype=np.float32),
            np.stack(list(motion_E44[:, :3, :3] @ rays_S3.T), 1, dtype=np.float32),
            motion_E44[:, :3, 3].T.astype(np.float32),
            self._K_F33[others][:, [0, 1], [0, 1]].T.astype(np.float32),
        )
        correction_S = np.zeros(len(depth_S))
        for _ in range(ROUNDS):
            z_S = (depth_S * np.exp(correction_S)).astype(np.float32)
            slope_S, curvature_S = _terms(sight, z_S)
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


@dataclass(frozen=True)
class _Sight:
    """Samples (S) of a frame in E others, as planes: few calls on large arrays, so that threads
    do not wait for each other.

    ends_2ES: where they are seen, at z = 1, weights; along_3ES: their rays, turned into these
    frames; t_3E: where the camera of the frame is; focal_2E: px.
    """

    ends_2ES: Floats32
    weight_ES: Floats32
    along_3ES: Floats32
    t_3E: Floats32
    focal_2E: Floats32


def _terms(sight: _Sight, z_S: Floats32) -> tuple[Floats, Floats]:
    """Jᵀr and JᵀJ (S) by log depth, in px², robustly weighted and summed over the frames."""
    offset_3ES = sight.along_3ES * z_S
    point_3ES = offset_3ES + sight.t_3E[..., None]
    used_ES = (point_3ES[2] > 1e-6) & (z_S > 0)
    inverse_ES = 1 / np.where(used_ES, point_3ES[2], np.float32(1))
    seen_2ES = point_3ES[:2] * inverse_ES
    focal_2E1 = sight.focal_2E[..., None]
    r_2ES = focal_2E1 * (sight.ends_2ES - seen_2ES)
    J_2ES = (focal_2E1 * inverse_ES) * (offset_3ES[:2] - seen_2ES * offset_3ES[2])
    error_ES = (r_2ES * r_2ES).sum(0)
    weight_ES = sight.weight_ES * used_ES / (1 + error_ES * np.float32(LOSS_PX**-2))
    slope_S = (weight_ES * (J_2ES * r_2ES).sum(0)).sum(0)
    curvature_S = (weight_ES * (J_2ES * J_2ES).sum(0)).sum(0)
    return slope_S.astype(np.float64), curvature_S.astype(np.float64)


def flow_bytes(width: int, height: int) -> int:
    """Memory of a flow field of pictures of this size."""
    return -(-width // STORED) * -(-height // STORED) * 2 * np.dtype(np.float32).itemsize


def _sampled(flow_hw2: Floats32, at_2S: Floats) -> Floats:
    """Flow (2,S) at positions in px of the whole frame."""
    column_1S, row_1S = (at_2S / STORED).astype(np.float32)[:, None]
    result = np.empty(at_2S.shape)
    for start in range(0, at_2S.shape[1], 32_000):  # remap takes at most 32767 columns
        part = slice(start, start + 32_000)
        found = cv2.remap(
            flow_hw2,
            column_1S[:, part],
            row_1S[:, part],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        result[:, part] = found[0].T
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
