"""What a moving object does in the picture, in plain words."""

from __future__ import annotations

import numpy as np

from dynamicverse.backends.captioner import Evidence, wording
from dynamicverse.backends.captioner.object_motion import (
    Array,
    PictureMotion,
    Seen,
    picture_motion,
)
from dynamicverse.formats.captions import ObjectCaption
from dynamicverse.formats.labels import Instance

SHIFT = 0.08  # of the picture: a smaller shift is not worth a direction
WANDER = 0.3  # picture widths of path without a net shift
GROWTH = 1.2
GAP_PART = 0.15  # of the frames between first and last
UNKNOWN = "unknown"


def caption_object(
    instance: Instance, seen: Seen | None, evidence: Evidence, background_F2: Array | None
) -> ObjectCaption:
    """Caption of one instance. `seen` is None where no mask shows it."""
    name = _name(instance)
    if seen is None:
        text = f"{name}: no mask shows it."
        return ObjectCaption(
            instance_id=instance.id, text=text, source="geometric", facts={"frames_seen": 0}
        )
    motion = picture_motion(seen, background_F2)
    parts = [
        f"{name}, covering about {wording.percent(float(seen.area_n.mean()))} of the picture, "
        + _course(seen, motion, evidence),
        _size(motion),
        _against_background(motion),
        _gaps(seen),
    ]
    return ObjectCaption(
        instance_id=instance.id,
        text=" ".join(p for p in parts if p),
        source="geometric",
        facts=_facts(instance, seen, motion, evidence),
    )


def _name(instance: Instance) -> str:
    if instance.category == UNKNOWN:
        return f"Moving object {instance.id} (category unknown)"
    return f"Moving object {instance.id} ({instance.name})"


def _course(seen: Seen, motion: PictureMotion, evidence: Evidence) -> str:
    """ "enters at the left edge, moves from left to right … and leaves at the right edge."."""
    info = evidence.info
    times = info.times_s if info.rate else None
    first, last = int(seen.frames_n[0]), int(seen.frames_n[-1])
    if first == last:
        where = wording.place(*motion.start)
        return f"is seen {where} in {wording.frames(first, last, times)} only."
    steps = []
    if first > 0:
        steps.append(_arrival(seen, motion))
    steps.append(_move(motion))
    leaves = last < info.frame_count - 1
    if leaves:
        steps.append(_departure(seen, motion))
    when = f"in {wording.frames(first, last, times)}"
    if first == 0 and not leaves:
        when = "during the whole clip"
    return f"{wording.listed(steps)} {when}."


def _arrival(seen: Seen, motion: PictureMotion) -> str:
    edges = seen.edges(0)
    if edges:
        return f"enters at the {edges[0]} edge"
    return f"appears {wording.place(*motion.start)}"


def _departure(seen: Seen, motion: PictureMotion) -> str:
    edges = seen.edges(-1)
    if edges:
        return f"leaves at the {edges[-1]} edge"
    return f"is lost {wording.place(*motion.end)}"


def _move(motion: PictureMotion) -> str:
    direction = wording.heading(*motion.shift, SHIFT)
    if direction:
        way = wording.percent(float(np.hypot(*motion.shift)))
        return f"moves {direction} across the picture (by {way} of its size)"
    if motion.way >= WANDER:
        return f"moves to and fro {wording.place(*motion.end)}"
    return f"stays {wording.place(*motion.end)}"


def _size(motion: PictureMotion) -> str:
    ratio = motion.size_ratio
    if ratio is None or 1 / GROWTH < ratio < GROWTH:
        return ""
    if ratio > 1:
        return f"It grows to {ratio:.1f} times its size, as when it and the camera come closer."
    return f"It shrinks to {ratio:.1f} of its size, as when it and the camera move apart."


def _against_background(motion: PictureMotion) -> str:
    """Said where the camera's motion hides or makes the object's."""
    if motion.against_background is None:
        return ""
    dx, dy = motion.against_background
    apart = np.hypot(dx - motion.shift[0], dy - motion.shift[1])
    direction = wording.heading(dx, dy, SHIFT)
    if apart < SHIFT or not direction:
        return ""
    way = wording.percent(float(np.hypot(dx, dy)))
    return f"Against the background it moves {direction}, by {way} of the picture's width."


def _gaps(seen: Seen) -> str:
    between = int(seen.frames_n[-1] - seen.frames_n[0]) + 1
    missing = between - len(seen.frames_n)
    if missing <= GAP_PART * between:
        return ""
    return f"In {missing} of these {between} frames it is hidden or was not found."


def _facts(
    instance: Instance, seen: Seen, motion: PictureMotion, evidence: Evidence
) -> dict[str, object]:
    facts: dict[str, object] = {
        "frames_seen": len(seen.frames_n),
        "first_frame": int(seen.frames_n[0]),
        "last_frame": int(seen.frames_n[-1]),
        "mean_area_share": _rounded(float(seen.area_n.mean())),
        "max_area_share": _rounded(float(seen.area_n.max())),
        "start_centre": [_rounded(c) for c in motion.start],
        "end_centre": [_rounded(c) for c in motion.end],
        "path_length_widths": _rounded(motion.way),
        "category": instance.category,
    }
    if motion.size_ratio is not None:
        facts["size_ratio"] = _rounded(motion.size_ratio)
    if motion.against_background is not None:
        facts["shift_against_background_widths"] = [_rounded(c) for c in motion.against_background]
    if evidence.tracks is not None:
        facts["point_tracks"] = int((evidence.tracks.instance_id_N == instance.id).sum())
    return facts


def _rounded(value: float) -> float:
    return round(value, 5)
