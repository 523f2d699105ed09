"""The growing map: registered cameras, triangulated tracks, and which observations agree.

Frames and tracks keep the numbers they have in the clip, so that a map can grow from keyframes
to all frames without renumbering. World units are arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.resection import resect
from dynamicverse.dynamicba.solver import (
    FocalPrior,
    Options,
    Solution,
    Structure,
    free_cameras,
    solve,
)
from dynamicverse.dynamicba.triangulation import (
    reprojection_errors,
    triangulate,
    triangulation_angles,
)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tolerances:
    """What counts as agreement.

    inlier_px: largest reprojection error. angle: smallest triangulation angle in radians.
    loss_px: scale of the robust loss.
    """

    inlier_px: float
    angle: float
    loss_px: float


class Map:
    """Cameras and points over the observations of a set of frames.

    observations: sorted by track; the map never looks at others.
    """

    def __init__(
        self, observations: Observations, frames: int, tracks: int, focal: float, tol: Tolerances
    ) -> None:
        self.observations = observations
        self.tolerances = tol
        self.registered_F = np.zeros(frames, bool)
        self.structure = Structure(
            np.tile(np.eye(3), (frames, 1, 1)),
            np.zeros((frames, 3)),
            np.full((tracks, 3), np.nan),
            focal,
        )
        self.inlier_M = np.zeros(len(observations), bool)
        self.reference = 0
        order = np.argsort(observations.frame_M, kind="stable")
        bounds = np.searchsorted(observations.frame_M[order], np.arange(frames + 1))
        self._of_frame = [order[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    # what is there
    @property
    def known_N(self) -> Mask:
        """Tracks that have a point."""
        return np.isfinite(self.structure.points_N3[:, 0])

    def visible_points(self, frame: int) -> Indices:
        """Observations of a frame whose track has a point."""
        index = self._of_frame[frame]
        return index[self.known_N[self.observations.point_M[index]]]

    def rmse(self) -> float:
        """Root mean square of the inlier reprojection errors in px."""
        error = self._errors(np.flatnonzero(self.inlier_M))
        return float(np.sqrt(np.mean(error**2))) if len(error) else float("nan")

    # growing
    def place(self, frame: int, R: Floats, t: Floats) -> None:
        """Register a frame with a pose x = R·X + t."""
        self.structure.R_F33[frame], self.structure.t_F3[frame] = R, t
        self.registered_F[frame] = True

    def register(self, frame: int, guesses: list[tuple[Floats, Floats]], share: float) -> bool:
        """Find the pose of a frame from the map; False when less than `share` of it agrees."""
        index = self.visible_points(frame)
        points = self.structure.points_N3[self.observations.point_M[index]]
        found = resect(
            points,
            self.observations.xy_M2[index],
            self.structure.focal,
            self.tolerances.inlier_px,
            guesses,
        )
        if found is None or found.inlier_N.mean() < share:
            return False
        self.place(frame, found.R, found.t)
        self.inlier_M[index] = found.inlier_N
        return True

    def triangulate(self, frame: int | None = None) -> None:
        """Give a point to the tracks (of one frame, or all) that have none and can have one."""
        missing_N = ~self.known_N
        if frame is not None:
            here_N = np.zeros(len(missing_N), bool)
            here_N[self.observations.point_M[self._of_frame[frame]]] = True
            missing_N &= here_N
        track_M, frame_M = self.observations.point_M, self.observations.frame_M
        index = np.flatnonzero(missing_N[track_M] & self.registered_F[frame_M])
        subset, tracks = _renumber(self.observations.select(index))
        if not len(tracks):
            return
        result = triangulate(subset, self.structure, len(tracks), self.tolerances.loss_px)
        points, agrees = result.points_N3, np.zeros(len(subset), bool)
        error = reprojection_errors(points, subset, self.structure)
        agrees = error < self.tolerances.inlier_px
        good = self._well_posed(subset, agrees, len(tracks))
        self.structure.points_N3[tracks[good]] = points[good]
        self.inlier_M[index] = agrees & good[subset.point_M]

    def _well_posed(self, subset: Observations, agrees_M: Mask, count: int) -> Mask:
        """Points most of whose observations agree, with a large enough angle among these."""
        support = np.bincount(subset.point_M[agrees_M], minlength=count)
        seen = np.bincount(subset.point_M, minlength=count)
        angle = triangulation_angles(subset.select(agrees_M), self.structure, count)
        return (support >= 2) & (support * 2 >= seen) & (angle >= self.tolerances.angle)

    def _errors(self, index: Indices) -> Floats:
        points, subset = self.structure.points_N3, self.observations.select(index)
        return reprojection_errors(points, subset, self.structure)

    def classify(self) -> None:
        """Decide anew which observations are inliers, and drop points that are ill-posed."""
        track_M, frame_M = self.observations.point_M, self.observations.frame_M
        index = np.flatnonzero(self.known_N[track_M] & self.registered_F[frame_M])
        subset, tracks = _renumber(self.observations.select(index))
        agrees = self._errors(index) < self.tolerances.inlier_px
        good = self._well_posed(subset, agrees, len(tracks))
        self.structure.points_N3[tracks[~good]] = np.nan
        self.inlier_M[:] = False
        self.inlier_M[index] = agrees & good[subset.point_M]

    # adjusting
    def adjust(
        self, prior: FocalPrior | None, iterations: int = 20, tolerance: float = 1e-4
    ) -> Solution | None:
        """Adjust all registered cameras, their points and, with a prior, the focal length."""
        frames = np.flatnonzero(self.registered_F)
        reference = self.reference
        self._rebase(reference)
        scale_from = int(frames[np.argmax(np.linalg.norm(self.structure.t_F3[frames], axis=1))])
        free = free_cameras(len(self.registered_F), reference, scale_from, self.structure.t_F3)
        return self._solve(frames, self.inlier_M, free, prior, iterations, tolerance)

    def adjust_around(self, frame: int, window: int, iterations: int = 6) -> None:
        """Adjust the `window` cameras that share most points with a frame; keep the others."""
        track_M, frame_M = self.observations.point_M, self.observations.frame_M
        here_N = np.zeros(len(self.known_N), bool)
        mine = self._of_frame[frame]
        here_N[track_M[mine[self.inlier_M[mine]]]] = True
        shared_F = np.bincount(
            frame_M[self.inlier_M & here_N[track_M]], minlength=len(self.registered_F)
        )
        moving = np.argsort(-shared_F, kind="stable")[:window]
        moving = moving[shared_F[moving] > 0]
        if len(moving) >= self.registered_F.sum() - 1:
            self.adjust(None, iterations)
            return
        moving_F = np.zeros(len(self.registered_F), bool)
        moving_F[moving] = True
        touched_N = np.zeros(len(self.known_N), bool)
        touched_N[track_M[self.inlier_M & moving_F[frame_M]]] = True
        use_M = self.inlier_M & touched_N[track_M]
        frames = np.unique(frame_M[use_M])
        free = np.repeat(moving_F[:, None], 6, 1)
        free[self.reference] = False
        self._solve(frames, use_M, free, None, iterations, 1e-3)

    def _solve(
        self,
        frames: Indices,
        use_M: Mask,
        free_F6: Mask,
        prior: FocalPrior | None,
        iterations: int,
        tolerance: float,
    ) -> Solution | None:
        """Run the solver on renumbered frames and tracks and write the result back."""
        subset, tracks = _renumber(self.observations.select(use_M))
        if not len(subset):
            return None
        position = np.full(len(self.registered_F), -1)
        position[frames] = np.arange(len(frames))
        subset = Observations(
            position[subset.frame_M], subset.point_M, subset.xy_M2, subset.weight_M
        )
        start = Structure(
            self.structure.R_F33[frames],
            self.structure.t_F3[frames],
            self.structure.points_N3[tracks],
            self.structure.focal,
        )
        options = Options("cauchy", self.tolerances.loss_px, prior, iterations, tolerance)
        solution = solve(start, subset, free_F6[frames], options)
        self.structure.R_F33[frames] = solution.structure.R_F33
        self.structure.t_F3[frames] = solution.structure.t_F3
        self.structure.points_N3[tracks] = solution.structure.points_N3
        self.structure = Structure(
            self.structure.R_F33,
            self.structure.t_F3,
            self.structure.points_N3,
            solution.structure.focal,
        )
        return solution

    def _rebase(self, reference: int) -> None:
        """Make a camera the origin of the world and the median depth in it one."""
        R0, t0 = self.structure.R_F33[reference].copy(), self.structure.t_F3[reference].copy()
        points = self.structure.points_N3 @ R0.T + t0
        here = self.observations.point_M[self.visible_points(reference)]
        depth = float(np.median(points[here, 2])) if len(here) else 1.0
        scale = 1.0 / depth if depth > 0 else 1.0
        R = self.structure.R_F33 @ R0.T
        self.structure.t_F3[:] = scale * (self.structure.t_F3 - R @ t0)
        self.structure.R_F33[:] = R
        self.structure.points_N3[:] = scale * points


def _renumber(observations: Observations) -> tuple[Observations, Indices]:
    """The same observations with tracks numbered 0…n−1, and the old numbers."""
    tracks, point = np.unique(observations.point_M, return_inverse=True)
    return (
        Observations(observations.frame_M, point, observations.xy_M2, observations.weight_M),
        tracks,
    )
