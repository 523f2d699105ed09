"""The 4D scene for the page's viewer: a sample of the points, quantised, and the cameras.

Points go to the *stage frame*: right, up, back (x, y, z) of a level first look, the middle of
the static points at the origin and 90 % of them within the distance 1. Coordinates are
unsigned 16-bit over ±REACH, little-endian, base64.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.fused import Fused
from dynamicverse.formats.poses import Poses

REACH = 4.0
MAX_DYNAMIC = 40_000  # points over all shown frames
MAX_OBJECTS = 40  # with a path in the view
LEAST = 50
SEED = 0
Array = NDArray[np.float64]


def payload(
    fused: Fused,
    poses: Poses,
    frames: list[int],
    points: int,
    size: tuple[int, int],
    up: Array | None = None,
) -> dict[str, Any] | None:
    """What the viewer draws; None where there are too few static points.

    frames: the shown frames. points: how many static points at most. size: of the frames.
    up: the vertical of the world, where it is known better than from the mean picture.
    """
    registered = np.flatnonzero(poses.registered_F)
    if len(fused.static_points) < LEAST or len(registered) == 0:
        return None
    to_stage, centre, scale = stage_frame(fused, poses, up)

    def staged(points_N3: NDArray[Any]) -> Array:
        return (np.asarray(points_N3, np.float64) - centre) @ to_stage.T / scale

    def near(points_N3: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray((np.abs(staged(points_N3)) < REACH).all(1))

    chosen = _choose_static(fused, near(fused.static_points), points)
    near_Q = near(fused.dyn_points)
    dynamic = [_dynamic(fused, near_Q, f, MAX_DYNAMIC // len(frames)) for f in frames]
    picked = np.concatenate(dynamic) if dynamic else np.zeros(0, np.int64)
    return {
        "reach": REACH,
        "size": list(size),
        "points": len(chosen),
        "xyz": _quantised(staged(fused.static_points[chosen])),
        "rgb": _bytes(fused.static_rgbs[chosen]),
        "dynOffsets": np.cumsum([0, *(len(d) for d in dynamic)]).tolist(),
        "dynXyz": _quantised(staged(fused.dyn_points[picked])),
        "dynRgb": _bytes(fused.dyn_rgbs[picked]),
        "dynId": _bytes(fused.dyn_instance[picked].astype(np.uint8)),
        "cameras": [_camera(poses, f, to_stage, staged) for f in frames],
        "path": _rounded(staged(poses.c2w_F44[_thin(registered, 400), :3, 3])),
        "objects": {
            str(int(fused.object_ids[m])): [
                _point_or_none(staged(c[None])[0]) for c in fused.object_centres[m, frames]
            ]
            for m in range(min(len(fused.object_ids), MAX_OBJECTS))
        },
    }


def stage_frame(fused: Fused, poses: Poses, up: Array | None = None) -> tuple[Array, Array, float]:
    """World → stage: rotation (3,3), centre (3,), length of one stage unit."""
    c2w_R44 = poses.c2w_F44[poses.registered_F]
    if up is None:
        up = -c2w_R44[:, :3, 1].mean(0)
    up = up / max(float(np.linalg.norm(up)), 1e-9)
    forward = c2w_R44[:, :3, 2].mean(0)
    forward = forward - (forward @ up) * up
    if np.linalg.norm(forward) < 1e-6:  # the cameras look along the vertical
        forward = np.cross(up, c2w_R44[0, :3, 0])
    forward = forward / np.linalg.norm(forward)
    centre = np.median(fused.static_points, axis=0).astype(np.float64)
    distance = np.linalg.norm(fused.static_points - centre, axis=1)
    scale = max(float(np.percentile(distance, 90)), 1e-9)
    return np.stack([np.cross(forward, up), up, -forward]), centre, scale


def _choose_static(fused: Fused, near_P: NDArray[np.bool_], points: int) -> NDArray[np.int64]:
    """A sample that prefers the confident points; always the same for the same cloud."""
    candidates = np.flatnonzero(near_P)
    if len(candidates) <= points:
        return candidates
    weight = fused.static_confidence[candidates].astype(np.float64) + 0.05
    rng = np.random.default_rng(SEED)
    # the largest of u^(1/w): a weighted sample without replacement (Efraimidis, Spirakis 2006)
    keys = np.log(rng.random(len(candidates))) / weight
    first = len(candidates) - points
    return np.sort(candidates[np.argpartition(keys, first)[first:]])


def _dynamic(
    fused: Fused, near_Q: NDArray[np.bool_], frame: int, at_most: int
) -> NDArray[np.int64]:
    """Indices of the moving points of a frame, evenly thinned."""
    first, end = (int(v) for v in fused.dyn_offsets[frame : frame + 2])
    return _thin(first + np.flatnonzero(near_Q[first:end]), at_most)


def _thin(values: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    if len(values) <= at_most:
        return values
    return values[np.linspace(0, len(values) - 1, at_most).astype(np.int64)]


def _camera(poses: Poses, frame: int, to_stage: Array, staged: Any) -> list[Any] | None:
    """Position (3) and axes right, down, forward (9) in the stage frame, and K (4); or None."""
    if not poses.registered_F[frame]:
        return None
    c2w, K = poses.c2w_F44[frame], poses.K_F33[frame]
    axes_33 = (to_stage @ c2w[:3, :3]).T
    numbers = [*staged(c2w[:3, 3][None])[0], *axes_33.reshape(-1)]
    return [*(round(float(v), 5) for v in numbers), K[0, 0], K[1, 1], K[0, 2], K[1, 2]]


def _quantised(points_N3: Array) -> str:
    levels = np.rint((np.clip(points_N3, -REACH, REACH) / REACH + 1) / 2 * 65535)
    return _bytes(levels.astype("<u2"))


def _bytes(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _rounded(points_N3: Array) -> list[list[float]]:
    return [[round(float(v), 5) for v in p] for p in points_N3]


def _point_or_none(point: Array) -> list[float] | None:
    return [round(float(v), 5) for v in point] if np.isfinite(point).all() else None
