"""Plain words for numbers: places, directions, times, lists. No judgement, no category."""

from __future__ import annotations

from collections.abc import Sequence

from dynamicverse.backends.captioner.episodes import MotionSegment

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_PHRASES = {
    "dolly-in": "moves forward",
    "dolly-out": "moves backward",
    "truck-right": "moves to the right",
    "truck-left": "moves to the left",
    "pedestal-up": "rises",
    "pedestal-down": "sinks",
    "arc-CW": "circles clockwise (to the left) round what it looks at",
    "arc-CCW": "circles counter-clockwise (to the right) round what it looks at",
    "pan-right": "pans right",
    "pan-left": "pans left",
    "tilt-up": "tilts up",
    "tilt-down": "tilts down",
    "roll-CW": "rolls clockwise",
    "roll-CCW": "rolls counter-clockwise",
    "zoom-in": "zooms in",
    "zoom-out": "zooms out",
}
_TURN_OF = {
    name: axis
    for axis, pair in enumerate(
        (("tilt-up", "tilt-down"), ("pan-right", "pan-left"), ("roll-CW", "roll-CCW"))
    )
    for name in pair
}
STEADINESS = {
    "no-shaking": "The picture is steady.",
    "minimal-shaking": "The picture shakes a little, as with a hand-held camera.",
    "unsteady": "The picture is unsteady.",
    "very-unsteady": "The picture shakes strongly.",
}
SPEEDS = {"slow-speed": "slowly", "regular-speed": "at a moderate speed", "fast-speed": "fast"}


def phrase(label: str) -> str:
    """A primitive as a verb: "pans right"."""
    return _PHRASES[label]


def count(n: int, noun: str) -> str:
    """ "no objects", "one object", "12 objects"."""
    word = NUMBERS[n] if n < len(NUMBERS) else str(n)
    return f"{word} {noun}" + ("" if n == 1 else "s")


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def percent(share: float) -> str:
    """ "3 %", "0.4 %", "less than 0.1 %"."""
    value = 100 * share
    if value < 0.1:
        return "less than 0.1 %"
    return f"{value:.1f} %" if value < 1 else f"{value:.0f} %"


def seconds(value: float) -> str:
    return f"{value:.1f} s"


def frames(first: int, last: int, times: Sequence[float] | None) -> str:
    """ "frames 4 to 60 (0.2 s to 2.0 s)"; without times where they are only nominal."""
    if first == last:
        return f"frame {first}"
    text = f"frames {first} to {last}"
    if times is None:
        return text
    return f"{text} ({times[first]:.1f} s to {times[last]:.1f} s)"


def place(x: float, y: float) -> str:
    """Where in the picture a point is, from its shares of the width and height."""
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    along = "upper" if y < 1 / 3 else "lower" if y > 2 / 3 else ""
    if across and along:
        return f"in the {along} {across} of the picture"
    if across:
        return f"at the {across} of the picture"
    if along:
        return f"in the {along} middle of the picture"
    return "in the middle of the picture"


def heading(dx: float, dy: float, least: float) -> str:
    """ "from left to right and downwards"; "" where neither reaches `least`."""
    parts = []
    if abs(dx) >= least:
        parts.append("from left to right" if dx > 0 else "from right to left")
    if abs(dy) >= least:
        parts.append("downwards" if dy > 0 else "upwards")
    return " and ".join(parts)


def camera_phrase(segment: MotionSegment) -> str:
    """What the camera does in a segment: "pans right by 35° and moves forward"."""
    if not segment.known:
        return "its motion was not recovered"
    if not segment.labels:
        return "it does not move noticeably"
    parts = []
    for label in segment.labels:
        phrase = _PHRASES[label]
        if label in _TURN_OF:
            phrase += f" by {abs(segment.turn_deg[_TURN_OF[label]]):.0f}°"
        elif label.startswith("arc") and segment.arc_deg is not None:
            phrase += f" by {abs(segment.arc_deg):.0f}°"
        parts.append(phrase)
    return "it " + listed(parts)
