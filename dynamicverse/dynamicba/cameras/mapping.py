"""The growing map: registered cameras, triangulated tracks, and which observations agree.

Frames and tracks keep the numbers they have in the clip, so that a map can grow from keyframes
to all frames without renumbering. World units are arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.bundle.lens import IDEAL, Lens, straighten
from dynamicverse.dynamicba.bundle.solver import (
    FocalPrior,
    LensPrior,
    Options,
    Solution,
    Structure,
    free_cameras,
    solve,
)
from dynamicverse.dynamicba.cameras.resection import resect
from dynamicverse.dynamicba.cameras.triangulation import (
    agreement,
    reprojection_errors,
    triangulate,
)

Mask = npt.NDArray[np.bool_]

KEPT = LensPrior()
ENOUGH_POINTS = 40  # of trusted depth: with these a pose needs no others
FEW = 8000  # observations: a CPU is done with them before a GPU is asked
LOCAL_TOLERANCE = 1e-3  # of an adjustment that others follow
MOST_POINTS = 800  # that a pose is found from: all of them adjust it later


@dataclass(frozen=True)
class Tolerances:
    """What counts as agreement, and where it is computed.

    inlier_px: largest reprojection error. angle: triangulation angle in radians from which the
    depth of a point is trusted; points with less still hold the rotations.
    loss_px: scale of the robust loss. device: of the large sums, as torch names it.
    """

    inlier_px: float
    angle: float
    loss_px: float
    device: str = "cpu"

    def device_for(self, observations: int) -> str:
        """Where sums over so many observations are computed."""
        return "cpu" if observations < FEW else self.device


class Map:
    """Cameras and points over the observations of a set of frames.

    raw: the observations, sorted by track; the map never looks at others. observations: the
    same as a pinhole would have seen them, by the present lens.
    """

    def __init__(
        self,
        observations: Observations,
        frames: int,
        tracks: int,
        focal: float,
        tol: Tolerances,
        lens: Lens = IDEAL,
    ) -> None:
        self.raw = observations
        self.tolerances = tol
        self.registered_F = np.zeros(frames, bool)
        self.structure = Structure(
            np.tile(np.eye(3), (frames, 1, 1)),
            np.zeros((frames, 3)),
            np.full((tracks, 3), np.nan),
            focal,
            lens,
        )
        self.observations = self.straight(observations)
        self.inlier_M = np.zeros(len(observations), bool)
        self.angle_N = np.zeros(tracks)
        self.reference = 0
        order = np.argsort(observations.frame_M, kind="stable")
        bounds = np.searchsorted(observations.frame_M[order], np.arange(frames + 1))
        self._of_frame = [order[a:b] for a, b in pairwise(bounds)]

    # what is there
    def straight(self, observations: Observations) -> Observations:
        """Observations as a pinhole would have seen them."""
        focal, lens = self.structure.focal, self.structure.lens
        xy_M2 = straighten(observations.xy_M2, focal, lens, observations.frame_M)
        return replace(observations, xy_M2=xy_M2)

    @property
    def known_N(self) -> Mask:
        """Tracks that have a point."""
        return np.isfinite(self.structure.points_N3[:, 0])

    def visible_points(self, frame: int) -> Indices:
        """Observations of a frame whose track has a point."""
        index = self._of_frame[frame]
        return index[self.known_N[self.observations.point_M[index]]]

    @property
    def trusted_N(self) -> Mask:
        """Tracks whose point has a trusted depth."""
        return self.known_N & (self.angle_N >= self.tolerances.angle)

    def explained(self, frames: Indices | None = None) -> float:
        """The share of the observations (of some frames) that the map explains.

        An inlier counts less the farther off it is, by the weight of the Cauchy loss.
        """
        mine = np.arange(len(self.observations))
        if frames is not None:
            mine = np.flatnonzero(np.isin(self.observations.frame_M, frames))
        return explained_share(
            self.errors(mine[self.inlier_M[mine]]), self.tolerances.loss_px, len(mine)
        )

    def rmse(self) -> float:
        """Root mean square of the inlier reprojection errors in px.

        A point that the last refinement moved behind a camera has no finite error there and
        does not count.
        """
        error = self.errors(np.flatnonzero(self.inlier_M))
        error = error[np.isfinite(error)]
        return float(np.sqrt(np.mean(error**2))) if len(error) else float("nan")

    # growing
    def place(self, frame: int, R: Floats, t: Floats) -> None:
        """Register a frame with a pose x = R·X + t."""
        self.structure.R_F33[frame], self.structure.t_F3[frame] = R, t
        self.registered_F[frame] = True

    def register(self, frame: int, guesses: list[tuple[Floats, Floats]], share: float) -> bool:
        """Find the pose of a frame from the map; False when less than `share` of it agrees.

        Points of trusted depth decide, as long as there are enough of them.
        """
        index = self.visible_points(frame)
        trusted = self.angle_N[self.observations.point_M[index]] >= self.tolerances.angle
        if trusted.sum() >= ENOUGH_POINTS:
            index = index[trusted]
        index = index[:: max(1, -(-len(index) // MOST_POINTS))]
        found = resect(
            self.structure.points_N3[self.observations.point_M[index]],
            self.observations.xy_M2[index],
            self.structure.focal,
            self.tolerances.inlier_px,
            guesses,
        )
        if found is None or found.inlier_N.mean() < share:
            return False
        self.place(frame, found.R, found.t)
        index = self.visible_points(frame)
        self.inlier_M[index] = self.errors(index) < self.tolerances.inlier_px
        return True

    def triangulate(self, frame: int | None = None) -> None:
        """Place the tracks (of one frame, or all) that have no point or none of trusted depth."""
        wanted_N = ~self.known_N | (self.angle_N < self.tolerances.angle)
        if frame is not None:
            here_N = np.zeros(len(wanted_N), bool)
            here_N[self.observations.point_M[self._of_frame[frame]]] = True
            wanted_N &= here_N
        track_M, frame_M = self.observations.point_M, self.observations.frame_M
        index = np.flatnonzero(wanted_N[track_M] & self.registered_F[frame_M])
        subset, tracks = renumber(self.observations.select(index))
        if not len(tracks):
            return
        limits = self.tolerances
        device = limits.device_for(len(subset))
        points = triangulate(subset, self.structure, len(tracks), limits.loss_px, device)
        self._accept(index, subset, tracks, points)

    def classify(self) -> None:
        """Decide anew which observations are inliers, and drop points that few agree with."""
        track_M, frame_M = self.observations.point_M, self.observations.frame_M
        index = np.flatnonzero(self.known_N[track_M] & self.registered_F[frame_M])
        subset, tracks = renumber(self.observations.select(index))
        self.inlier_M[:] = False
        self._accept(index, subset, tracks, self.structure.points_N3[tracks])

    def _accept(
        self,
        index: Indices,
        subset: Observations,
        tracks: Indices,
        points: Floats,
    ) -> None:
        """Keep points with which at least two and half of the observations agree."""
        limits = self.tolerances
        device = limits.device_for(len(subset))
        found = agreement(points, subset, self.structure, limits.inlier_px, device)
        agrees_M = found.error_M < limits.inlier_px
        support = np.bincount(subset.point_M[agrees_M], minlength=len(tracks))
        seen = np.bincount(subset.point_M, minlength=len(tracks))
        good = (support >= 2) & (support * 2 >= seen)
        self.structure.points_N3[tracks] = np.where(good[:, None], points, np.nan)
        self.angle_N[tracks] = np.where(good, found.angle_N, 0.0)
        self.inlier_M[index] = agrees_M & good[subset.point_M]

    def errors(self, index: Indices) -> Floats:
        """Reprojection errors in px of some observations, ascending."""
        points, subset = self.structure.points_N3, self.observations.select(index)
        limits = self.tolerances
        device = limits.device_for(len(subset))
        if device == "cpu":
            return reprojection_errors(points, subset, self.structure)
        return agreement(points, subset, self.structure, limits.inlier_px, device).error_M

    # adjusting
    def adjust(
        self,
        prior: FocalPrior | None,
        iterations: int = 20,
        tolerance: float = 1e-4,
        uncertainty: bool = False,
        lens_prior: LensPrior = KEPT,
    ) -> Solution | None:
        """Adjust all registered cameras, their points and, with priors, focal length and lens."""
        frames = np.flatnonzero(self.registered_F)
        reference = self.reference
        self.rebase(reference)
        scale_from = int(frames[np.argmax(np.linalg.norm(self.structure.t_F3[frames], axis=1))])
        free = free_cameras(len(self.registered_F), reference, scale_from, self.structure.t_F3)
        options = Options(
            "cauchy",
            self.tolerances.loss_px,
            prior,
            iterations,
            tolerance,
            uncertainty,
            lens_prior=lens_prior,
        )
        return self._solve(frames, self.inlier_M, free, options)

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
            self.adjust(None, iterations, LOCAL_TOLERANCE)
            return
        moving_F = np.zeros(len(self.registered_F), bool)
        moving_F[moving] = True
        touched_N = np.zeros(len(self.known_N), bool)
        touched_N[track_M[self.inlier_M & moving_F[frame_M]]] = True
        use_M = self.inlier_M & touched_N[track_M]
        frames = np.unique(frame_M[use_M])
        free = np.repeat(moving_F[:, None], 6, 1)
        free[self.reference] = False
        options = Options("cauchy", self.tolerances.loss_px, None, iterations, LOCAL_TOLERANCE)
        self._solve(frames, use_M, free, options)

    def _solve(
        self, frames: Indices, use_M: Mask, free_F6: Mask, options: Options
    ) -> Solution | None:
        """Run the solver on renumbered frames and tracks and write the result back.

        Where it runs is decided here.
        """
        subset, tracks = renumber(self.raw.select(use_M))
        if not len(subset):
            return None
        position = np.full(len(self.registered_F), -1)
        position[frames] = np.arange(len(frames))
        subset = replace(subset, frame_M=position[subset.frame_M])
        old = self.structure
        start = Structure(
            old.R_F33[frames],
            old.t_F3[frames],
            old.points_N3[tracks],
            old.focal,
            old.lens.of_frames(frames),
        )
        options = replace(options, device=self.tolerances.device_for(len(subset)))
        solution = solve(start, subset, free_F6[frames], options)
        found = solution.structure
        old.R_F33[frames] = found.R_F33
        old.t_F3[frames] = found.t_F3
        old.points_N3[tracks] = found.points_N3
        lens = found.lens.spread(frames, len(self.registered_F))
        self._set_intrinsics(found.focal, lens)
        return solution

    def _set_intrinsics(self, focal: float, lens: Lens) -> None:
        old = self.structure
        self.structure = Structure(old.R_F33, old.t_F3, old.points_N3, focal, lens)
        if not (lens.ideal and old.lens.ideal):
            self.observations = self.straight(self.raw)

    def refocus(self, focal: float) -> None:
        """Back to a pinhole of this focal length; cameras and points need an adjustment then."""
        self._set_intrinsics(focal, IDEAL)

    def rebase(self, reference: int) -> float:
        """Make a camera the origin of the world and the median depth in it one.

        Returns the factor by which lengths changed.
        """
        R0, t0 = self.structure.R_F33[reference].copy(), self.structure.t_F3[reference].copy()
        points = self.structure.points_N3 @ R0.T + t0
        here = self.observations.point_M[self.visible_points(reference)]
        depth = float(np.median(points[here, 2])) if len(here) else 1.0
        scale = 1.0 / depth if depth > 0 else 1.0
        R = self.structure.R_F33 @ R0.T
        self.structure.t_F3[:] = scale * (self.structure.t_F3 - R @ t0)
        self.structure.R_F33[:] = R
        self.structure.points_N3[:] = scale * points
        return scale


def explained_share(error_K: Floats, loss_px: float, total: int) -> float:
    """Sum of Cauchy weights of the errors (px), over the number of observations."""
    return float(np.sum(1.0 / (1.0 + (error_K / loss_px) ** 2))) / max(total, 1)


def renumber(observations: Observations) -> tuple[Observations, Indices]:
    """The same observations with tracks numbered 0…n−1, and the old numbers."""
    tracks, point = np.unique(observations.point_M, return_inverse=True)
    return replace(observations, point_M=point), tracks
