"""Tracks as a tracker makes them: each stored only over the frames it spans.

The artifact on disk is dense, (F,N,2); for a minute of video that is gigabytes of mostly
empty cells, while the samples that exist are a few tens of megabytes. So everything up to
the writer works on this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Samples:
    """Visible positions in one frame, in any order: the raw output of a tracker."""

    frame: int
    ids_K: npt.NDArray[np.int64]
    positions_K2: npt.NDArray[np.float32]
    confidence_K: npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrackSet:
    """N tracks over a clip of `frame_count` frames of `size` (width, height) pixels.

    Track n covers frames first_N[n] … first_N[n] + length - 1, and its samples are rows
    offsets_N1[n] … offsets_N1[n+1] - 1 of the (M,…) arrays. Positions are pixels, (0,0) the
    centre of the first pixel. A span starts and ends with a visible sample; inside it, an
    invisible sample holds the last visible position. query_N is the frame of the seed.
    """

    frame_count: int
    size: tuple[int, int]
    query_N: npt.NDArray[np.int32]
    first_N: npt.NDArray[np.int32]
    offsets_N1: npt.NDArray[np.int64]
    positions_M2: npt.NDArray[np.float32]
    visible_M: npt.NDArray[np.bool_]
    confidence_M: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query_N)

    @property
    def length_N(self) -> npt.NDArray[np.int64]:
        """Frames each track spans."""
        return np.diff(self.offsets_N1)

    def visible_count_N(self) -> npt.NDArray[np.int64]:
        """In how many frames each track is visible."""
        so_far_M1 = np.concatenate([[0], np.cumsum(self.visible_M, dtype=np.int64)])
        return np.diff(so_far_M1[self.offsets_N1])

    def visible_in(self, frame: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The tracks that are visible in a frame, ascending, and their samples there."""
        since_N = frame - self.first_N
        track_K = np.flatnonzero((since_N >= 0) & (since_N < self.length_N))
        sample_K = self.offsets_N1[track_K] + since_N[track_K]
        seen_K = self.visible_M[sample_K]
        return track_K[seen_K], sample_K[seen_K]

    def select(self, keep: npt.NDArray[np.int64]) -> TrackSet:
        """The tracks with the given indices, in that order."""
        lengths = self.length_N[keep]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.repeat(self.offsets_N1[:-1][keep] - offsets[:-1], lengths) + np.arange(
            offsets[-1]
        )
        return TrackSet(
            self.frame_count,
            self.size,
            self.query_N[keep],
            self.first_N[keep],
            offsets,
            self.positions_M2[rows],
            self.visible_M[rows],
            self.confidence_M[rows],
        )

    def dense(
        self, first: int, stop: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Frames first … stop-1 as arrays (f,N,2) px, (f,N) visible, (f,N) confidence.

        Before its span a track stands at its first position, after it at its last;
        it is visible in neither.
        """
        count, last_N = stop - first, self.length_N - 1
        tracks_fN2 = np.empty((count, len(self), 2), np.float32)
        visible_fN = np.empty((count, len(self)), bool)
        confidence_fN = np.zeros((count, len(self)), np.float32)
        for row in range(count):  # a frame at a time: no index array of the whole size
            since_N = first + row - self.first_N
            sample_N = np.clip(since_N, 0, last_N) + self.offsets_N1[:-1]
            tracks_fN2[row] = self.positions_M2[sample_N]
            seen_N = self.visible_M[sample_N] & (since_N >= 0) & (since_N <= last_N)
            visible_fN[row] = seen_N
            confidence_fN[row, seen_N] = self.confidence_M[sample_N[seen_N]]
        return tracks_fN2, visible_fN, confidence_fN


def assemble(
    samples: Sequence[Samples],
    query_I: npt.NDArray[np.int32],
    frame_count: int,
    size: tuple[int, int],
) -> TrackSet:
    """Order raw samples by track and frame.

    query_I: query frame of every id that occurs. Tracks are numbered by id. Gaps inside a
    track become invisible samples that hold the last position.
    """
    ids_V = np.concatenate([np.zeros(0, np.int64), *(s.ids_K for s in samples)])
    if len(ids_V) == 0:
        return empty(frame_count, size)
    frame_V = np.concatenate([np.full(len(s.ids_K), s.frame, np.int64) for s in samples])
    order = np.lexsort((frame_V, ids_V))
    id_V, frame_V = ids_V[order], frame_V[order]
    position_V2 = np.concatenate([s.positions_K2 for s in samples])[order]
    confidence_V = np.concatenate([s.confidence_K for s in samples])[order]

    starts = np.flatnonzero(np.diff(id_V, prepend=id_V[0] - 1))
    ends = np.append(starts[1:], len(id_V)) - 1
    lengths = frame_V[ends] - frame_V[starts] + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    track_V = np.repeat(np.arange(len(starts)), ends - starts + 1)
    row_V = offsets[track_V] + frame_V - frame_V[starts][track_V]
    visible_M = np.zeros(offsets[-1], bool)
    visible_M[row_V] = True
    source_M = np.cumsum(visible_M) - 1  # the latest visible sample at or before each row
    return TrackSet(
        frame_count,
        size,
        query_I[id_V[starts]],
        frame_V[starts].astype(np.int32),
        offsets,
        position_V2[source_M],
        visible_M,
        np.where(visible_M, confidence_V[source_M], np.float32(0.0)),
    )


def followed(
    query: int,
    positions_FN2: npt.NDArray[np.float32],
    visible_FN: npt.NDArray[np.bool_],
    confidence_FN: npt.NDArray[np.float32],
    size: tuple[int, int],
) -> TrackSet:
    """What `assemble` makes of points, all seeded in frame `query`, that are known in every frame.

    A point that is never visible has no track.
    """
    frames = len(visible_FN)
    seen_NF = np.ascontiguousarray(visible_FN.T[visible_FN.any(axis=0)])
    point_N = np.flatnonzero(visible_FN.any(axis=0))
    first_N = seen_NF.argmax(axis=1)
    last_N = frames - 1 - seen_NF[:, ::-1].argmax(axis=1)
    frame_F = np.arange(frames)
    spans_NF = (frame_F >= first_N[:, None]) & (frame_F <= last_N[:, None])
    latest_NF = np.maximum.accumulate(np.where(seen_NF, frame_F, 0), axis=1)
    source_M = latest_NF[spans_NF]  # the latest frame in which it was visible
    point_M = np.repeat(point_N, last_N - first_N + 1)
    visible_M = seen_NF[spans_NF]
    return TrackSet(
        frames,
        size,
        np.full(len(point_N), query, np.int32),
        first_N.astype(np.int32),
        np.concatenate([[0], np.cumsum(last_N - first_N + 1)]).astype(np.int64),
        positions_FN2[source_M, point_M],
        visible_M,
        np.where(visible_M, confidence_FN[source_M, point_M], np.float32(0.0)),
    )


def joined(parts: Sequence[TrackSet]) -> TrackSet:
    """The tracks of one clip, from the first part to the last; there is one part at least."""
    lengths = np.concatenate([part.length_N for part in parts])
    return TrackSet(
        parts[0].frame_count,
        parts[0].size,
        np.concatenate([part.query_N for part in parts]),
        np.concatenate([part.first_N for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([part.positions_M2 for part in parts]),
        np.concatenate([part.visible_M for part in parts]),
        np.concatenate([part.confidence_M for part in parts]),
    )


def empty(frame_count: int, size: tuple[int, int]) -> TrackSet:
    """No tracks."""
    return TrackSet(
        frame_count,
        size,
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
        np.zeros(1, np.int64),
        np.zeros((0, 2), np.float32),
        np.zeros(0, bool),
        np.zeros(0, np.float32),
    )
