"""Lucas-Kanade tracks: no weights, CPU, one pass over the clip.

A grid of corners is seeded every `interval` frames where no track lives. Each step follows
a coarse dense flow, refines by pyramidal Lucas-Kanade and checks forward-backward; then
every point is matched again to its *anchor*, the seed frame where its appearance was
taken, which removes the drift that steps add up and notices when something else covers
the point. A covered point is looked for during a few frames. New points are also followed
backwards, to where they came into view.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.tracker import FrameReader, TrackSet
from dynamicverse.backends.tracker.matching import (
    CoarseFlow,
    Grey,
    Match,
    Points,
    match,
    sample_flow,
    similarity,
)
from dynamicverse.backends.tracker.seeding import duplicates, seeds
from dynamicverse.backends.tracker.trackset import Samples, assemble
from dynamicverse.config import TracksConfig

LEVELS = 2  # pyramid levels of a step, above full resolution: the coarse flow is a good guess
SEARCH_LEVELS = 3  # of the search for a covered point: the guess is an extrapolation
BORDER = 4  # px; a track ends when it comes closer to the image border
MAX_CORRECTION = 2.0  # px that the anchor may correct a step
SAME_STEP = 0.6  # correlation with the patch one frame before, below which a step is refused
SAME_POINT = 0.5  # correlation with the anchor, below which the point is covered
GOOD_ANCHOR = 0.85  # correlation above which the anchor's position is taken, or kept
FOUND_AGAIN = 0.85  # correlation above which a covered point is believed to be back
MAX_ANCHORS = 6  # seed frames kept as images
DUPLICATE = 2.0  # px, two tracks closer than this are one


@dataclass
class _Live:
    """The tracks that are followed now (structure of arrays, L rows)."""

    ids_L: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    points_L2: Points = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    velocity_L2: Points = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    anchor_L: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    anchor_points_L2: Points = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    similarity_L: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    error_L: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    covered_L: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def keep(self, rows: npt.NDArray[np.bool_]) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[rows])

    def add(self, ids_S: npt.NDArray[np.int64], points_S2: Points, frame: int) -> None:
        count = len(ids_S)
        new = _Live(
            ids_S,
            points_S2,
            np.zeros((count, 2), np.float32),
            np.full(count, frame, np.int64),
            points_S2,
            np.ones(count, np.float32),
            np.zeros(count, np.float32),
            np.zeros(count, np.int64),
        )
        for name, values in vars(new).items():
            setattr(self, name, np.concatenate([getattr(self, name), values]))

    @property
    def visible_L(self) -> npt.NDArray[np.bool_]:
        return self.covered_L == 0


@dataclass(frozen=True)
class _Step:
    """A frame, and the coarse flow between it and the frame before."""

    image: Grey
    reduced: Grey
    forward: npt.NDArray[np.float32] | None
    backward: npt.NDArray[np.float32] | None


class KltTracker:
    """Lucas-Kanade tracker (see the module)."""

    info = BackendInfo(name="klt", licence="Apache-2.0")

    def __init__(self, settings: TracksConfig) -> None:
        self._settings = settings

    def track(self, frames: FrameReader, progress: Callable[[int], None]) -> TrackSet:
        """Tracks of the whole clip.

        Memory: `interval` + 6 grey images, and 13 bytes a sample.
        """
        clip = _Clip(self._settings)
        size = (0, 0)
        for frame in range(len(frames)):
            image = cv2.cvtColor(frames[frame], cv2.COLOR_RGB2GRAY)
            size = (image.shape[1], image.shape[0])
            clip.add(frame, image)  # type: ignore[arg-type]
            progress(frame + 1)
        query_I = np.concatenate([np.zeros(0, np.int32), *clip.query])
        return assemble(clip.samples, query_I, len(frames), size)


class _Clip:
    """The state of tracking one clip, frame by frame."""

    def __init__(self, settings: TracksConfig) -> None:
        self._settings = settings
        self._flow = CoarseFlow()
        self._live = _Live()
        self._anchors: dict[int, Grey] = {}
        self._recent: deque[_Step] = deque(maxlen=settings.interval + 1)
        self.samples: list[Samples] = []
        self.query: list[npt.NDArray[np.int32]] = []
        self._count = 0

    def add(self, frame: int, image: Grey) -> None:
        """Follow the live tracks into the next frame; seed when it is time."""
        reduced = self._flow.reduce(image)
        if self._recent:
            before = self._recent[-1].reduced
            step = _Step(image, reduced, self._flow(before, reduced), self._flow(reduced, before))
            self._advance(self._recent[-1].image, step)
        else:
            step = _Step(image, reduced, None, None)
        self._recent.append(step)
        if frame % self._settings.interval == 0:
            self._renew(frame, image)
            self._record(frame, self._live)
            self._seed(frame, image)
        else:
            self._record(frame, self._live)

    # one frame forward

    def _advance(self, before: Grey, step: _Step) -> None:
        live, image = self._live, step.image
        assert step.forward is not None
        assert step.backward is not None
        old_L2 = live.points_L2
        seen_L = live.visible_L
        new_L2 = old_L2 + live.velocity_L2  # covered points go on as they went
        error_L = np.full(len(seen_L), np.inf, np.float32)
        found, same_V = follow(before, image, old_L2[seen_L], step.forward, step.backward)
        new_L2[seen_L] = found.points_K2
        error_L[seen_L] = np.where(same_V >= SAME_STEP, found.error_K, np.inf)
        live.points_L2, live.error_L = new_L2, error_L
        stepped_L = error_L <= self._settings.max_error

        point_L2, similarity_L, anchored_L = self._to_anchors(image, seen_L, stepped_L)
        visible_L = np.where(seen_L, stepped_L & (similarity_L >= SAME_POINT), anchored_L)
        live.points_L2 = np.where(anchored_L[:, None], point_L2, new_L2)
        live.similarity_L = similarity_L
        live.velocity_L2 = np.where(
            (seen_L & visible_L)[:, None], live.points_L2 - old_L2, live.velocity_L2
        )
        live.covered_L = np.where(visible_L, 0, live.covered_L + 1)
        live.keep(
            _inside(live.points_L2, image, BORDER) & (live.covered_L <= self._settings.max_gap)
        )

    def _to_anchors(
        self, image: Grey, seen_L: npt.NDArray[np.bool_], stepped_L: npt.NDArray[np.bool_]
    ) -> tuple[Points, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Match the live points to their anchors.

        Returns positions (L,2), correlations with the anchor (L,) there or, where the
        anchor was not matched, at the present position, and whether it was matched (L,).
        """
        live = self._live
        points_L2 = live.points_L2.copy()
        similarity_L = np.zeros(len(seen_L), np.float32)
        anchored_L = np.zeros(len(seen_L), bool)
        for anchor, source in self._anchors.items():
            mine_L = live.anchor_L == anchor
            for rows_L, refine in ((mine_L & seen_L & stepped_L, True), (mine_L & ~seen_L, False)):
                rows = np.flatnonzero(rows_L)
                if len(rows) == 0:
                    continue
                guess = points_L2[rows]
                found, similar, ok = to_anchor(
                    source, image, live.anchor_points_L2[rows], guess, self._settings, refine
                )
                points_L2[rows] = found
                similarity_L[rows], anchored_L[rows] = similar, ok
                if not refine:
                    live.error_L[rows[ok]] = 0.0
        return points_L2, similarity_L, anchored_L

    # seed frames

    def _renew(self, frame: int, image: Grey) -> None:
        """Make this frame an anchor, for new tracks and for those that outgrew theirs."""
        live = self._live
        if self._count:
            rank_L = live.ids_L + np.where(live.visible_L, 0, self._count)
            live.keep(~duplicates(live.points_L2, rank_L, DUPLICATE))
        self._anchors[frame] = image
        while len(self._anchors) > MAX_ANCHORS:
            del self._anchors[next(iter(self._anchors))]
        gone_L = live.anchor_L < next(iter(self._anchors))
        outgrown_L = live.visible_L & (gone_L | (live.similarity_L < GOOD_ANCHOR))
        live.anchor_L = np.where(outgrown_L, frame, live.anchor_L)
        live.anchor_points_L2 = np.where(outgrown_L[:, None], live.points_L2, live.anchor_points_L2)
        live.keep(outgrown_L | ~gone_L)

    def _seed(self, frame: int, image: Grey) -> None:
        taken = self._live.points_L2[self._live.visible_L]
        points_S2 = seeds(image, taken, self._settings.grid_size, BORDER)
        ids_S = self._count + np.arange(len(points_S2), dtype=np.int64)
        self._count += len(points_S2)
        self.query.append(np.full(len(points_S2), frame, np.int32))
        new = _Live()
        new.add(ids_S, points_S2, frame)
        self._record(frame, new)
        self._follow_back(frame, new)
        self._live.add(ids_S, points_S2, frame)

    def _follow_back(self, frame: int, new: _Live) -> None:
        """Follow new seeds backwards through the frames since the previous seeding."""
        anchor = self._recent[-1].image
        for back in range(1, len(self._recent)):
            later, earlier = self._recent[-back], self._recent[-back - 1]
            assert later.forward is not None
            assert later.backward is not None
            found, same_L = follow(
                later.image, earlier.image, new.points_L2, later.backward, later.forward
            )
            point_L2, new.similarity_L, ok_L = to_anchor(
                anchor, earlier.image, new.anchor_points_L2, found.points_K2, self._settings, True
            )
            new.points_L2 = np.where(ok_L[:, None], point_L2, found.points_K2)
            new.error_L = found.error_K
            new.keep(
                (found.error_K <= self._settings.max_error)
                & (same_L >= SAME_STEP)
                & (new.similarity_L >= SAME_POINT)
                & _inside(new.points_L2, earlier.image, BORDER)
            )
            self._record(frame - back, new)

    def _record(self, frame: int, live: _Live) -> None:
        spread = (live.error_L / self._settings.max_error) ** 2
        confidence_L = np.exp(-spread) * np.clip(live.similarity_L, 0.0, 1.0)
        self.samples.append(
            Samples(
                frame,
                live.ids_L.copy(),
                live.points_L2.copy(),
                live.visible_L.copy(),
                confidence_L.astype(np.float32),
            )
        )


