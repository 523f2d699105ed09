"""Instances over time: groups that move as one (`parts`), linked by where the flow carries
them, and, after an occlusion, by where they should be and what they look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import Flow, Rgb
from dynamicverse.backends.analysis.working import Map

Ids = npt.NDArray[np.int32]

SMALLEST = 12  # working px; smaller regions are noise
LINK_SHARE = 0.5  # of the smaller of a new group and a prediction that must overlap
LOST_AFTER = 20  # frames that an object may be hidden and keep its id
NEAR = 1.5  # of its size (root of area): an object that comes back is so near where it should be
DRIFT_ERROR = 0.25  # of the way it should have gone
WHOLE_SHARE, FORGET_SIZE = 0.7, 0.97  # smaller than this share of its size it is partly hidden
ALIKE_COLOUR = 0.5  # histogram intersection that recognises an object again
NEXT_TO = 2  # px between two instances that touch
SAME_SHARE = 0.6  # of its frames that a part touches its object
PART_MASS = 0.15  # of the object's pixels that a part may have, or any if it is seen
PART_FRAMES = 12  # in fewer frames


@dataclass
class Instance:
    """One linked instance; all lengths in working px.

    size, centre, drift (a frame) and colours are of the frame `whole`, the last one in which
    it was not partly hidden.
    """

    id: int
    areas: dict[int, int] = field(default_factory=dict)  # frame → area
    boxes: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    supported: int = 0  # pixels, all frames, whose own vote says moving
    whole: int = -1
    size: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    drift: tuple[float, float] = (0.0, 0.0)
    colours: npt.NDArray[np.float32] | None = None
    groups: set[int] = field(default_factory=set)
    touching: Counter[int] = field(default_factory=Counter)  # frames

    @property
    def mass(self) -> int:
        return sum(self.areas.values())

    @property
    def last(self) -> int:
        return next(reversed(self.areas))

    def expected(self, frame: int) -> tuple[float, float]:
        """Where its centre would be, had it gone on as before."""
        ahead = frame - self.whole
        return self.centre[0] + ahead * self.drift[0], self.centre[1] + ahead * self.drift[1]

    def update_whole(
        self, frame: int, centre: tuple[float, float], colours: npt.NDArray[np.float32]
    ) -> None:
        area = self.areas[frame]
        self.size = max(area, FORGET_SIZE * self.size)
        if area < WHOLE_SHARE * self.size:
            return
        if self.colours is None:
            self.colours = colours
        else:
            self.colours = np.float32(0.8) * self.colours + np.float32(0.2) * colours
            steps = frame - self.whole
            now = [(c - old) / steps for c, old in zip(centre, self.centre, strict=True)]
            gain = 0.3 if len(self.areas) > 3 else 0.6
            dx, dy = ((1 - gain) * d + gain * n for d, n in zip(self.drift, now, strict=True))
            self.drift = (dx, dy)
        self.whole, self.centre = frame, centre


class Linker:
    """Gives ids to the groups of frame after frame.

    apart: do two groups not keep together? They are never one instance.
    """

    def __init__(self, apart: Callable[[int, int], bool]) -> None:
        self.instances: dict[int, Instance] = {}
        self._apart = apart
        self._owner: dict[int, int] = {}
        self._before: Ids | None = None

    def add(
        self,
        frame: int,
        moving_HW: npt.NDArray[np.bool_],
        groups_HW: Ids,
        votes_HW: Map,
        rgb_HW3: Rgb,
        backward_HW2: Flow | None,
    ) -> Ids:
        """Ids (H,W) of a frame, 0 = background.

        groups_HW: 0 where it is not known to what a moving pixel belongs; such regions are
        named by the flow from the frame before, or by their neighbours. backward_HW2: flow to
        the frame before.
        """
        predicted_HW = self._predict(groups_HW.shape, backward_HW2)
        ids_HW = np.zeros(groups_HW.shape, np.int32)
        colours = _colour_codes(rgb_HW3)
        areas = np.bincount(groups_HW.ravel())
        areas[0] = 0
        for group in np.argsort(-areas, kind="stable").tolist():
            if areas[group] < SMALLEST:
                break
            inside_HW = groups_HW == group
            if group not in self._owner:
                instance = self._predicted(group, inside_HW, predicted_HW)
                if instance is None:
                    instance = self._recognise(frame, group, inside_HW, colours)
                instance.groups.add(group)
                self._owner[group] = instance.id
            ids_HW[inside_HW] = self._owner[group]
        self._fill(frame, moving_HW & (ids_HW == 0), ids_HW, predicted_HW, colours)
        for i in np.unique(ids_HW[ids_HW > 0]):
            self._update(self.instances[int(i)], frame, ids_HW == i, votes_HW, colours)
        for one, two in _neighbours(ids_HW):
            self.instances[one].touching[two] += 1
        self._before = ids_HW
        return ids_HW

    def merged(self) -> dict[int, int]:
        """Instance id → id of the object: small and short-lived instances belong to the larger
        one that they touch most of the time."""
        root = {i: i for i in self.instances}
        for instance in sorted(self.instances.values(), key=lambda i: (i.mass, i.id)):
            frames, mass = len(instance.areas), instance.mass
            for other, touching in instance.touching.most_common():
                whole = self.instances[other].mass
                part = mass <= PART_MASS * whole or (frames < PART_FRAMES and mass < whole)
                if part and touching >= SAME_SHARE * frames:
                    root[instance.id] = other
                    break
        for i in root:
            while root[i] != root[root[i]]:
                root[i] = root[root[i]]
        return root

    def _fill(
        self,
        frame: int,
        unnamed_HW: npt.NDArray[np.bool_],
        ids_HW: Ids,
        predicted_HW: Ids,
        colours: Ids,
    ) -> None:
        """Name the regions without a group, in place."""
        count, regions_HW = cv2.connectedComponents(unnamed_HW.astype(np.uint8), connectivity=8)
        named_HW = ids_HW.copy()
        for region in range(1, count):
            inside_HW = regions_HW == region
            around_HW = cv2.dilate(inside_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            beside = named_HW[around_HW & (named_HW > 0)]
            if inside_HW.sum() < SMALLEST and not len(beside):
                continue
            instance = self._predicted(None, inside_HW, predicted_HW)
            if instance is not None:
                ids_HW[inside_HW] = instance.id
            elif len(beside):
                ids_HW[inside_HW] = np.bincount(beside).argmax()
            else:
                ids_HW[inside_HW] = self._recognise(frame, None, inside_HW, colours).id

    def _predict(self, shape: tuple[int, ...], backward_HW2: Flow | None) -> Ids:
        if self._before is None or backward_HW2 is None:
            return np.zeros(shape, np.int32)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        x = np.rint(columns + backward_HW2[..., 0]).astype(np.int64)
        y = np.rint(rows + backward_HW2[..., 1]).astype(np.int64)
        inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
        x, y = x.clip(0, shape[1] - 1), y.clip(0, shape[0] - 1)
        return np.where(inside, self._before[y, x], 0).astype(np.int32)

    def _may_join(self, group: int | None, instance: Instance) -> bool:
        return group is None or not any(self._apart(group, g) for g in instance.groups)

    def _predicted(
        self, group: int | None, inside_HW: npt.NDArray[np.bool_], predicted_HW: Ids
    ) -> Instance | None:
        """The instance that the flow carries to where a new group is."""
        counts = np.bincount(predicted_HW[inside_HW])
        counts[0] = 0
        best = int(counts.argmax())
        smaller = min(inside_HW.sum(), (predicted_HW == best).sum())
        if not counts[best] or counts[best] < LINK_SHARE * smaller:
            return None
        instance = self.instances[best]
        return instance if self._may_join(group, instance) else None

    def _recognise(
        self, frame: int, group: int | None, inside_HW: npt.NDArray[np.bool_], colours: Ids
    ) -> Instance:
        """An instance that was lost a while ago near here and looked the same, or a new one."""
        area = int(inside_HW.sum())
        centre = _centre(inside_HW)
        histogram = _histogram(colours, inside_HW)
        best, best_likeness = None, ALIKE_COLOUR
        for instance in self.instances.values():
            if instance.colours is None:  # born in this very frame
                continue
            if not 1 < frame - instance.last <= LOST_AFTER or not self._may_join(group, instance):
                continue
            there = instance.expected(frame)
            away = np.hypot(centre[0] - there[0], centre[1] - there[1])
            unsure = DRIFT_ERROR * (frame - instance.whole) * np.hypot(*instance.drift)
            if away > NEAR * max(area, instance.size) ** 0.5 + unsure:
                continue
            likeness = float(np.minimum(histogram, instance.colours).sum())
            if likeness > best_likeness:
                best, best_likeness = instance, likeness
        if best is not None:
            return best
        new = Instance(len(self.instances) + 1)
        self.instances[new.id] = new
        return new

    def _update(
        self,
        instance: Instance,
        frame: int,
        inside_HW: npt.NDArray[np.bool_],
        votes_HW: Map,
        colours: Ids,
    ) -> None:
        instance.areas[frame] = int(inside_HW.sum())
        rows, columns = np.flatnonzero(inside_HW.any(1)), np.flatnonzero(inside_HW.any(0))
        instance.boxes[frame] = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
        instance.supported += int((votes_HW[inside_HW] > 0).sum())
        instance.update_whole(frame, _centre(inside_HW), _histogram(colours, inside_HW))


def _neighbours(ids_HW: Ids) -> list[tuple[int, int]]:
    """Pairs of ids that touch, either way around."""
    pairs = []
    for one_HW, two_HW in (
        (ids_HW[:, NEXT_TO:], ids_HW[:, :-NEXT_TO]),
        (ids_HW[NEXT_TO:], ids_HW[:-NEXT_TO]),
    ):
        beside = (one_HW != two_HW) & (one_HW > 0) & (two_HW > 0)
        pairs.append(np.stack([one_HW[beside], two_HW[beside]], 1))
    both = np.concatenate(pairs)
    return [(int(a), int(b)) for a, b in np.unique(np.concatenate([both, both[:, ::-1]]), axis=0)]


def _centre(inside_HW: npt.NDArray[np.bool_]) -> tuple[float, float]:
    rows, columns = np.nonzero(inside_HW)
    return float(columns.mean()), float(rows.mean())


def _colour_codes(rgb_HW3: Rgb) -> Ids:
    """One of 64 colours a pixel."""
    coarse = rgb_HW3.astype(np.int32) >> 6
    return np.asarray(coarse[..., 0] * 16 + coarse[..., 1] * 4 + coarse[..., 2])


def _histogram(colours: Ids, inside_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    counts = np.bincount(colours[inside_HW], minlength=64).astype(np.float32)
    return counts / counts.sum()
