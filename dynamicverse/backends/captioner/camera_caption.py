"""What the camera does, in plain words and in CameraBench's labels."""

from __future__ import annotations

import numpy as np

from dynamicverse.backends.captioner import Evidence, wording
from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.camera_motion import CameraMotion, describe
from dynamicverse.backends.captioner.episodes import MotionSegment
from dynamicverse.backends.captioner.follow import tracking
from dynamicverse.backends.captioner.kinematics import Trajectory, vertical
from dynamicverse.backends.captioner.object_motion import Array, Seen
from dynamicverse.backends.captioner.scene_caption import DepthRange
from dynamicverse.formats.captions import CameraCaption, CameraSegment
from dynamicverse.formats.poses import Poses

MAX_TOLD = 5  # segments that the text goes through one by one
FROM_TRAJECTORY = "geometric: recovered trajectory"
FROM_FLOW = "geometric: image motion"

_WITHOUT_POSES = {
    "static": (["static", "no-motion"], "The camera stands still: the background does not move."),
    "rotation": ([], "The camera turns on the spot; how far and where to was not recovered."),
    "moving": ([], "The camera moves; its path was not recovered."),
    "unknown": ([], "How the camera moves is not known."),
}


def caption_camera(
    evidence: Evidence,
    seen: dict[int, Seen],
    background_F2: Array | None,
    depth: DepthRange | None,
) -> CameraCaption:
    """Caption of the camera, from the trajectory or, without one, from what is known."""
    if evidence.info.frame_count == 1:
        return _plain("One frame has no camera motion.", [], "geometric", {})
    info, poses = evidence.reconstruction, evidence.poses
    if info is not None and info.status == "static_camera":
        text = "The camera stands still during the whole clip."
        return _plain(text, ["static", "no-motion"], FROM_TRAJECTORY, {"status": info.status})
    if poses is None or poses.registered_F.sum() < 2:
        motion = evidence.objects.camera_motion if evidence.objects else "unknown"
        labels, text = _WITHOUT_POSES[motion]
        return _plain(text, labels, FROM_FLOW, {"camera_motion": motion})
    path = _trajectory(evidence, poses, depth)
    motion_ = describe(path, rate_known=evidence.info.rate is not None)
    follows = _follows(motion_, seen, background_F2)
    return _from_motion(evidence, path, motion_, follows)


def _plain(text: str, labels: list[str], source: str, facts: dict[str, object]) -> CameraCaption:
    return CameraCaption(text=text, labels=labels, segments=[], source=source, facts=facts)


def _trajectory(evidence: Evidence, poses: Poses, depth: DepthRange | None) -> Trajectory:
    info = evidence.reconstruction
    turns_only = poses.scale == "unobservable" or (info and info.status == "rotation_only")
    times_F = np.asarray(evidence.info.times_s, np.float64)
    times_F = times_F + 1e-7 * np.arange(len(times_F))  # times may repeat
    return Trajectory(
        c2w_F44=poses.c2w_F44,
        focal_F=poses.K_F33[:, 0, 0],
        times_F=times_F,
        registered_F=poses.registered_F,
        width=evidence.info.width,
        depth=depth.median if depth else None,
        translation_observable=not turns_only,
    )


def _follows(
    motion: CameraMotion, seen: dict[int, Seen], background_F2: Array | None
) -> list[tuple[int, int, str]]:
    """(segment index, instance id, kind) of every tracking shot."""
    if background_F2 is None:
        return []
    return [
        (k, i, kind)
        for k, segment in enumerate(motion.segments)
        for i, one in sorted(seen.items())
        if (kind := tracking(segment, one, background_F2))
    ]


def _from_motion(
    evidence: Evidence,
    path: Trajectory,
    motion: CameraMotion,
    follows: list[tuple[int, int, str]],
) -> CameraCaption:
    kinds = [kind for kind in v.TRACKING if any(kind == k for _, _, k in follows)]
    segments = [
        CameraSegment(
            first_frame=s.first_frame,
            last_frame=s.last_frame,
            labels=[*s.labels, *(k for k in v.TRACKING if (k in _kinds_of(i, follows)))],
        )
        for i, s in enumerate(motion.segments)
        if s.known  # an unknown stretch is left out: no label would say that nothing moves
    ]
    sentences = [
        _told(evidence, motion),
        *(_followed(follows)),
        *(wording.STEADINESS[n] for n in motion.labels if n in wording.STEADINESS),
        *_limits(evidence, path, motion),
    ]
    return CameraCaption(
        text=" ".join(s for s in sentences if s),
        labels=[*motion.labels, *kinds],
        segments=segments,
        source=FROM_TRAJECTORY,
        facts=_facts(evidence, path, motion, follows),
    )


def _kinds_of(segment: int, follows: list[tuple[int, int, str]]) -> set[str]:
    return {kind for k, _, kind in follows if k == segment}


