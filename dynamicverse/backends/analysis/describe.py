"""What was measured, in words and numbers: the objects of a clip and its camera."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis.working import WorkingClip
from dynamicverse.formats.objects import DynamicObject, Position

CameraMotion = Literal["static", "rotation", "moving", "unknown"]

STILL = 0.05  # working px a frame; a camera that moves the picture less is static
SURE_AFTER = 10  # frames; an object seen in fewer is less sure
STEADY = 0.3  # of the speed; a mean velocity below it is to and fro
DIRECTIONS = (
    "to the right",
    "down and to the right",
    "down",
    "down and to the left",
    "to the left",
    "up and to the left",
    "up",
    "up and to the right",
)


@dataclass
class Track:
    """One object: frames with boxes and areas in working px, velocities in full px a frame,
    relative to the background."""

    boxes: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    areas: dict[int, int] = field(default_factory=dict)
    supported: int = 0
    velocities: list[tuple[float, float]] = field(default_factory=list)

    @property
    def mass(self) -> int:
        """Pixels, all frames."""
        return sum(self.areas.values())

    @property
    def support(self) -> float:
        """Share of the pixels that move by their own evidence, not by their colour."""
        return self.supported / max(self.mass, 1)


def describe(identity: int, track: Track, clip: WorkingClip) -> DynamicObject:
    """A moving object with the facts that were measured."""
    frames = len(track.areas)
    share = frames / clip.frame_count
    area = track.mass / frames / (clip.width * clip.height)
    confidence = track.support * min(1.0, frames / min(SURE_AFTER, clip.frame_count))
    seen = f"seen in {frames} of {clip.frame_count} frames ({share:.0%})"
    extent = f"covers {area:.1%} of the picture"
    proof = f"{track.support:.0%} of its pixels move by their own evidence"
    return DynamicObject(
        name=f"moving object {identity}",
        category="unknown",
        tracking_id=identity,
        reasoning=f"{_movement(track)}; {seen}, {extent}; {proof}",
        confidence=round(min(confidence, 1.0), 3),
        position=[
            Position(frame=frame, box=full_box(box, clip))
            for frame, box in sorted(track.boxes.items())
        ],
    )


def full_box(box: tuple[int, int, int, int], clip: WorkingClip) -> list[float]:
    """First and last column and row, as the nearest-neighbour enlarged labels have them."""
    (sx, sy), (x0, y0, x1, y1) = clip.scale, box
    first = [float(np.ceil(x0 * sx)), float(np.ceil(y0 * sy))]
    return [*first, float(np.ceil((x1 + 1) * sx) - 1), float(np.ceil((y1 + 1) * sy) - 1)]


def _movement(track: Track) -> str:
    if not track.velocities:
        return "moves against the background; its speed could not be measured"
    velocities_V2 = np.array(track.velocities)
    speed = float(np.median(np.linalg.norm(velocities_V2, axis=1)))
    mean = velocities_V2.mean(0)
    if np.linalg.norm(mean) < STEADY * speed:
        way = "in changing directions"
    else:
        octant = round(np.arctan2(mean[1], mean[0]) / (np.pi / 4)) % 8
        way = DIRECTIONS[octant]
    return f"moves {speed:.2f} px/frame {way} against the background (median)"


def camera_motion(
    plane_F33: npt.NDArray[np.float64], rotating_F: npt.NDArray[np.float64], clip: WorkingClip
) -> tuple[CameraMotion, list[str]]:
    """What the camera does, and notes on what cannot be told.

    "rotation" means that no parallax was seen.
    """
    known = np.isfinite(plane_F33[:, 0, 0])
    if not known.any():
        return "unknown", ["camera motion unobservable: no consistent flow between the frames"]
    right, below = clip.width - 1.0, clip.height - 1.0
    corners_43 = np.array([[0, 0, 1], [right, 0, 1], [0, below, 1], [right, below, 1.0]])
    moved_K43 = np.einsum("kij,cj->kci", plane_F33[known], corners_43)
    moved_K42 = moved_K43[..., :2] / moved_K43[..., 2:] - corners_43[:, :2]
    if np.median(np.linalg.norm(moved_K42, axis=2).max(1)) < STILL:
        return "static", []
    if np.median(rotating_F) < 0.5:
        return "moving", []
    return "rotation", [
        "no parallax seen: the camera rotates, or what is behind the objects is flat or far away"
    ]
