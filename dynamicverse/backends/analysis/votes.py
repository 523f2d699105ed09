"""From the evidence of single frames to how likely each pixel moves, over the whole clip.

Evidence is averaged along the flow, both ways in time. Then one of two views is taken,
by how much parallax the rest of the scene shows:
- no parallax (a camera that rotates, or a flat or distant background): whatever leaves the
  plane moves. Of that, what rises above its surroundings counts in full; what runs out of the
  picture at the same level counts only where it also leaves the epipolar lines;
- parallax: only what leaves the epipolar lines, or the one rigid scene that fits all gaps,
  moves.
Nothing is taken for background because it is at the border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis.background import EPIPOLAR_FLOOR, Array
from dynamicverse.backends.analysis.evidence import Evidence
from dynamicverse.backends.analysis.working import FrameStore, Map, Scratch, WorkingClip

MEMORY = 0.8  # weight of the past per frame
RIGID_MEMORY = 0.97  # the same of the rigid scene: what once left it may keep in step for long
SPEED_FLOOR = 0.05  # working px a frame; slower is not told from noise
SPEED_SHARE = 0.4  # of the speed of what moves near a pixel: slower is rest beside it
SPEED_SHARE_FAR = 0.2  # of the speed of what moves anywhere
NEIGHBOURHOOD = 0.2  # of the picture's longer side, standard deviation: what near means
LINE_SHARE, LINE_NEAR = 0.25, 10.0  # the same off the epipolar lines, and px that are near
LINE_SHARE_FAR = 0.08
LINE_FLOOR = 0.02  # working px a frame off the lines, where the noise is at its floor
LINE_NOISES = 5.0  # standard deviations above the floor, a frame: there, errors have structure
NEAR, FAR = 8, 12  # frames to either side over which a scene's statistics are taken
PARALLAX_NONE, PARALLAX_SURE = 0.06, 0.12  # share of the pixels outside what moves
UNKNOWN = -0.3  # vote where flow says moving and the picture cannot confirm it
LIMIT = 2.0  # votes are log2 of residual over threshold, cut to ±LIMIT
FULL_SCALE = 64.0  # working px a frame; the codes of stored evidence end here
FINE = 0.01  # working px a frame; codes are linear below, logarithmic above
AVERAGED = 6  # channels: plane, plane raw, epipolar, epipolar raw, rigid, rigid raw
RIGID_NOISES = 2.6  # residual that leaves the rigid scene


@dataclass(frozen=True)
class Votes:
    """Votes of a clip: `frame(t)` is (H,W) float32 in ±2, above 0 = moves.

    parallax_F: share of the static part of each frame that shows parallax; rotating_F: 0..1,
    how far the view "no parallax" was taken. plane_F33: homography to the next frame, NaN
    where unknown.
    """

    frame: Callable[[int], Map]
    parallax_F: Array
    rotating_F: Array
    plane_F33: Array


def vote(clip: WorkingClip, evidence: Iterable[Evidence], scratch: Scratch) -> Votes:
    """Combine the evidence of all frames."""
    count = clip.frame_count
    coded = scratch.store((AVERAGED + 1, clip.height, clip.width), np.uint8)
    past = scratch.store((AVERAGED, clip.height, clip.width), np.uint8)
    noise_F, plane_F33 = _look_back(clip, evidence, coded, past)
    peak_plane_F, peak_epipolar_F = _look_ahead(clip, coded, past, noise_F)
    plane_F = np.maximum(_median(peak_plane_F, NEAR), 0.3 * np.median(peak_plane_F))
    epipolar_F = np.maximum(_median(peak_epipolar_F, NEAR), 0.3 * np.median(peak_epipolar_F))
    parallax_F = np.array([_parallax(coded[t], plane_F[t]) for t in range(count)])
    parallax_F = _median(parallax_F, FAR)
    rotating_F = np.clip((PARALLAX_SURE - parallax_F) / (PARALLAX_SURE - PARALLAX_NONE), 0, 1)
    noise_F = LINE_FLOOR + LINE_NOISES * (_median(noise_F, NEAR) - EPIPOLAR_FLOOR)
    line_threshold_F = np.maximum(noise_F, LINE_SHARE_FAR * epipolar_F)

    def frame(t: int) -> Map:
        plane, raw, epipolar, epipolar_raw, rigid, rigid_raw = _decode(coded[t])[:AVERAGED]
        w = np.float32(rotating_F[t])
        slow_HW = _slow(plane, plane_F[t])
        seen_HW = w * _log(plane, slow_HW)
        rigid, rigid_raw = np.sqrt(rigid), np.sqrt(rigid_raw)
        beside_HW = LINE_SHARE * _speed_near(epipolar, LINE_NEAR, LINE_FLOOR)
        at_rest_HW = np.maximum(beside_HW, np.float32(line_threshold_F[t]))
        lines_HW, scene_HW = _log(epipolar, at_rest_HW), _log(rigid, RIGID_NOISES)
        seen_HW += (1 - w) * np.maximum(lines_HW, scene_HW)
        flow_HW = w * _log(raw, slow_HW)
        lines_HW = _log(epipolar_raw, at_rest_HW)
        flow_HW += (1 - w) * np.maximum(lines_HW, _log(rigid_raw, RIGID_NOISES))
        doubt_HW = np.maximum(seen_HW, np.minimum(flow_HW, np.float32(UNKNOWN)))
        return np.where(seen_HW > 0, seen_HW, doubt_HW)

    return Votes(frame, parallax_F, rotating_F, plane_F33)


def _look_back(
    clip: WorkingClip, evidence: Iterable[Evidence], coded: FrameStore, past: FrameStore
) -> tuple[Array, Array]:
    """Store the evidence of every frame, and its average over the frames before."""
    noise_F = np.ones(clip.frame_count)
    plane_F33 = np.full((clip.frame_count, 3, 3), np.nan)
    memory, long_memory = _Memory(clip, -1, MEMORY), _Memory(clip, -1, RIGID_MEMORY)
    for t, found in enumerate(evidence):
        maps = (
            found.plane_HW,
            found.plane_raw_HW,
            found.epipolar_HW,
            found.epipolar_raw_HW,
            found.rigid_HW,
            found.rigid_raw_HW,
        )
        coded[t] = _encode(np.stack([*maps, found.parallax_HW]))
        near = memory.add(t, np.stack(maps[:4], -1))
        far = long_memory.add(t, np.stack(maps[4:], -1))
        past[t] = _encode(np.concatenate([near, far], -1).transpose(2, 0, 1))
        noise_F[t] = found.noise
        if found.plane_H is not None:
            plane_F33[t] = found.plane_H
    return noise_F, plane_F33


def _look_ahead(
    clip: WorkingClip, coded: FrameStore, past: FrameStore, noise_F: Array
) -> tuple[Array, Array]:
    """Average over the frames after as well, and find how fast the moving parts are.

    Rewrites `coded`: plane residuals become their part that may move without parallax.
    """
    peak_plane_F, peak_epipolar_F = np.zeros(clip.frame_count), np.zeros(clip.frame_count)
    memory, long_memory = _Memory(clip, 1, MEMORY), _Memory(clip, 1, RIGID_MEMORY)
    for t in reversed(range(clip.frame_count)):
        maps = _decode(coded[t])
        maps_HWC = np.ascontiguousarray(maps[:AVERAGED].transpose(1, 2, 0))
        near, far = memory.add(t, maps_HWC[..., :4]), long_memory.add(t, maps_HWC[..., 4:])
        averaged = (_decode(past[t]) + np.concatenate([near, far], -1).transpose(2, 0, 1)) / 2
        plane, raw, epipolar, epipolar_raw = averaged[:4]
        plane = np.maximum(_rises(plane), np.minimum(plane, epipolar))
        raw = np.maximum(_rises(raw), np.minimum(raw, epipolar_raw))
        peak_plane_F[t] = _peak(plane, SPEED_FLOOR)
        peak_epipolar_F[t] = _peak(epipolar, noise_F[t])
        coded[t] = _encode(np.stack([plane, raw, *averaged[2:], maps[AVERAGED]]))
    return peak_plane_F, peak_epipolar_F


class _Memory:
    """A weighted average along the flow; step -1 comes from the past, 1 from the future."""

    def __init__(self, clip: WorkingClip, step: int, memory: float) -> None:
        self._clip, self._step, self._memory = clip, step, np.float32(memory)
        self._mean: Map | None = None
        self._weight: Map | None = None

    def add(self, frame: int, maps_HWC: Map) -> Map:
        if self._mean is None or self._weight is None:
            self._mean = maps_HWC
            self._weight = np.ones(maps_HWC.shape[:2], np.float32)
            return maps_HWC
        flow_HW2, valid_HW = self._clip.flow(frame, self._step)
        weight_HW = self._clip.warp(self._weight, flow_HW2) * valid_HW * self._memory
        mean_HWC = self._clip.warp(self._mean, flow_HW2)
        self._weight = weight_HW + 1
        self._mean = (maps_HWC + weight_HW[..., None] * mean_HWC) / self._weight[..., None]
        return self._mean


def _rises(speed_HW: Map, passage: int = 5) -> Map:
    """How far each pixel rises above the level at which it is connected with the picture's
    border, through passages at least `passage` px wide (reconstruction by dilation)."""
    smooth_HW = np.asarray(cv2.GaussianBlur(speed_HW, (0, 0), 0.7))
    kernel = np.ones((passage, passage), np.uint8)
    ceiling_HW = cv2.erode(smooth_HW, kernel, borderType=cv2.BORDER_REPLICATE)
    level_HW = np.zeros_like(ceiling_HW)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        level_HW[edge] = ceiling_HW[edge]
    step = np.ones((3, 3), np.uint8)
    for _ in range(sum(speed_HW.shape)):
        before_HW = level_HW
        for _ in range(8):
            level_HW = np.minimum(cv2.dilate(level_HW, step), ceiling_HW)
        if np.array_equal(level_HW, before_HW):
            break
    return np.maximum(smooth_HW - cv2.dilate(level_HW, kernel), 0)


def _parallax(coded: npt.NDArray[np.uint8], speed: float) -> float:
    """Share of the pixels outside what moves that show parallax; 1 where nothing is outside."""
    maps = _decode(coded)
    moving_HW = (_rises(maps[0]) > 0.2 * max(speed, SPEED_FLOOR)).astype(np.uint8)
    outside_HW = cv2.dilate(moving_HW, np.ones((5, 5), np.uint8)) == 0
    return float(maps[AVERAGED][outside_HW].mean()) if outside_HW.mean() > 0.05 else 1.0


def _peak(speed_HW: Map, floor: float) -> float:
    """The speed of the moving parts, whatever their size: the mean weighted by itself."""
    fast_N = speed_HW[speed_HW > floor].astype(np.float64)
    return float((fast_N**2).sum() / fast_N.sum()) if fast_N.size else 0.0


def _slow(speed_HW: Map, peak: float) -> Map:
    """The speed that counts as rest, beside what moves near each pixel and anywhere."""
    near_HW = _speed_near(speed_HW, NEIGHBOURHOOD * max(speed_HW.shape), SPEED_FLOOR)
    slow_HW = np.minimum(SPEED_SHARE * near_HW, SPEED_SHARE * peak)
    return np.maximum(slow_HW, np.float32(max(SPEED_SHARE_FAR * peak, SPEED_FLOOR)))


def _speed_near(speed_HW: Map, sigma: float, floor: float) -> Map:
    """The speed of what moves near each pixel, as `_peak`; sigma: px, what near means."""
    fast_HW = np.where(speed_HW > floor, speed_HW, np.float32(0))
    squared_HW, sum_HW = (
        cv2.GaussianBlur(m, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for m in (fast_HW * fast_HW, fast_HW)
    )
    return np.asarray(squared_HW / (sum_HW + np.float32(1e-6)))


def _median(values_F: Array, radius: int) -> Array:
    count = len(values_F)
    windows = (values_F[max(0, t - radius) : t + radius + 1] for t in range(count))
    return np.array([np.median(window) for window in windows])


def _log(speed_HW: Map, threshold: float | Map) -> Map:
    votes_HW = np.log2((speed_HW + np.float32(1e-4)) / np.asarray(threshold, np.float32))
    return np.clip(votes_HW, -LIMIT, LIMIT).astype(np.float32)


def _encode(maps: Map) -> npt.NDArray[np.uint8]:
    """Logarithmic codes: steps of 0.0003 px at zero, of 3 % above FINE."""
    codes = np.log1p(np.clip(maps, 0, FULL_SCALE) / FINE) * (255 / np.log1p(FULL_SCALE / FINE))
    return np.rint(codes).astype(np.uint8)


def _decode(codes: npt.NDArray[np.uint8]) -> Map:
    return _DECODED[codes]


_DECODED = (FINE * np.expm1(np.arange(256) / 255 * np.log1p(FULL_SCALE / FINE))).astype(np.float32)
