"""The scene in a few sentences: length, size, how much moves, how deep it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamicverse.backends.captioner import Evidence, wording
from dynamicverse.backends.captioner.object_motion import Seen
from dynamicverse.formats.captions import Caption

MAX_VIEWS = 24  # frames and points that the depth is measured from
MAX_POINTS = 20_000
LEAST_POINTS = 50
UNKNOWN = "unknown"


@dataclass(frozen=True)
class DepthRange:
    """Distance of the static points along the optical axis: 5 %, 50 % and 95 % quantile.

    metric: in metres, else in units of the reconstruction.
    """

    near: float
    median: float
    far: float
    metric: bool


def depth_range(evidence: Evidence) -> DepthRange | None:
    """Depth of the static points in the pictures; None where it is not known."""
    fused, poses = evidence.fused, evidence.poses
    if fused is None or poses is None or poses.scale == "unobservable":
        return None
    points_P3 = fused.static_points
    points_P3 = points_P3[:: max(1, len(points_P3) // MAX_POINTS)].astype(np.float64)
    registered = np.flatnonzero(poses.registered_F)
    views = registered[:: max(1, len(registered) // MAX_VIEWS)]
    depths: list[NDArray[np.float64]] = []
    for i in views:
        c2w, K = poses.c2w_F44[i], poses.K_F33[i]
        camera_P3 = (points_P3 - c2w[:3, 3]) @ c2w[:3, :3]
        camera_P3 = camera_P3[camera_P3[:, 2] > 0]
        pixel_P2 = camera_P3[:, :2] / camera_P3[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
        inside_P = (pixel_P2 >= 0).all(1)
        inside_P &= (pixel_P2 < [evidence.info.width, evidence.info.height]).all(1)
        depths.append(camera_P3[inside_P, 2])
    z = np.concatenate(depths) if depths else np.zeros(0)
    if len(z) < LEAST_POINTS:
        return None
    near, median, far = np.percentile(z, [5, 50, 95])
    return DepthRange(float(near), float(median), float(far), poses.scale == "metric")


def caption_scene(evidence: Evidence, seen: dict[int, Seen], depth: DepthRange | None) -> Caption:
    """Sentences on the clip as a whole; what it shows is not named."""
    info = evidence.info
    moving = len(seen)
    share_F = np.zeros(info.frame_count)
    for one in seen.values():
        np.add.at(share_F, one.frames_n, one.area_n)
    duration = info.frame_count / info.rate if info.rate else None
    facts: dict[str, object] = {
        "frames": info.frame_count,
        "width": info.width,
        "height": info.height,
        "moving_objects": moving,
        "mean_moving_share": round(float(share_F.mean()), 5),
        "max_moving_share": round(float(share_F.max()), 5),
    }
    if duration is not None:
        facts["seconds"] = round(duration, 3)
    sentences = [_clip(evidence, duration), _movement(evidence, moving, share_F)]
    if depth is not None:
        facts["depth"] = {
            "near": depth.near,
            "median": depth.median,
            "far": depth.far,
            "unit": "m" if depth.metric else "relative",
        }
        sentences.append(_depth(depth))
    if all(i.category == UNKNOWN for i in evidence.instances):
        sentences.append("What the pictures show is not named: no recognition model was used.")
    return Caption(text=" ".join(sentences), source="geometric", facts=facts)


def _clip(evidence: Evidence, duration: float | None) -> str:
    info = evidence.info
    size = f"{info.width} by {info.height} pixels"
    if info.frame_count == 1:
        return f"A single frame of {size}."
    if duration is None:
        return f"{info.frame_count} frames of {size}, without a known frame rate."
    return f"A clip of {duration:.1f} seconds: {info.frame_count} frames of {size}."


def _movement(evidence: Evidence, moving: int, share_F: NDArray[np.float64]) -> str:
    if evidence.info.frame_count == 1:
        return "One frame does not tell what moves."
    if not moving:
        return "Nothing was found to move in it but, perhaps, the camera."
    one = moving == 1
    objects = wording.count(moving, "thing")
    return (
        f"{objects[0].upper()}{objects[1:]} {'moves' if one else 'move'} in it and "
        f"{'covers' if one else 'cover'} {wording.percent(float(share_F.mean()))} of the picture "
        f"on average, {wording.percent(float(share_F.max()))} at most."
    )


def _depth(depth: DepthRange) -> str:
    if depth.metric:
        return (
            f"The part that stands still is mostly {depth.near:.1f} to {depth.far:.1f} metres "
            f"from the camera, half of it nearer than {depth.median:.1f} metres."
        )
    ratio = depth.far / depth.near
    return (
        f"The far part of what stands still is about {ratio:.1f} times as far from the camera "
        "as the near part; the absolute scale is not known."
    )
