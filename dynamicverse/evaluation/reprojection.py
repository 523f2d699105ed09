"""Point tracks of a static scene against true depth and poses (`reprojection-8`).

Where no true tracks exist: a point of a frame is carried by the true depth and the true cameras
into a frame `span` frames later. Only points whose place is known there count: in the picture,
with depth, and not hidden by something nearer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array, se3_inverse, transform
from dynamicverse.geometry.projection import rays

Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SPAN = 8  # frames
STRIDE = 4  # every so many frames one is compared
MIN_DEPTH = 0.1  # nearer readings of a sensor mean nothing
AGREE = 0.05  # of the depth: a surface nearer or farther is another one


@dataclass(frozen=True)
class ReprojectionScores:
    """median_px: distance of the tracks that survive to where the truth says; survival: share
    of the tracks that are still visible after the span, of those that could be; points: those."""

    protocol: str
    median_px: float
    survival: float
    points: int


def reprojection_scores(
    tracks_FN2: npt.ArrayLike,
    visible_FN: npt.ArrayLike,
    c2w_F44: npt.ArrayLike,
    K_33: npt.ArrayLike,
    depth: Callable[[int], Depth],
    span: int = SPAN,
) -> ReprojectionScores:
    """Compare tracks with the truth; depth: frame → (H,W) in the unit of the poses, 0 unknown.

    Raises ValueError where nothing can be compared.
    """
    tracks, visible = np.asarray(tracks_FN2, np.float64), np.asarray(visible_FN, np.bool_)
    c2w = np.asarray(c2w_F44, np.float64)
    if tracks.shape[:2] != visible.shape or len(tracks) != len(c2w):
        raise ValueError(f"tracks through {len(tracks)} frames, {len(c2w)} cameras")
    distance, survived = [], []
    for frame in range(0, len(tracks) - span, STRIDE):
        later, alive = frame + span, visible[frame]
        then = tracks[frame, alive]
        motion = se3_inverse(c2w[later]) @ c2w[frame]
        target, known = carry(then, motion, np.asarray(K_33), depth(frame), depth(later))
        still = visible[later, alive]
        survived.append(still[known])
        distance.append(np.linalg.norm(tracks[later, alive] - target, axis=1)[known & still])
    points = np.concatenate(survived) if survived else np.zeros(0)
    errors = np.concatenate(distance) if distance else np.zeros(0)
    if not len(errors):
        raise ValueError(f"no track can be compared over {span} frames")
    return ReprojectionScores(
        f"reprojection-{span}", float(np.median(errors)), float(points.mean()), len(points)
    )


def carry(
    pixels_N2: Array, motion_44: Array, K_33: Array, source_HW: Depth, target_HW: Depth
) -> tuple[Array, Mask]:
    """Pixels (N,2) of one view in another, and which of them are known and seen there (N).

    motion_44: from the first camera into the second; depth maps of both views.
    """
    z_N = read_depth(source_HW, pixels_N2)
    moved_N3 = transform(motion_44, rays(pixels_N2, K_33) * z_N[:, None])
    depth_N = np.maximum(moved_N3[:, 2], 1e-3)
    target_N2 = (moved_N3 / depth_N[:, None]) @ K_33.T[:, :2]
    surface_N = read_depth(target_HW, target_N2)
    seen_N = (z_N > MIN_DEPTH) & (surface_N > MIN_DEPTH)
    return target_N2, seen_N & (np.abs(surface_N - depth_N) < AGREE * depth_N)


def read_depth(depth_HW: Depth, pixels_N2: Array) -> Array:
    """Depth at the nearest pixel, 0 outside."""
    height, width = depth_HW.shape
    x, y = np.rint(np.clip(pixels_N2, -1, 1e6)).astype(np.int64).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    value = depth_HW[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.where(inside, value, 0.0)
