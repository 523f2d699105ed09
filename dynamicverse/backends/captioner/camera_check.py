"""What a model says of the camera, against the labels of the measured trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.camera_caption import FROM_TRAJECTORY
from dynamicverse.formats.captions import CameraCaption

_TURN = frozenset(name for pair in v.TURNS for name in pair)
_TRAVEL = frozenset(name for pair in (*v.TRAVELS, v.ARCS) for name in pair)
_ZOOM = frozenset(v.ZOOMS)
_STILL = frozenset(("static", "no-motion"))
_MOTION = _TURN | _TRAVEL | _ZOOM
# an arc is a travel and a turn, which are not listed beside it
_PARTS = {
    "arc-CW": frozenset(("truck-left", "pan-right")),
    "arc-CCW": frozenset(("truck-right", "pan-left")),
}


@dataclass(frozen=True)
class Comparison:
    """The model's labels, sorted by what the measurement says of them.

    measured: there is a measured trajectory. not_told: measured motion that the model left out.
    """

    measured: bool
    confirmed: tuple[str, ...]
    contradicted: tuple[str, ...]
    unchecked: tuple[str, ...]
    not_told: tuple[str, ...]

    def facts(self, said: Sequence[str]) -> dict[str, object]:
        return {
            "model_labels": list(said),
            "confirmed_labels": list(self.confirmed),
            "contradicted_labels": list(self.contradicted),
            "unchecked_labels": list(self.unchecked),
            "labels_not_told": list(self.not_told),
        }


def compare(said: Sequence[str], measured: CameraCaption) -> Comparison:
    """Sort the model's labels. Only motion is checked, and only the kinds that the trajectory
    can show: without parallax no travel, without a known focal length no zoom."""
    if measured.source != FROM_TRAJECTORY:
        return Comparison(False, (), (), tuple(said), ())
    checkable = _checkable(measured)
    labels = frozenset(measured.labels)
    shown = labels.union(*(_PARTS[name] for name in labels & _PARTS.keys()))
    kinds: dict[str, list[str]] = {"confirmed": [], "contradicted": [], "unchecked": []}
    for label in said:
        if label in _STILL:
            kind = "contradicted" if labels & _MOTION else "confirmed"
        elif label in shown:
            kind = "confirmed"
        else:
            kind = "contradicted" if label in checkable else "unchecked"
        kinds[kind].append(label)
    not_told = tuple(n for n in v.PRIMITIVES if n in labels and n not in said)
    confirmed, contradicted, unchecked = (tuple(found) for found in kinds.values())
    return Comparison(True, confirmed, contradicted, unchecked, not_told)


def told(description: str, measured: CameraCaption, found: Comparison) -> str:
    """The caption: the model's words, with the measured motion where they disagree."""
    if not found.contradicted and not found.not_told:
        return description
    return f"{description} Measured, in disagreement with this: {measured.text}"


def _checkable(measured: CameraCaption) -> frozenset[str]:
    facts = measured.facts
    if facts.get("status") == "static_camera":
        return _MOTION
    travel = _TRAVEL if facts.get("translation_observable") else frozenset()
    zoom = _ZOOM if facts.get("zoom_observable") else frozenset()
    return _TURN | travel | zoom
