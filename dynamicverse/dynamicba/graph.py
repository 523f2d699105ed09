"""What the tracks say about pairs of frames, and the choice of keyframes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.blocks import Floats, Indices, Observations
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.projection import image_centre

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """Tracks seen in two frames: their indices, and px relative to the image centre (K, 2)."""

    track_K: Indices
    first_K2: Floats
    second_K2: Floats

    @property
    def motion_K(self) -> Floats:
        """Displacements (K,) in px."""
        return np.asarray(np.linalg.norm(self.second_K2 - self.first_K2, axis=1))


class TrackGraph:
    """Tracks that may be static background, seen in at least two frames."""

    def __init__(self, tracks: Tracks) -> None:
        self.size = tracks.size
        self.centre = image_centre(tracks.size)
        self._xy_FN2 = tracks.tracks_FN2
        background_N = (tracks.instance_id_N <= 0) & (tracks.visibility_FN.sum(0) >= 2)
        self.visible_FN = tracks.visibility_FN & background_N
        self.frames, self.tracks = self.visible_FN.shape

    def matches(self, i: int, j: int) -> Matches:
        """The candidates seen in both frames."""
        track = np.flatnonzero(self.visible_FN[i] & self.visible_FN[j])
        return Matches(track, self.pixels(i, track), self.pixels(j, track))

    def pixels(self, frame: int, track_K: Indices) -> Floats:
        """Pixels (K, 2) of tracks in one frame, relative to the image centre."""
        return np.asarray(self._xy_FN2[frame, track_K].astype(np.float64) - self.centre)

    def observations(self, frame_K: Indices, minimum: int = 2) -> Observations:
        """Everything seen in the given frames by tracks with `minimum` observations there.

        Sorted by track, then by frame. Frames and tracks keep their numbers.
        """
        seen_KN = self.visible_FN[frame_K]
        enough = np.flatnonzero(seen_KN.sum(0) >= minimum)
        track, position = np.nonzero(seen_KN[:, enough].T)
        point, frame = enough[track], frame_K[position]
        xy = self._xy_FN2[frame, point].astype(np.float64) - self.centre
        return Observations(frame, point, xy, np.ones(len(point)))

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
        matches = self.matches(i, j)
        if len(matches.track_K) < survival * self.visible_FN[i].sum():
            return True
        return not len(matches.track_K) or float(np.median(matches.motion_K)) > motion
