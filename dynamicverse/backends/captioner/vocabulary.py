"""The label set of CameraBench and the thresholds behind each label.

CameraBench ("Towards Understanding Camera Motions in Any Video", arXiv 2504.15376) labels
clips with motion primitives: dolly, truck, pedestal (translation), pan, tilt, roll
(rotation), zoom (focal length), arc, tracking shots, steadiness, speed and presence of
motion. Its labels are judgements of people; the numbers here turn them into statements
about a trajectory. Spelling and direction are CameraBench's: pan-right turns the view to the
right, tilt-up lifts it, roll-CW turns the camera clockwise as the person behind it sees it,
arc-CW circles clockwise seen from above, that is, moves to the left round a point in view.
"""

from __future__ import annotations

Pair = tuple[str, str]

# along the camera's axes x, y, z (right, down, forward): positive, negative
TURNS: tuple[Pair, Pair, Pair] = (
    ("tilt-up", "tilt-down"),
    ("pan-right", "pan-left"),
    ("roll-CW", "roll-CCW"),
)
TRAVELS: tuple[Pair, Pair, Pair] = (
    ("truck-right", "truck-left"),
    ("pedestal-down", "pedestal-up"),
    ("dolly-in", "dolly-out"),
)
ZOOMS: Pair = ("zoom-in", "zoom-out")
ARCS: Pair = ("arc-CW", "arc-CCW")
# the order in which labels are listed and worded: travel, arc, turns, zoom
PRIMITIVES: tuple[str, ...] = (
    *TRAVELS[2],
    *TRAVELS[0],
    *TRAVELS[1],
    *ARCS,
    *TURNS[1],
    *TURNS[0],
    *TURNS[2],
    *ZOOMS,
)
PRESENCE = ("static", "no-motion", "minor-motion", "complex-motion")
STEADINESS = ("no-shaking", "minimal-shaking", "unsteady", "very-unsteady")
SPEEDS = ("slow-speed", "regular-speed", "fast-speed")
TRACKING = (
    "side-tracking",
    "pan-tracking",
    "tilt-tracking",
    "arc-tracking",
    "lead-tracking",
    "tail-tracking",
)  # aerial-tracking is in the vocabulary too, but no trajectory tells that a camera flies
VOCABULARY = frozenset((*PRIMITIVES, *PRESENCE, *STEADINESS, *SPEEDS, *TRACKING))

# a motion begins above START, lasts while above HOLD, and counts from TOTAL on
TURN_START, TURN_HOLD, TURN_TOTAL = 3.0, 1.5, 3.0  # deg/s, deg/s, deg
TRAVEL_START, TRAVEL_HOLD, TRAVEL_TOTAL = 0.05, 0.025, 0.03  # median scene depths (a second)
UNSCALED_START, UNSCALED_HOLD, UNSCALED_TOTAL = 0.3, 0.15, 0.1  # of the fastest travel
ZOOM_START, ZOOM_HOLD, ZOOM_TOTAL = 0.06, 0.03, 0.06  # of the focal length (a second)
TURN_PART, TRAVEL_PART = 0.3, 0.35  # a component counts from this share of the whole on
SHORTEST_S = 0.4  # a shorter motion is not one
NOTICED_PART = 0.1  # a label of the whole clip holds for at least this part of it

SHAKE_LIMITS = (0.0012, 0.0045, 0.015)  # RMS, picture widths: between the four STEADINESS
SPEED_LIMITS = (0.10, 0.60)  # picture widths a second: between the three SPEEDS
MINOR_EXTENT = 0.08  # the picture moves at most so many widths in all: minor-motion

ARC_LEAST_DEG = 12.0  # bearing change round the pivot
ARC_MISS = 0.12  # RMS distance of the pivot from the optical axes, over its distance
ARC_SPREAD = 0.35  # spread of the distance to the pivot
