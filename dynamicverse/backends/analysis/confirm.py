"""Does what a model named really move? Its boxes against the measured motion.

The measurement is the `motion` analysis, with its blind spots: what moves along the epipolar
lines in step with the camera looks static, and a near static thing may look moving. So a name
without motion is marked, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.analysis.motion import MotionAnalysis
from dynamicverse.backends.analysis.working import WORKING_SIDE, FrameStore, Scratch
from dynamicverse.formats.objects import DynamicObjects

BOX_SHARE = 0.05  # of a box must move in a frame: a walking person's arm is about so much
FRAME_SHARE = 0.3  # of an object's boxes must
OWNED_SHARE = 0.5  # of a moving region, in the frames compared, lies in its object's box
Boxes = Mapping[int, Sequence[float]]  # frame → x0, y0, x1, y1 in full px


@dataclass(frozen=True)
class Measured:
    """What moves by measurement. labels are small; value = tracking id of `found`."""

    found: DynamicObjects
    size: tuple[int, int]
    labels: FrameStore

    @property
    def observable(self) -> bool:
        return self.found.camera_motion != "unknown"

    def region(self, frame: int) -> Labels:
        """The small labels (h,w) of a frame."""
        if self.found.dynamic:
            return np.asarray(self.labels[frame], np.uint8)
        return np.zeros(self._shape(), np.uint8)

    def window(self, box: Sequence[float]) -> tuple[slice, slice]:
        """The part of the small labels that a box covers; at least one pixel."""
        height, width = self._shape()
        sx, sy = width / self.size[0], height / self.size[1]
        x0, y0 = min(int(box[0] * sx), width - 1), min(int(box[1] * sy), height - 1)
        x1, y1 = int(np.ceil((box[2] + 1) * sx)), int(np.ceil((box[3] + 1) * sy))
        return np.s_[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]

    def _shape(self) -> tuple[int, int]:
        return _small(self.size)


def measure(
    motion: MotionAnalysis, clip: ClipReader, scratch: Scratch, progress: Callable[[int], None]
) -> Measured:
    """Run the `motion` analysis; its labels go to a file of `scratch`, small."""
    height, width = _small(clip.size)
    rows = ((np.arange(height) + 0.5) * clip.size[1] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * clip.size[0] / width).astype(int)
    labels = scratch.store((height, width), np.uint8)

    def keep(frame: int, labels_HW: Labels) -> None:
        labels[frame] = labels_HW[rows][:, columns]

    return Measured(motion.analyse(clip, keep, progress), clip.size, labels)


def moving_share(boxes: Boxes, measured: Measured) -> float:
    """The share of an object's boxes in which something moves."""
    moving = [
        (measured.region(frame)[measured.window(box)] > 0).mean() >= BOX_SHARE
        for frame, box in boxes.items()
    ]
    return float(np.mean(moving))


def owners(objects: Sequence[Boxes], measured: Measured) -> dict[int, int]:
    """For every measured region that lies in the boxes of an object: its id → the object's
    index. Where several hold it, the box that it fills best has it."""
    best: dict[int, tuple[float, int]] = {}
    for index, boxes in enumerate(objects):
        inside, whole = np.zeros(256, np.int64), np.zeros(256, np.int64)
        area = 0
        for frame, box in boxes.items():
            region_hw = measured.region(frame)
            part_hw = region_hw[measured.window(box)]
            inside += np.bincount(part_hw.ravel(), minlength=256)
            whole += np.bincount(region_hw.ravel(), minlength=256)
            area += part_hw.size
        for label in np.flatnonzero(inside[1:]) + 1:
            overlap = float(inside[label] / (area + whole[label] - inside[label]))
            owned = inside[label] >= OWNED_SHARE * whole[label]
            if owned and overlap > best.get(int(label), (0.0, 0))[0]:
                best[int(label)] = (overlap, index)
    return {label: index for label, (_, index) in best.items()}


def write_owned(
    owner: Mapping[int, int],
    measured: Measured,
    count: int,
    write_labels: Callable[[int, Labels], None],
) -> None:
    """Write the regions of objects under the objects' tracking ids (index + 1)."""
    if not owner:
        return
    names = np.zeros(256, np.uint8)
    for label, index in owner.items():
        names[label] = index + 1
    for frame in range(count):
        small_hw = names[measured.region(frame)]
        full_HW = cv2.resize(small_hw, measured.size, interpolation=cv2.INTER_NEAREST)
        write_labels(frame, np.asarray(full_HW, np.uint8))


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """(h,w) of the small labels, as the motion analysis has them."""
    shrink = min(1.0, WORKING_SIDE / max(size))
    return max(1, round(size[1] * shrink)), max(1, round(size[0] * shrink))


__all__ = ["Boxes", "Measured", "measure", "moving_share", "owners", "write_owned"]
