"""Tracking shots: a moving object that keeps its place while the picture behind it moves."""

from __future__ import annotations

import numpy as np

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.episodes import MotionSegment
from dynamicverse.backends.captioner.object_motion import Array, Seen

SEEN_PART = 0.8  # of the segment's frames
SHIFT = 0.2  # the background moves at least so far, picture widths,
KEPT = 0.35  # and the object at most this part of it
TRAVEL = 0.2  # forward or backward travel that a kept size stands against, scene depths
SIZES = (0.75, 1.33)  # the size is kept between these ratios
STILL = 0.15  # the object's place for lead- and tail-tracking, picture widths

_BY_MOTION = (
    (v.ARCS, "arc-tracking"),
    (v.TRAVELS[0], "side-tracking"),
    (v.TURNS[1], "pan-tracking"),
    (v.TURNS[0], "tilt-tracking"),
)


def tracking(segment: MotionSegment, seen: Seen, background_F2: Array) -> str | None:
    """The kind of tracking shot that a segment is for an object, or None.

    background_F2: accumulated shift of the background, pixels.
    """
    inside = (seen.frames_n >= segment.first_frame) & (seen.frames_n <= segment.last_frame)
    length = segment.last_frame - segment.first_frame + 1
    if inside.sum() < max(3, SEEN_PART * length):
        return None
    centre_n2 = seen.centre_n2[inside] * [1.0, seen.height / seen.width]
    low, high = np.percentile(centre_n2, [5, 95], axis=0)
    moved = float(np.linalg.norm(high - low))
    behind_F2 = background_F2[segment.first_frame : segment.last_frame + 1] / seen.width
    behind = float(np.linalg.norm(behind_F2[-1] - behind_F2[0]))
    names = set(segment.labels)
    if np.isfinite(behind) and behind >= SHIFT and moved <= KEPT * behind:
        for motions, kind in _BY_MOTION:
            if names & set(motions):
                return kind
    size_n = np.sqrt(seen.area_n[inside])
    ratio = float(size_n[-2:].mean() / size_n[:2].mean())
    forward = segment.travel[2]
    if abs(forward) >= TRAVEL and moved <= STILL and SIZES[0] <= ratio <= SIZES[1]:
        if "dolly-in" in names and forward > 0:
            return "tail-tracking"
        if "dolly-out" in names and forward < 0:
            return "lead-tracking"
    return None
