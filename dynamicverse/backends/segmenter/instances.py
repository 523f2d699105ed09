"""The instances that names found in a clip, and which object of the analysis each one is.

A segmenter that takes text finds every instance of a name, also those that stand still: five
parked cars and the one that drives. Which one the analysis means, its boxes tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from dynamicverse.backends.analysis import Labels
from dynamicverse.formats.objects import DynamicObject

SAME = 0.3  # intersection over union of two boxes, below which they hold different things
Mask = npt.NDArray[np.bool_]
Box = Sequence[float]  # x0, y0, x1, y1 in px, both ends inside


@dataclass(frozen=True)
class Seen:
    """An instance in a frame: its box, how sure it is, and the pixels in the box as PNG."""

    box: tuple[int, int, int, int]
    score: float
    png: npt.NDArray[np.uint8]


class Instances:
    """Masks by instance and frame, packed: about a kilobyte each, in the host's memory."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._seen: dict[int, dict[int, Seen]] = {}  # frame → instance → seen

    def add(self, frame: int, name: str, instance: int, score: float, inside_HW: Mask) -> None:
        """An instance that `name` found; without pixels it is not there."""
        rows, columns = (np.flatnonzero(inside_HW.any(axis)) for axis in (1, 0))
        if not len(rows):
            return
        box = int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
        done, png = cv2.imencode(".png", inside_HW[_window(box)].view(np.uint8))
        assert done  # in memory, of 8 bits
        self._names[instance] = name
        self._seen.setdefault(frame, {})[instance] = Seen(box, score, np.asarray(png, np.uint8))

    def owners(self, objects: Iterable[DynamicObject]) -> dict[int, int]:
        """Instance → tracking id, for the instances that lie in an object's boxes.

        In every frame in which the analysis has boxes, the boxes of a name and its instances are
        paired; an instance is the object that it overlaps most over all of them. An object may
        have several: it was lost and found again.
        """
        votes: dict[int, dict[int, float]] = {}
        by_name: dict[str, list[DynamicObject]] = {}
        for item in objects:
            by_name.setdefault(item.name, []).append(item)
        for name, alike in by_name.items():
            for frame in sorted({place.frame for item in alike for place in item.position}):
                wanted = {
                    item.tracking_id: place.box
                    for item in alike
                    for place in item.position
                    if place.frame == frame
                }
                here = {
                    instance: seen.box
                    for instance, seen in self._seen.get(frame, {}).items()
                    if self._names[instance] == name
                }
                for instance, tracking_id, overlap in _pairs(here, wanted):
                    found = votes.setdefault(instance, {})
                    found[tracking_id] = found.get(tracking_id, 0.0) + overlap
        return {instance: max(found, key=lambda i: found[i]) for instance, found in votes.items()}

    def draw(self, frame: int, owners: dict[int, int], label_HW: Labels) -> None:
        """Write the tracking ids of a frame's instances; of two on a pixel, the surer has it."""
        here = [(one.score, i, one) for i, one in self._seen.get(frame, {}).items() if i in owners]
        for _, instance, one in sorted(here, key=lambda found: found[:2]):
            inside = np.asarray(cv2.imdecode(one.png, cv2.IMREAD_UNCHANGED), np.bool_)
            label_HW[_window(one.box)][inside] = owners[instance]


def _pairs(here: dict[int, Box], wanted: dict[int, Box]) -> Iterable[tuple[int, int, float]]:
    """Instances and tracking ids whose boxes overlap, one to one, with their overlap."""
    overlap_IW = np.array([[_overlap(a, b) for b in wanted.values()] for a in here.values()])
    if not overlap_IW.size:
        return
    instances, ids = list(here), list(wanted)
    for i, w in zip(*linear_sum_assignment(overlap_IW, maximize=True), strict=True):
        if overlap_IW[i, w] >= SAME:
            yield instances[i], ids[w], float(overlap_IW[i, w])


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    across = min(a[2], b[2]) - max(a[0], b[0]) + 1
    down = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(0.0, across) * max(0.0, down)
    return shared / (_area(a) + _area(b) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def _window(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return np.s_[box[1] : box[3] + 1, box[0] : box[2] + 1]
