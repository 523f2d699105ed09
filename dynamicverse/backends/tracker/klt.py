"""Lucas-Kanade tracks: no weights, CPU, one pass over the clip.

A grid of corners is seeded every `interval` frames where no track lives. Each step follows
a coarse dense flow, refines by Lucas-Kanade and checks forward-backward; where that fails, the
motion of neighbours that agree starts a second try. Then the point's first appearance is
aligned with the image under an affine warp: that takes out the drift which steps add up,
notices when something else covers the point, and recognises it where both tries failed. A
covered point is looked for during a few frames. New points are also followed backwards, to
where they came into view; there, where no neighbours tell, in the images as they are: evened
out, they keep points that slide and bend the cameras.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.tracker import FrameReader, TrackSet
from dynamicverse.backends.tracker.affine import (
    PATCH_SIDE,
    Templates,
    align,
    search,
    smooth,
    templates,
)
from dynamicverse.backends.tracker.matching import CoarseFlow, Flow, Grey, Points, even, retry, step
from dynamicverse.backends.tracker.seeding import duplicates, neighbour_motion, seeds
from dynamicverse.backends.tracker.trackset import Samples, assemble
from dynamicverse.config import TracksConfig

Mask = npt.NDArray[np.bool_]

BORDER = 2  # px; a track ends when it comes closer to the image border
ALIGNED = 0.8  # correlation above which the aligned position is taken
SAME_POINT = 0.75  # correlation below which something else is seen
RECOGNISED = 0.85  # correlation above which a point whose step failed is believed to be there
FOUND_AGAIN = 0.9  # correlation above which a covered point is believed to be back
UNIQUE = 0.1  # by how much its correlation must beat the next best
FRESH = 0.85  # correlation below which a template is renewed at the next seeding
AGREED = 5.0  # px that motions of neighbours may be apart to try a failed step again with theirs
MAX_CORRECTION = 3.0  # px that the alignment may correct a step
ITERATIONS = 3  # of the alignment
MAX_ZOOM = 3.0  # of a warp, either way
DUPLICATE = 2.0  # px, two tracks closer than this are one


@dataclass
class _Live:
    """The tracks that are followed now: structure of arrays, L rows."""

    ids_L: npt.NDArray[np.int64]
    points_L2: Points
    templates_L: Templates
    warp_L22: npt.NDArray[np.float32]  # from template to image offsets
    similarity_L: npt.NDArray[np.float32]  # with the template
    error_L: npt.NDArray[np.float32]  # forward-backward, px
    covered_L: npt.NDArray[np.int64]  # frames since it was last visible

    @staticmethod
    def new(ids_L: npt.NDArray[np.int64], points_L2: Points, smoothed: Points) -> _Live:
        count = len(ids_L)
        return _Live(
            ids_L,
            points_L2,
            templates(smoothed, points_L2),
            np.tile(np.eye(2, dtype=np.float32), (count, 1, 1)),
            np.ones(count, np.float32),
            np.zeros(count, np.float32),
            np.zeros(count, np.int64),
        )

    def __getitem__(self, rows: npt.NDArray[np.generic]) -> _Live:
        return _Live(**{name: values[rows] for name, values in vars(self).items()})

    def join(self, other: _Live) -> _Live:
        joined: dict[str, Any] = {
            name: np.concatenate([values, getattr(other, name)])
            for name, values in vars(self).items()
            if name != "templates_L"
        }
        return _Live(**joined, templates_L=self.templates_L.join(other.templates_L))

    def put(self, rows: npt.NDArray[np.int64], points_R2: Points, warp_R22: Points) -> None:
        self.points_L2[rows], self.warp_L22[rows] = points_R2, warp_R22

    @property
    def visible_L(self) -> Mask:
        return np.equal(self.covered_L, 0)


@dataclass(frozen=True)
class _Frame:
    """A frame, and the coarse flow between it and the frame before it."""

    grey: Grey
    even: Grey
    smoothed: Points
    reduced: Grey
    from_before: Flow | None
    to_before: Flow | None


class KltTracker:
    """Lucas-Kanade tracker (see the module)."""

    info = BackendInfo(name="klt", licence="Apache-2.0")

    def __init__(self, settings: TracksConfig) -> None:
        self._settings = settings

    def track(self, frames: FrameReader, progress: Callable[[int], None]) -> TrackSet:
        """Tracks of the whole clip.

        Memory: `interval` frames, 4 kB for each live point, 20 bytes for each sample.
        """
        clip = _Clip(self._settings)
        size = (0, 0)
        for index, frame in enumerate(_prepared(frames)):
            size = (frame.grey.shape[1], frame.grey.shape[0])
            clip.add(index, frame)
            progress(index + 1)
        query_I = np.concatenate([np.zeros(0, np.int32), *clip.query])
        return assemble(clip.samples, query_I, len(frames), size)


def _prepared(frames: FrameReader) -> Iterator[_Frame]:
    """Read and prepare the frames, one ahead of the tracking."""
    flow = CoarseFlow()

    def prepare(index: int, before: Grey | None) -> _Frame:
        grey: Grey = cv2.cvtColor(frames[index], cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
        reduced = flow.reduce(grey)
        if before is None:
            return _Frame(grey, even(grey), smooth(grey), reduced, None, None)
        there, back = flow(before, reduced), flow(reduced, before)
        return _Frame(grey, even(grey), smooth(grey), reduced, there, back)

    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(prepare, 0, None) if len(frames) else None
        for index in range(len(frames)):
            assert coming is not None
            frame = coming.result()
            if index + 1 < len(frames):
                coming = executor.submit(prepare, index + 1, frame.reduced)
            yield frame


class _Clip:
    """The state of tracking one clip, frame by frame."""

    def __init__(self, settings: TracksConfig) -> None:
        self._settings = settings
        self._live: _Live | None = None
        self._recent: deque[_Frame] = deque(maxlen=settings.interval + 1)
        self.samples: list[Samples] = []
        self.query: list[npt.NDArray[np.int32]] = []
        self._count = 0

    def add(self, index: int, frame: _Frame) -> None:
        """Follow the live tracks into the next frame; seed when it is time."""
        if self._live is not None:
            self._live = self._advance(self._live, self._recent[-1], frame)
        self._recent.append(frame)
        if index % self._settings.interval == 0:
            self._live = self._seed(index, frame)
        if self._live is not None:
            self._record(index, self._live)

    def _advance(self, live: _Live, before: _Frame, frame: _Frame) -> _Live:
        """The live tracks one frame later."""
        stepped_L, agreed_L = self._step(live, before, frame)
        seen_L = self._compare(live, frame, stepped_L)
        rows = np.flatnonzero(~stepped_L & agreed_L)
        seen_L[rows] = self._recognise(live, frame, rows)
        rows = np.flatnonzero(~live.visible_L & ~seen_L)
        seen_L[rows] = self._look_for(live, frame, rows)
        live.covered_L = np.where(seen_L, 0, live.covered_L + 1)
        keep_L = _inside(live.points_L2, frame.grey) & (live.covered_L <= self._settings.max_gap)
        return live[keep_L]

    def _step(self, live: _Live, before: _Frame, frame: _Frame) -> tuple[Mask, Mask]:
        """Move the live tracks into the next frame.

        Says which of them made a good step, and which of the others have neighbours that agree.

        Where the coarse flow misled, a second try starts from the motion of the neighbours.
        Points that fail twice, and covered ones, go with the neighbours.
        """
        assert frame.from_before is not None
        assert frame.to_before is not None
        limit, start_L2 = self._settings.max_error, live.points_L2
        motion_L2, stepped_L = np.zeros_like(start_L2), np.zeros(len(start_L2), bool)
        rows = np.flatnonzero(live.visible_L)
        found = step(before.even, frame.even, start_L2[rows], frame.from_before, frame.to_before)
        motion_L2[rows], live.error_L[rows] = found.points_K2 - start_L2[rows], found.error_K
        stepped_L[rows] = found.error_K <= limit
        rest = np.flatnonzero(~stepped_L)
        motion_L2[rest], apart_R = neighbour_motion(
            start_L2[rest], start_L2[stepped_L], motion_L2[stepped_L]
        )
        agreed_L = np.zeros(len(start_L2), bool)
        agreed_L[rest] = apart_R <= AGREED
        rows = np.flatnonzero(live.visible_L & agreed_L)
        again = retry(before.even, frame.even, start_L2[rows], motion_L2[rows])
        good_K = again.error_K <= limit
        rows = rows[good_K]
        motion_L2[rows] = again.points_K2[good_K] - start_L2[rows]
        live.error_L[rows] = again.error_K[good_K]
        stepped_L[rows] = True
        live.points_L2 = start_L2 + motion_L2
        return stepped_L, agreed_L

    def _compare(self, live: _Live, frame: _Frame, stepped_L: Mask) -> Mask:
        """Align the tracks that made a good step with their templates; say which are seen."""
        rows = np.flatnonzero(stepped_L)
        wanted, guess_K2, warp_K22 = (
            live.templates_L[rows],
            live.points_L2[rows],
            live.warp_L22[rows],
        )
        points_K2, aligned_K22, similarity_K = align(
            frame.smoothed, wanted, guess_K2, warp_K22, ITERATIONS
        )
        in_view_K = _inside(points_K2, frame.grey, PATCH_SIDE // 2)
        aligned_K = in_view_K & (similarity_K >= ALIGNED) & _sane(aligned_K22)
        aligned_K &= _near(points_K2, guess_K2)
        live.put(rows[aligned_K], points_K2[aligned_K], aligned_K22[aligned_K])
        other = np.flatnonzero(in_view_K & ~aligned_K)
        similarity_K[other] = align(
            frame.smoothed, wanted[other], guess_K2[other], warp_K22[other], 0
        )[2]
        live.similarity_L[rows[in_view_K]] = similarity_K[in_view_K]
        return stepped_L & (live.similarity_L >= SAME_POINT)

    def _recognise(self, live: _Live, frame: _Frame, rows: npt.NDArray[np.int64]) -> Mask:
        """Say which points without a good step are where their neighbours' motion puts them."""
        wanted, guess_R2 = live.templates_L[rows], live.points_L2[rows]
        found = align(frame.smoothed, wanted, guess_R2, live.warp_L22[rows], ITERATIONS)
        least_R = np.where(live.visible_L[rows], RECOGNISED, FOUND_AGAIN)
        return self._take(live, frame, rows, guess_R2, found, found[2] >= least_R)

    def _look_for(self, live: _Live, frame: _Frame, rows: npt.NDArray[np.int64]) -> Mask:
        """Look for covered points around where their neighbours' motion puts them."""
        wanted, warp_R22 = live.templates_L[rows], live.warp_L22[rows]
        guess_R2, rival_R = search(frame.smoothed, wanted, live.points_L2[rows], warp_R22)
        found = align(frame.smoothed, wanted, guess_R2, warp_R22, ITERATIONS)
        back_R = (found[2] >= FOUND_AGAIN) & (found[2] - rival_R >= UNIQUE)
        return self._take(live, frame, rows, guess_R2, found, back_R)

    @staticmethod
    def _take(
        live: _Live,
        frame: _Frame,
        rows: npt.NDArray[np.int64],
        guess_R2: Points,
        found: tuple[Points, Points, Points],
        alike_R: Mask,
    ) -> Mask:
        """Put points where `align` found them, where they are alike and that can be; say which."""
        points_R2, warp_R22, similarity_R = found
        taken_R = alike_R & _sane(warp_R22) & _near(points_R2, guess_R2)
        taken_R &= _inside(points_R2, frame.grey, PATCH_SIDE // 2)
        live.put(rows[taken_R], points_R2[taken_R], warp_R22[taken_R])
        live.similarity_L[rows[taken_R]], live.error_L[rows[taken_R]] = similarity_R[taken_R], 0.0
        return taken_R

    def _seed(self, index: int, frame: _Frame) -> _Live:
        """Drop doubles, renew stale templates, start tracks where there are none."""
        live = self._live
        taken = np.zeros((0, 2), np.float32)
        if live is not None:
            rank_L = live.ids_L + np.where(live.visible_L, 0, self._count)
            live = live[~duplicates(live.points_L2, rank_L, DUPLICATE)]
            stale = np.flatnonzero(live.visible_L & (live.similarity_L < FRESH))
            live.templates_L[stale] = templates(frame.smoothed, live.points_L2[stale])
            live.warp_L22[stale] = np.eye(2, dtype=np.float32)
            taken = live.points_L2[live.visible_L]
        points_S2 = seeds(frame.grey, taken, self._settings.grid_size, PATCH_SIDE // 2 + 1)
        ids_S = self._count + np.arange(len(points_S2), dtype=np.int64)
        self._count += len(points_S2)
        self.query.append(np.full(len(points_S2), index, np.int32))
        new = _Live.new(ids_S, points_S2, frame.smoothed)
        self._follow_back(index, new)
        return new if live is None else live.join(new)

    def _follow_back(self, index: int, new: _Live) -> None:
        """Follow new seeds backwards through the frames since the previous seeding."""
        live = new[np.arange(len(new.ids_L))]
        for back in range(1, len(self._recent)):
            later, earlier = self._recent[-back], self._recent[-back - 1]
            assert later.from_before is not None
            assert later.to_before is not None
            found = step(
                later.grey, earlier.grey, live.points_L2, later.to_before, later.from_before
            )
            live.points_L2, live.error_L = found.points_K2, found.error_K
            seen_L = self._compare(live, earlier, found.error_K <= self._settings.max_error)
            live = live[seen_L & _inside(live.points_L2, earlier.grey)]
            self._record(index - back, live)

    def _record(self, index: int, live: _Live) -> None:
        spread_L = (np.minimum(live.error_L, 10.0) / self._settings.max_error) ** 2
        confidence_L = np.exp(-spread_L) * np.clip(live.similarity_L, 0.0, 1.0)
        seen = live.visible_L
        self.samples.append(
            Samples(index, live.ids_L[seen], live.points_L2[seen], confidence_L[seen])
        )


def _inside(points_K2: Points, image: Grey, border: int = BORDER) -> Mask:
    far_2 = np.array(image.shape[::-1], np.float32) - 1 - border
    return np.asarray(((points_K2 >= border) & (points_K2 <= far_2)).all(axis=1))


def _near(points_K2: Points, guess_K2: Points) -> Mask:
    return np.asarray(np.linalg.norm(points_K2 - guess_K2, axis=1) <= MAX_CORRECTION)


def _sane(warp_K22: npt.NDArray[np.float32]) -> Mask:
    """Warps that neither mirror nor zoom beyond belief."""
    determinant_K = np.linalg.det(warp_K22)
    stretch_K = np.linalg.norm(warp_K22, axis=(1, 2))  # of a pure zoom z: z * sqrt(2)
    sane_K: Mask = (determinant_K > MAX_ZOOM**-2) & (stretch_K < MAX_ZOOM * 2**0.5)
    return sane_K
