"""Dense depth of the static scene: plane sweep, then agreement between views.

Passes over the registered frames, each with flat memory: `match` searches the depth of every
frame at working resolution, `confirm` keeps of a frame what others agree with. What nobody
confirms stays unknown (0), and so do moving objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.config import DenseConfig
from dynamicverse.cores import workers
from dynamicverse.dynamicba.cameras.picture_lens import PictureLens
from dynamicverse.dynamicba.dense.agreement import DepthView, agree
from dynamicverse.dynamicba.dense.semiglobal import aggregate, winner
from dynamicverse.dynamicba.dense.sweep import Picture, cost_volume, displacement, normalise
from dynamicverse.dynamicba.dense.views import View

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

WINDOW = 5  # px of the working resolution
P1, P2 = 11, 80  # penalties of semi-global matching
MIN_HYPOTHESES = 16
STEP_PX = 1.0  # motion between hypotheses in the neighbour that moves most
MASK_MARGIN = 2  # px of the working resolution around moving objects that are not matched
FILLED_CONFIDENCE = 0.05


class Frames(Protocol):
    """Where pictures and instance masks come from; called from several threads."""

    def rgb(self, frame: int) -> Bytes:
        """(H,W,3)."""
        ...

    def ids(self, frame: int) -> Bytes:
        """(H,W) instance ids, 0 = static background."""
        ...


@dataclass(frozen=True)
class WorkSize:
    """Width and height of the frames, and those at which depth is searched."""

    full: tuple[int, int]
    work: tuple[int, int]

    @staticmethod
    def of(size: tuple[int, int], longest: int) -> WorkSize:
        """Scale `size` (width, height) down so that the longer side is at most `longest`."""
        factor = min(1.0, longest / max(size))
        return WorkSize(size, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))

    def intrinsics(self, K: Floats) -> Floats:
        """K for the working resolution; (0,0) stays the centre of the first pixel."""
        sx, sy = self.work[0] / self.full[0], self.work[1] / self.full[1]
        to_work = np.array([[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5], [0, 0, 1]])
        return np.asarray(to_work @ K)


class Densifier:
    """Searches and confirms the static depth of a clip.

    c2w_F44, K_F33: cameras of all frames; only those of the given views are used. distortion:
    k1 of `lens.py`; pictures are searched as a pinhole would have taken them, and depth is of
    the pixels of the camera. scratch: an empty folder for what must not stay in memory.
    """

    def __init__(
        self,
        frames: Frames,
        size: tuple[int, int],
        c2w_F44: Floats,
        K_F33: Floats,
        settings: DenseConfig,
        scratch: Path,
        distortion: float = 0.0,
    ) -> None:
        self.size = WorkSize.of(size, settings.work_size)
        K_small_F33 = np.stack([self.size.intrinsics(K) for K in K_F33])
        self._lens = PictureLens(self.size.work, K_small_F33, distortion)
        self._settings = settings
        self._frames, self._scratch = frames, scratch
        self._c2w_F44, self._K_F33 = c2w_F44, K_F33
        kept = 2 * settings.reach + 2 + workers()
        self._picture = lru_cache(kept)(self._load_picture)
        self._found = lru_cache(kept)(self._load_found)

    def match(self, views: Sequence[View], progress: Callable[[int, int], None]) -> None:
        """First pass: search the depth of every view, on all cores."""
        with ThreadPoolExecutor(workers()) as pool:
            for done, _ in enumerate(pool.map(self._match, views)):
                progress(done + 1, len(views))
        self._picture.cache_clear()

    def confirm(self, view: View) -> Floats32:
        """Second pass: keep what other views agree with; the depth (h,w), 0 = unknown."""
        others = [self._found(frame) for frame in view.neighbours]
        minimum = min(self._settings.agree, max(1, len(others)))
        agreed = agree(self._found(view.frame), others, minimum)
        depth_hw, confidence_hw = (self._lens.bent(values, view.frame) for values in agreed)
        if self._settings.fill:
            allowed_hw = self._static(view.frame) > 0
            _fill(depth_hw, confidence_hw, allowed_hw, self._settings.fill, self.size)
        np.savez(self._confirmed(view.frame), depth=depth_hw, confidence=confidence_hw)
        return depth_hw

    def confirmed(self, frame: int) -> tuple[Floats32, Floats32]:
        """What `confirm` found: depth and confidence (h,w) at working resolution."""
        with np.load(self._confirmed(frame), allow_pickle=False) as stored:
            return stored["depth"], stored["confidence"]

    def small_ids(self, frame: int) -> Bytes:
        """Instance ids (h,w) at working resolution."""
        return _nearest(self._frames.ids(frame), self.size.work)

    def _match(self, view: View) -> None:
        reference = self._picture(view.frame)
        found = _search(
            reference,
            [self._picture(frame) for frame in view.neighbours],
            view,
            self._settings.hypotheses,
        )
        inverse_hw, distinct_hw, step = found
        np.savez(self._path(view.frame), inverse=inverse_hw, distinct=distinct_hw, step=step)

    def _path(self, frame: int) -> Path:
        return self._scratch / f"matched_{frame:06d}.npz"

    def _confirmed(self, frame: int) -> Path:
        return self._scratch / f"confirmed_{frame:06d}.npz"

    def _load_found(self, frame: int) -> DepthView:
        with np.load(self._path(frame), allow_pickle=False) as stored:
            return DepthView(
                stored["inverse"],
                stored["distinct"],
                float(stored["step"]),
                self.size.intrinsics(self._K_F33[frame]),
                self._c2w_F44[frame],
            )

    def _load_picture(self, frame: int) -> Picture:
        grey_HW = cv2.cvtColor(self._frames.rgb(frame), cv2.COLOR_RGB2GRAY)
        grey_hw = cv2.resize(grey_HW, self.size.work, interpolation=cv2.INTER_AREA)
        grey_hw = self._lens.straight(grey_hw, frame, 0)
        static_hw = self._lens.straight(self._static(frame), frame, 0)
        static_hw = np.where(static_hw == 255, static_hw, 0)
        return Picture(
            np.asarray(grey_hw, np.uint8),
            normalise(np.asarray(grey_hw, np.uint8)),
            None if static_hw.all() else static_hw,
            self.size.intrinsics(self._K_F33[frame]),
            self._c2w_F44[frame],
        )

    def _static(self, frame: int) -> Bytes:
        """255 where nothing moves, with a margin, at working resolution."""
        moving_HW = np.where(self._frames.ids(frame) > 0, 255, 0).astype(np.uint8)
        moving_hw = cv2.resize(moving_HW, self.size.work, interpolation=cv2.INTER_AREA)
        side = 2 * MASK_MARGIN + 1
        grown_hw = cv2.dilate(moving_hw, np.ones((side, side), np.uint8))
        return np.where(grown_hw > 0, 0, 255).astype(np.uint8)


def _search(
    reference: Picture, others: Sequence[Picture], view: View, hypotheses: int
) -> tuple[Floats32, Floats32, float]:
    """Inverse depth (0 = unknown) and distinctness (h,w), and the spacing of the hypotheses."""
    if not others:
        nothing_hw = np.zeros(reference.grey_HW.shape, np.float32)
        return nothing_hw, nothing_hw, 0.0
    travel = max(displacement(reference, other, view.near, view.far) for other in others)
    count = int(np.clip(np.ceil(travel / STEP_PX) + 1, MIN_HYPOTHESES, hypotheses))
    inverse_depth_D = np.linspace(1 / view.far, 1 / view.near, count)
    step = float(inverse_depth_D[1] - inverse_depth_D[0])
    costs_Dhw = cost_volume(reference, others, inverse_depth_D, WINDOW)
    best = winner(aggregate(costs_Dhw, reference.grey_HW.astype(np.float32), P1, P2))
    inverse_hw = (inverse_depth_D[0] + step * best.position_HW).astype(np.float32)
    if reference.usable_HW is not None:
        inverse_hw[reference.usable_HW == 0] = 0
    return inverse_hw, best.distinct_HW, step


def _fill(
    depth_hw: Floats32,
    confidence_hw: Floats32,
    allowed_hw: npt.NDArray[np.bool_],
    pixels: int,
    size: WorkSize,
) -> None:
    """Give holes the depth of the nearest known pixel, up to `pixels` of the full size away."""
    hole_hw = np.where(depth_hw > 0, 0, 255).astype(np.uint8)
    if not (hole_hw == 0).any():
        return
    distance_hw, label_hw = cv2.distanceTransformWithLabels(
        hole_hw, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    depth_of_label = np.zeros(label_hw.max() + 1, np.float32)
    known_hw = hole_hw == 0
    depth_of_label[label_hw[known_hw]] = depth_hw[known_hw]
    reach = pixels * size.work[0] / size.full[0]
    filled_hw = ~known_hw & allowed_hw & (distance_hw <= reach)
    depth_hw[filled_hw] = depth_of_label[label_hw[filled_hw]]
    confidence_hw[filled_hw] = FILLED_CONFIDENCE


def _nearest(ids_HW: Bytes, size: tuple[int, int]) -> Bytes:
    return np.asarray(cv2.resize(ids_HW, size, interpolation=cv2.INTER_NEAREST), np.uint8)