def _told(evidence: Evidence, motion: CameraMotion) -> str:
    """The course of the motion; a long course by its share of the time."""
    times = evidence.info.times_s if evidence.info.rate else None
    segments = motion.segments
    speed = next((wording.SPEEDS[n] for n in motion.labels if n in wording.SPEEDS), "")
    if not any(s.labels for s in segments):
        if any(not s.known for s in segments):
            return "Where its path was recovered, the camera does not move noticeably."
        return "The camera stands still during the whole clip."
    if len(segments) == 1:
        phrase = wording.camera_phrase(segments[0]).removeprefix("it ")
        return f"The camera {phrase}{', ' + speed if speed else ''}."
    if len(segments) <= MAX_TOLD:
        parts = [
            f"in {wording.frames(s.first_frame, s.last_frame, times)} {wording.camera_phrase(s)}"
            for s in segments
        ]
        lead = f"The camera moves {speed}: " if speed else "The camera moves: "
        return lead + "; ".join(parts) + "."
    return _summary(motion, speed)


def _summary(motion: CameraMotion, speed: str) -> str:
    total = sum(s.seconds for s in motion.segments if s.known) or 1.0
    shares = {
        name: sum(s.seconds for s in motion.segments if name in s.labels) / total
        for name in v.PRIMITIVES
        if name in motion.labels
    }
    ranked = sorted(shares, key=lambda name: -shares[name])
    parts = [
        f"{wording.phrase(name)} ({wording.percent(shares[name])} of the time)" for name in ranked
    ]
    lead = f"The camera moves {speed}" if speed else "The camera moves"
    return (
        f"{lead} and changes its motion often ({len(motion.segments)} segments): "
        f"it {wording.listed(parts)}."
    )


def _followed(follows: list[tuple[int, int, str]]) -> list[str]:
    """One sentence an object that the camera follows."""
    sentences = []
    for instance in sorted({i for _, i, _ in follows}):
        kinds = [
            k for k in v.TRACKING if any(i == instance and kind == k for _, i, kind in follows)
        ]
        sentences.append(f"It follows moving object {instance} ({wording.listed(kinds)}).")
    return sentences


def _limits(evidence: Evidence, path: Trajectory, motion: CameraMotion) -> list[str]:
    """What the trajectory does not tell."""
    sentences = []
    if not path.translation_observable:
        sentences.append(
            "Whether it also moves from its place cannot be seen: nothing in the pictures shows "
            "parallax."
        )
    elif not motion.travel_scaled:
        sentences.append("How far it travels is not known: no depth of the scene was recovered.")
    unknown = sum(s.last_frame - s.first_frame + 1 for s in motion.segments if not s.known)
    if unknown:
        total = evidence.info.frame_count
        sentences.append(f"In {unknown} of {total} frames its path was not recovered.")
    if evidence.info.rate is None:
        sentences.append("The frame rate is not known, so nothing is said about speed.")
    return sentences


def _facts(
    evidence: Evidence,
    path: Trajectory,
    motion: CameraMotion,
    follows: list[tuple[int, int, str]],
) -> dict[str, object]:
    facts: dict[str, object] = {
        "registered_frames": int(path.registered_F.sum()),
        "frames": evidence.info.frame_count,
        "translation_observable": path.translation_observable,
        "zoom_observable": motion.zoom_observable,
        "travel_unit": "median scene depths" if motion.travel_scaled else "none",
        "picture_way_widths": round(motion.extent, 4),
        "segments": [_segment_facts(s) for s in motion.segments],
    }
    if path.registered_F.any():
        facts["up_in_world"] = [round(float(c), 5) for c in vertical(path)]
    if motion.shake is not None:
        facts["shake_rms_widths"] = round(motion.shake, 6)
    if motion.speed is not None:
        facts["picture_speed_widths_per_s"] = round(motion.speed, 4)
    if motion.pitch_deg is not None:
        facts["mean_elevation_deg"] = round(motion.pitch_deg, 2)
    if follows:
        facts["follows"] = [
            {"segment": k, "instance_id": i, "kind": kind} for k, i, kind in follows
        ]
    return facts


def _segment_facts(segment: MotionSegment) -> dict[str, object]:
    facts: dict[str, object] = {
        "first_frame": segment.first_frame,
        "last_frame": segment.last_frame,
        "seconds": round(segment.seconds, 3),
        "pose_known": segment.known,
        "tilt_up_deg": round(segment.turn_deg[0], 2),
        "pan_right_deg": round(segment.turn_deg[1], 2),
        "roll_clockwise_deg": round(segment.turn_deg[2], 2),
        "right": round(segment.travel[0], 4),
        "down": round(segment.travel[1], 4),
        "forward": round(segment.travel[2], 4),
    }
    if segment.arc_deg is not None:
        facts["arc_clockwise_deg"] = round(segment.arc_deg, 2)
    return facts
