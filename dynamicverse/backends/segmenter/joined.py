"""The masks of objects that were followed both ways, put together frame by frame."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

Png = npt.NDArray[np.uint8]  # an encoded picture


class Joined:
    """Collects scores in any order and gives labels in the order of the frames.

    A pixel belongs to the surest object among those whose prompt was in an earlier frame or in
    this one; where none claims it, to the surest among those prompted later.
    """

    def __init__(
        self,
        starts: Sequence[int],
        count: int,
        size: tuple[int, int],
        device: torch.device,
        packed: bool = False,
    ) -> None:
        """starts: the frame of each object's prompt; size: width and height of the labels.

        packed: labels of frames before a prompt wait as PNG in the host's memory, for clips of
        which the device could not hold all.
        """
        self._starts = sorted(starts)
        self._count, self._size, self._device, self._packed = count, size, device, packed
        self._waiting: dict[tuple[int, bool], list[tuple[int, Tensor]]] = {}
        self._labels: dict[tuple[int, bool], Tensor | Png] = {}
        self._next = 0

    def add(self, frame: int, earlier: bool, tracking_id: int, scores_HW: Tensor) -> None:
        """earlier: the frame comes before the object's prompt. Scores above 0 are the object."""
        key = (frame, earlier)
        found = self._waiting.setdefault(key, [])
        found.append((tracking_id, scores_HW))
        if len(found) == self._expected(frame, earlier):
            label_HW = self._drawn(self._waiting.pop(key))
            self._labels[key] = _png(label_HW) if self._packed and earlier else label_HW

    def ready(self) -> Iterator[tuple[int, Tensor]]:
        """The next frames whose scores are complete, with their labels (H,W)."""
        while self._next < self._count:
            parts = [e for e in (False, True) if self._expected(self._next, e)]
            if any((self._next, earlier) not in self._labels for earlier in parts):
                return
            label_HW = torch.zeros(self._size[::-1], dtype=torch.uint8, device=self._device)
            for earlier in parts:
                other = self._labels.pop((self._next, earlier))
                other_HW = other if isinstance(other, Tensor) else _read(other).to(self._device)
                label_HW = torch.where(label_HW > 0, label_HW, other_HW)
            yield self._next, label_HW
            self._next += 1

    def _expected(self, frame: int, earlier: bool) -> int:
        before = bisect_right(self._starts, frame)
        return len(self._starts) - before if earlier else before

    def _drawn(self, found: list[tuple[int, Tensor]]) -> Tensor:
        found.sort(key=lambda one: one[0])
        scores_1OHW = torch.stack([scores_HW for _, scores_HW in found])[None].float()
        scores_1OHW = interpolate(
            scores_1OHW, self._size[::-1], mode="bilinear", align_corners=False
        )
        best_HW, owner_HW = scores_1OHW[0].max(dim=0)
        ids_O = torch.tensor([i for i, _ in found], dtype=torch.uint8)
        if best_HW.is_cuda:
            ids_O = ids_O.pin_memory().to(best_HW.device, non_blocking=True)
        return torch.where(best_HW > 0, ids_O[owner_HW], 0)


def _png(label_HW: Tensor) -> Png:
    done, png = cv2.imencode(".png", label_HW.cpu().numpy())
    assert done  # in memory, of 8 bits
    return np.asarray(png, np.uint8)


def _read(png: Png) -> Tensor:
    return torch.from_numpy(cv2.imdecode(png, cv2.IMREAD_UNCHANGED))
