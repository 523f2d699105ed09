"""What the tracks say about pairs of frames, and the choice of keyframes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices, Observations
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.projection import image_centre

Mask = npt.NDArray[np.bool_]

TRACKS_PER_CELL = 3
STILL_PX = 1.0  # a track that moved less has not moved
STILL_PAIRS = 16  # pairs of frames a distance in time that are looked at
STILL_TRACKS = 8  # tracks that a pair must share to count
MOTION_TRACKS = 1000  # of a pair that tell how far they moved


@dataclass(frozen=True)
class Matches:
    """Tracks seen in two frames: their indices, and px relative to the principal point (K, 2)."""

    track_K: Indices
    first_K2: Floats
    second_K2: Floats

    @property
    def motion_K(self) -> Floats:
        """Displacements (K,) in px."""
        return np.asarray(np.linalg.norm(self.second_K2 - self.first_K2, axis=1))


class TrackGraph:
    """Tracks that may be static background, seen in at least two frames."""

    def __init__(self, tracks: Tracks, centre: tuple[float, float] | None = None) -> None:
        """centre: the principal point in px; the centre of the picture if None."""
        self.size = tracks.size
        self.centre = image_centre(tracks.size) if centre is None else np.array(centre, float)
        self._xy_FN2 = tracks.tracks_FN2
        background_N = (tracks.instance_id_N <= 0) & (tracks.visibility_FN.sum(0) >= 2)
        self.visible_FN = tracks.visibility_FN & background_N
        self.frames, self.tracks = self.visible_FN.shape

    def matches(self, i: int, j: int, most: int | None = None) -> Matches:
        """The candidates seen in both frames, or about `most` of them, evenly chosen."""
        track = np.flatnonzero(self.visible_FN[i] & self.visible_FN[j])
        if most is not None:
            track = track[:: max(1, -(-len(track) // most))]
        return Matches(track, self.pixels(i, track), self.pixels(j, track))

    def shared(self, i: int, j: int) -> int:
        """How many candidates are seen in both frames."""
        return int(np.count_nonzero(self.visible_FN[i] & self.visible_FN[j]))

    def pixels(self, frame: int, track_K: Indices) -> Floats:
        """Pixels (K, 2) of tracks in one frame, relative to the principal point."""
        return np.asarray(self._xy_FN2[frame, track_K].astype(np.float64) - self.centre)

    def observations(
        self, frame_K: Indices, minimum: int = 2, of_N: Mask | None = None
    ) -> Observations:
        """What is seen in the given frames by tracks with `minimum` observations there.

        of_N: only of these tracks. Sorted by track, then by frame. Frames and tracks keep their
        numbers.
        """
        seen_KN = self.visible_FN[frame_K]
        enough_N = seen_KN.sum(0) >= minimum
        enough = np.flatnonzero(enough_N if of_N is None else enough_N & of_N)
        track, position = np.nonzero(seen_KN[:, enough].T)
        point, frame = enough[track], frame_K[position]
        xy = self._xy_FN2[frame, point].astype(np.float64) - self.centre
        return Observations(frame, point, xy, np.ones(len(point)))

    def thinned(self, frames: Indices, per_frame: int) -> Mask:
        """Tracks (N,) that cover every one of the frames evenly: the longest of each cell."""
        length_N = self.visible_FN[frames].sum(0)
        step = float(np.sqrt(self.size[0] * self.size[1] * TRACKS_PER_CELL / per_frame))
        chosen_N = np.zeros(self.tracks, bool)
        for frame in frames:
            track = np.flatnonzero(self.visible_FN[frame] & (length_N >= 2))
            xy_K2 = self._xy_FN2[frame, track].astype(np.float64)
            column, row = np.floor(xy_K2 / step).astype(np.int64).T
            cell = row * (int(np.ptp(column)) + 1 if len(column) else 1) + column
            key = cell * (len(frames) + 1) - length_N[track]
            order = np.argsort(key * len(track) + np.arange(len(track)))  # no two are equal
            starts = np.flatnonzero(np.diff(cell[order], prepend=cell.min(initial=0) - 1))
            rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
            chosen_N[track[order[rank < TRACKS_PER_CELL]]] = True
        return chosen_N

    def stands_still(self) -> bool:
        """True if most tracks stay where they are, over every distance in time."""
        shares, gap = [], 1
        while gap < self.frames:
            for i in range(0, self.frames - gap, max(1, self.frames // STILL_PAIRS)):
                motion = self.matches(i, i + gap, MOTION_TRACKS).motion_K
                if len(motion) >= STILL_TRACKS:
                    shares.append(float(np.mean(motion < STILL_PX)))
            gap *= 2
        return bool(shares) and float(np.percentile(shares, 10)) > 0.5

    def keyframes(self, motion: float, survival: float) -> Indices:
        """Frames apart by a median motion of `motion` px or a loss of tracks; ends included.

        A frame is the last before one that moved too far, or in which less than the share
        `survival` of the keyframe's tracks is left.
        """
        chosen = [0]
        for frame in range(1, self.frames):
            if frame - 1 > chosen[-1] and self._far(chosen[-1], frame, motion, survival):
                chosen.append(frame - 1)
        if self.frames > 1:
            chosen.append(self.frames - 1)
        return np.array(chosen, np.int64)

    def _far(self, i: int, j: int, motion: float, survival: float) -> bool:
        shared = self.shared(i, j)
        if shared < survival * np.count_nonzero(self.visible_FN[i]):
            return True
        moved_K = self.matches(i, j, MOTION_TRACKS).motion_K
        return not shared or float(np.median(moved_K)) > motion