def follow(
    source: Grey,
    target: Grey,
    points_K2: Points,
    there: npt.NDArray[np.float32],
    back: npt.NDArray[np.float32],
) -> tuple[Match, npt.NDArray[np.float32]]:
    """One step between neighbouring frames, guided by their coarse flows there and back.

    Returns the match and the correlation of the patches (K,).
    """
    size = (source.shape[1], source.shape[0])
    guess_K2 = points_K2 + sample_flow(there, size, points_K2)
    back_K2 = sample_flow(back, size, guess_K2)
    found = match(source, target, points_K2, guess_K2, LEVELS, back_K2)
    return found, similarity(source, target, points_K2, found.points_K2)


def to_anchor(
    anchor: Grey,
    image: Grey,
    anchor_points_K2: Points,
    guess_K2: Points,
    settings: TracksConfig,
    refine: bool,
) -> tuple[Points, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Match points of the anchor frame near a guess.

    refine: the guess is a tracked position that may be corrected by MAX_CORRECTION px;
    otherwise it is an extrapolation, and the match has to be convincing.
    Returns positions (K,2), correlations (K,), and whether the anchor was matched (K,):
    where not, the position is the guess.
    """
    levels = 0 if refine else SEARCH_LEVELS
    found = match(anchor, image, anchor_points_K2, guess_K2, levels)
    similar_K = similarity(anchor, image, anchor_points_K2, found.points_K2)
    ok_K = found.error_K <= settings.max_error
    if refine:
        shift_K = np.linalg.norm(found.points_K2 - guess_K2, axis=1)
        ok_K &= (shift_K <= MAX_CORRECTION) & (similar_K >= GOOD_ANCHOR)
        at_guess_K = similarity(anchor, image, anchor_points_K2, guess_K2)
        similar_K = np.where(ok_K, similar_K, at_guess_K)
    else:
        ok_K &= similar_K >= FOUND_AGAIN
    return np.where(ok_K[:, None], found.points_K2, guess_K2), similar_K, ok_K


def _inside(points_K2: Points, image: Grey, border: int) -> npt.NDArray[np.bool_]:
    height, width = image.shape
    x, y = points_K2[:, 0], points_K2[:, 1]
    return (x >= border) & (y >= border) & (x <= width - 1 - border) & (y <= height - 1 - border)
