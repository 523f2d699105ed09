"""Instances over time: connected moving regions, linked by where the flow carries them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import Flow, Rgb
from dynamicverse.backends.analysis.working import Map

Ids = npt.NDArray[np.int32]

SMALLEST = 12  # working px; smaller regions are noise
LINK_SHARE = 0.25  # of the smaller of region and prediction that must overlap
LOST_AFTER = 20  # frames that an object may be hidden and keep its id
NEAR = 1.5  # of its size (root of area): an object that comes back is so near where it should be
DRIFT_ERROR = 0.25  # of the way it should have gone
WHOLE_SHARE, FORGET_SIZE = 0.7, 0.97  # smaller than this share of its size it is partly hidden
ALIKE_COLOUR = 0.5  # histogram intersection that recognises an object again
SAME_SHARE = 0.6  # of their common frames that two instances touch: one object
APART_FRAMES = 8  # frames that the parts of an instance are apart before they are two
APART_SHARE = 0.25  # of the instance's area that the smaller part must have


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
    apart: int = 0
    touching: Counter[int] = field(default_factory=Counter)

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
    """Gives ids to the moving regions of frame after frame."""

    def __init__(self) -> None:
        self.instances: dict[int, Instance] = {}
        self._before: Ids | None = None

    def add(
        self,
        frame: int,
        moving_HW: npt.NDArray[np.bool_],
        votes_HW: Map,
        rgb_HW3: Rgb,
        backward_HW2: Flow | None,
    ) -> Ids:
        """Ids (H,W) of a frame, 0 = background. backward_HW2: flow to the frame before."""
        predicted_HW = self._predict(moving_HW.shape, backward_HW2)
        count, regions_HW = cv2.connectedComponents(moving_HW.astype(np.uint8), connectivity=8)
        ids_HW = np.zeros(moving_HW.shape, np.int32)
        colours = _colour_codes(rgb_HW3)
        for region in range(1, count):
            inside_HW = regions_HW == region
            area = int(inside_HW.sum())
            if area < SMALLEST:
                continue
            candidates = self._candidates(inside_HW, area, predicted_HW)
            if not candidates:
                candidates = [self._recognise(frame, inside_HW, area, colours).id]
            if len(candidates) == 1:
                ids_HW[inside_HW] = candidates[0]
            else:
                _share(ids_HW, inside_HW, predicted_HW, candidates)
                for one in candidates:
                    self.instances[one].touching.update(c for c in candidates if c != one)
        self._split(ids_HW)
        for i in np.unique(ids_HW[ids_HW > 0]):
            self._update(self.instances[int(i)], frame, ids_HW == i, votes_HW, colours)
        self._before = ids_HW
        return ids_HW

    def merged(self) -> dict[int, int]:
        """Instance id → id of the object: parts that touch most of the time are one."""
        root = {i: i for i in self.instances}

        def find(i: int) -> int:
            while root[i] != i:
                i = root[i]
            return i

        for i, instance in sorted(self.instances.items()):
            for j, touching in sorted(instance.touching.items()):
                common = len(instance.areas.keys() & self.instances[j].areas.keys())
                if touching >= SAME_SHARE * max(common, 1):
                    low, high = sorted((find(i), find(j)))
                    root[high] = low
        return {i: find(i) for i in self.instances}

    def _predict(self, shape: tuple[int, ...], backward_HW2: Flow | None) -> Ids:
        if self._before is None or backward_HW2 is None:
            return np.zeros(shape, np.int32)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        x = np.rint(columns + backward_HW2[..., 0]).astype(np.int64)
        y = np.rint(rows + backward_HW2[..., 1]).astype(np.int64)
        inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
        x, y = x.clip(0, shape[1] - 1), y.clip(0, shape[0] - 1)
        return np.where(inside, self._before[y, x], 0).astype(np.int32)

    def _candidates(
        self, inside_HW: npt.NDArray[np.bool_], area: int, predicted_HW: Ids
    ) -> list[int]:
        """Instances that the flow carries into a region."""
        ids_N, overlaps_N = np.unique(predicted_HW[inside_HW], return_counts=True)
        return [
            int(i)
            for i, overlap in zip(ids_N, overlaps_N, strict=True)
            if i and overlap >= LINK_SHARE * min(area, int((predicted_HW == i).sum()))
        ]

    def _recognise(
        self, frame: int, inside_HW: npt.NDArray[np.bool_], area: int, colours: Ids
    ) -> Instance:
        """An instance that was lost a while ago near here and looked the same, or a new one."""
        centre = _centre(inside_HW)
        histogram = _histogram(colours, inside_HW)
        best, best_likeness = None, ALIKE_COLOUR
        for instance in self.instances.values():
            if instance.colours is None:  # born in this very frame
                continue
            if not 1 < frame - instance.last <= LOST_AFTER:
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

    def _split(self, ids_HW: Ids) -> None:
        """Two large parts that stay apart are two instances; the larger keeps the id."""
        for i in np.unique(ids_HW[ids_HW > 0]):
            instance = self.instances[int(i)]
            mask = (ids_HW == i).astype(np.uint8)
            # parts of one body are close together: a gap of a few pixels does not count
            near = cv2.dilate(mask, np.ones((7, 7), np.uint8))
            count, parts_HW = cv2.connectedComponents(near)
            areas = np.bincount(parts_HW[mask > 0], minlength=count)
            order = np.argsort(-areas, kind="stable")
            if count < 3 or areas[order[1]] < APART_SHARE * areas.sum():
                instance.apart = 0
                continue
            instance.apart += 1
            if instance.apart >= APART_FRAMES:
                new = Instance(len(self.instances) + 1)
                self.instances[new.id] = new
                ids_HW[(parts_HW == order[1]) & (mask > 0)] = new.id
                instance.apart = 0

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


def _share(
    ids_HW: Ids, inside_HW: npt.NDArray[np.bool_], predicted_HW: Ids, candidates: list[int]
) -> None:
    """Divide a region between instances: each pixel goes to the nearest prediction."""
    distances = [
        cv2.distanceTransform((predicted_HW != i).astype(np.uint8), cv2.DIST_L2, 5)
        for i in candidates
    ]
    nearest_HW = np.array(candidates, np.int32)[np.argmin(distances, axis=0)]
    ids_HW[inside_HW] = nearest_HW[inside_HW]


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
