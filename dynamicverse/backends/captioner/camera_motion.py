"""What a recovered trajectory says about the camera, as labels of CameraBench and numbers.

Each label is a statement about the camera's velocity, beyond a threshold and for long enough
(see `kinematics` for the directions, `vocabulary` for the thresholds). Nothing is read from
the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.episodes import (
    MotionSegment,
    joined,
    make,
    ordered,
    split,
    zoom_observable,
)
from dynamicverse.backends.captioner.kinematics import (
    Array,
    Motion,
    Trajectory,
    frame_seconds,
    measure,
)


@dataclass(frozen=True)
class CameraMotion:
    """Labels of the clip, its segments, and the numbers they rest on.

    shake: RMS of the fast displacement of the picture, in picture widths; None: not known.
    speed: mean displacement of the picture while the camera moves, widths/s.
    extent: length of the picture's way over the clip, widths.
    travel_scaled: False where travel has no unit because no scene depth is known.
    pitch_deg: mean elevation of the optical axis.
    """

    labels: tuple[str, ...]
    segments: tuple[MotionSegment, ...]
    shake: float | None
    speed: float | None
    extent: float
    travel_scaled: bool
    zoom_observable: bool
    pitch_deg: float | None


def describe(path: Trajectory, rate_known: bool = True) -> CameraMotion:
    """Label a trajectory.

    rate_known: False where the times are only nominal; then speed and shake, which depend
    on them, are not given.
    """
    motion = measure(path)
    segments = tuple(_with_arcs(path, motion, split(path, motion)))
    picture_F = picture_speed(path, motion)
    moving_F = np.zeros(len(picture_F), bool)
    for segment in segments:
        moving_F[segment.first_frame : segment.last_frame + 1] = bool(segment.labels)
    moving_F &= np.isfinite(picture_F)
    timed = rate_known and motion.travel_scaled
    speed = float(picture_F[moving_F].mean()) if timed and moving_F.any() else None
    shake = motion.shake if rate_known else None
    extent = float(np.nansum(picture_F * frame_seconds(path.times_F)))
    result = CameraMotion(
        (),
        segments,
        shake,
        speed,
        extent,
        motion.travel_scaled,
        zoom_observable(path),
        motion.pitch_deg,
    )
    return replace(result, labels=_clip_labels(result))


def picture_speed(path: Trajectory, motion: Motion) -> Array:
    """How fast the picture of the static scene moves, widths/s (F,); NaN where not known.

    A point at the median depth in the middle of the picture; a dolly or a roll moves the
    middle not at all and the rim most, so they count with a quarter of the width.
    """
    focal_F = path.focal_F / path.width
    turn_F3 = np.deg2rad(motion.turn_F3)
    travel_F3 = motion.travel_F3 if motion.travel_scaled else np.zeros_like(turn_F3)
    across_F = focal_F * (turn_F3[:, 1] + travel_F3[:, 0])
    along_F = focal_F * (turn_F3[:, 0] - travel_F3[:, 1])
    return np.asarray(
        np.sqrt(
            across_F**2 + along_F**2 + (0.25 * travel_F3[:, 2]) ** 2 + (0.25 * turn_F3[:, 2]) ** 2
        )
    )


def _clip_labels(motion: CameraMotion) -> tuple[str, ...]:
    """Presence, primitives, steadiness and speed of the whole clip."""
    if not any(s.known for s in motion.segments):
        return ()
    primitives = _noticeable(motion.segments)
    labels: list[str] = []
    steadiness = None
    if motion.shake is not None:
        steadiness = v.STEADINESS[int(np.searchsorted(v.SHAKE_LIMITS, motion.shake))]
    if not primitives:
        labels += ["static", "no-motion"] if steadiness in (None, "no-shaking") else ["no-motion"]
    elif motion.travel_scaled and motion.extent < v.MINOR_EXTENT:
        labels.append("minor-motion")
    else:
        labels.append("complex-motion")
    labels += primitives
    if steadiness is not None:
        labels.append(steadiness)
    if motion.speed is not None:
        labels.append(v.SPEEDS[int(np.searchsorted(v.SPEED_LIMITS, motion.speed))])
    return tuple(labels)


def _noticeable(segments: tuple[MotionSegment, ...]) -> tuple[str, ...]:
    """The primitives that go on for a fair part of the clip, not in a passing moment."""
    known = sum(s.seconds for s in segments if s.known)
    lasting = {
        name: sum(s.seconds for s in segments if name in s.labels)
        for name in {name for s in segments for name in s.labels}
    }
    return ordered(frozenset(n for n, time in lasting.items() if time >= v.NOTICED_PART * known))


def _with_arcs(
    path: Trajectory, motion: Motion, segments: list[MotionSegment]
) -> list[MotionSegment]:
    """Replace a sideways travel with an opposed pan by an arc where the axes meet in a point."""
    runs = []
    for s in segments:
        names = frozenset(s.labels)
        arc = _arc_degrees(path, s) if _may_arc(names) else None
        if arc is not None:
            names = names - {*v.TRAVELS[0], *v.TURNS[1]} | {v.ARCS[0] if arc > 0 else v.ARCS[1]}
        runs.append((s.first_frame, s.last_frame, names if s.known else None))
    out = []
    for first, last, run_names in joined(runs):
        segment = make(path, motion, first, last, run_names)
        if run_names is not None and run_names & set(v.ARCS):
            segment = replace(segment, arc_deg=_arc_degrees(path, segment))
        out.append(segment)
    return out


def _may_arc(names: frozenset[str]) -> bool:
    right, left = v.TRAVELS[0]
    pan_right, pan_left = v.TURNS[1]
    return {left, pan_right} <= names or {right, pan_left} <= names


def _arc_degrees(path: Trajectory, segment: MotionSegment) -> float | None:
    """Change of bearing round the point that the camera keeps looking at, or None.

    The pivot is the point nearest to all optical axes in the least-squares sense. It must
    lie in front of the camera, near the axes, and at about the same distance all the time.
    """
    frames = np.arange(segment.first_frame, segment.last_frame + 1)
    frames = frames[path.registered_F[frames]]
    if len(frames) < 3:
        return None
    centre_N3 = path.c2w_F44[frames, :3, 3]
    axis_N3 = path.c2w_F44[frames, :3, 2]
    across_N33 = np.eye(3) - axis_N3[:, :, None] * axis_N3[:, None, :]
    pivot, _, rank, _ = np.linalg.lstsq(
        across_N33.reshape(-1, 3), (across_N33 @ centre_N3[:, :, None]).reshape(-1), rcond=1e-4
    )
    to_pivot_N3 = pivot - centre_N3
    distance_N = np.linalg.norm(to_pivot_N3, axis=1)
    if rank < 3 or ((to_pivot_N3 * axis_N3).sum(1) <= 0).any():
        return None
    miss_N = np.linalg.norm((across_N33 @ to_pivot_N3[:, :, None])[:, :, 0], axis=1)
    typical = float(np.median(distance_N))
    if np.sqrt((miss_N**2).mean()) > v.ARC_MISS * typical:
        return None
    if np.ptp(distance_N) > v.ARC_SPREAD * typical:
        return None
    up = -path.c2w_F44[frames, :3, 1].mean(axis=0)
    up /= np.linalg.norm(up)
    flat_N3 = -to_pivot_N3 + (to_pivot_N3 @ up)[:, None] * up
    aside = np.cross(up, flat_N3[0])
    bearing_N = np.unwrap(np.arctan2(flat_N3 @ aside, flat_N3 @ flat_N3[0]))
    # a right-handed turn about `up` is counter-clockwise seen from above
    turned = -float(np.degrees(bearing_N[-1] - bearing_N[0]))
    return turned if abs(turned) >= v.ARC_LEAST_DEG else None
