"""Points from many views with known cameras, all points at once (torch, float64).

Sums over the observations of a point are sums over segments, in the order of the observations:
the work is linear in observations, and the same at every call, on a GPU too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Floats, Observations
from dynamicverse.dynamicba.bundle.solver import Structure

MIN_DEPTH = 1e-6
ROUNDS = 6  # Gauss–Newton rounds; from the linear start three or four are enough
BEHIND = 1e6  # px of error that a point behind a camera counts as
FAR = 1000.0  # baselines: a point farther than this is as good as at infinity
UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of a symmetric 3x3 matrix


def triangulate(
    observations: Observations,
    structure: Structure,
    count: int,
    loss_scale: float,
    device: str = "cpu",
) -> Floats:
    """Triangulate `count` points (N, 3); NaN where there are fewer than two observations.

    Linear start (the point nearest to all rays; far away on the first ray where the rays do not
    meet in front), then reweighted Gauss–Newton on the reprojection error with a Cauchy loss of
    `loss_scale` px. A point may still be far from an outlying observation: the caller tests
    `reprojection_errors`.
    """
    if not len(observations):
        return np.full((count, 3), np.nan)
    seen = _Sightings.of(observations, structure, count, device)
    anchor_N3, ray_N3 = seen.first(seen.centre_M3), seen.first(seen.direction_M3)
    baseline_N = seen.reduce(
        torch.linalg.norm(seen.centre_M3 - seen.spread(anchor_N3), dim=1), "max"
    )
    farthest_N = FAR * baseline_N.clamp(min=MIN_DEPTH)
    points_N3 = _nearest_to_rays(seen)
    distance_N = ((points_N3 - anchor_N3) * ray_N3).sum(1)
    meet_N = (distance_N > 0) & (distance_N < farthest_N)
    points_N3 = torch.where(meet_N[:, None], points_N3, anchor_N3 + farthest_N[:, None] * ray_N3)
    points_N3[seen.count_N < 2] = torch.nan
    best = _Guess.of(points_N3, seen, loss_scale)
    for _ in range(ROUNDS):
        moved_N3 = _improved(best, anchor_N3, seen, loss_scale)
        best = best.or_better(_Guess.of(moved_N3, seen, loss_scale), seen)
    return np.asarray(best.points_N3.cpu().numpy(), np.float64)


@dataclass(frozen=True)
class _Sightings:
    """Observations (M) ordered by point, with their cameras x = R·X + t.

    count_N: observations of each point. direction_M3: unit rays in the world.
    """

    point_M: Tensor
    count_N: Tensor
    xy_M2: Tensor
    focal: float
    R_M33: Tensor
    t_M3: Tensor
    centre_M3: Tensor
    direction_M3: Tensor

    @staticmethod
    def of(seen: Observations, structure: Structure, count: int, device: str) -> _Sightings:
        if np.any(np.diff(seen.point_M) < 0):
            seen = seen.select(np.argsort(seen.point_M, kind="stable"))
        point_M, frame_M, xy_M2, R_F33, t_F3 = (
            torch.from_numpy(np.ascontiguousarray(values)).to(device)
            for values in (seen.point_M, seen.frame_M, seen.xy_M2, structure.R_F33, structure.t_F3)
        )
        R_M33, t_M3 = R_F33[frame_M], t_F3[frame_M]
        centre_F3 = -(R_F33.mT @ t_F3[..., None])[..., 0]
        local_M3 = torch.cat([xy_M2, torch.full_like(xy_M2[:, :1], structure.focal)], 1)
        local_M3 = local_M3 / torch.linalg.norm(local_M3, dim=1, keepdim=True)
        direction_M3 = (R_M33.mT @ local_M3[..., None])[..., 0]
        return _Sightings(
            point_M,
            torch.bincount(point_M, minlength=count),
            xy_M2,
            structure.focal,
            R_M33,
            t_M3,
            centre_F3[frame_M],
            direction_M3,
        )

    def reduce(self, values: Tensor, how: str, initial: float = 0.0) -> Tensor:
        """Sums, largest or least values (N, …) over the observations of each point.

        initial: where there are none, and a bound of the others.
        """
        reduced: Tensor = torch.segment_reduce(
            values, how, lengths=self.count_N, axis=0, initial=initial
        )
        return reduced

    def spread(self, values_N: Tensor) -> Tensor:
        """The value of its point for each observation."""
        return values_N[self.point_M]

    def first(self, values_M: Tensor) -> Tensor:
        """The value of the first observation of each point; 0 without any."""
        start_N = self.count_N.cumsum(0) - self.count_N
        found = values_M[start_N.clamp(max=len(values_M) - 1)]
        return torch.where(self.count_N[:, None] > 0, found, 0.0)

    def camera(self, points_N3: Tensor) -> Tensor:
        """Points in the coordinates of the cameras (M, 3)."""
        return (self.R_M33 @ self.spread(points_N3)[..., None])[..., 0] + self.t_M3

    def cost(self, camera_M3: Tensor, loss_scale: float) -> Tensor:
        """Cauchy cost (N,); an observation behind its camera counts as one far off."""
        z_M = camera_M3[:, 2]
        off_M2 = self.focal * camera_M3[:, :2] / z_M[:, None] - self.xy_M2
        squared_M = off_M2.square().sum(1).clamp(max=BEHIND**2)
        squared_M = torch.where(z_M <= MIN_DEPTH, BEHIND**2, squared_M)  # NaN stays NaN
        return self.reduce(torch.log1p(squared_M / loss_scale**2), "sum")


@dataclass(frozen=True)
class _Guess:
    """Points, the same in the coordinates of the cameras, and their cost."""

    points_N3: Tensor
    camera_M3: Tensor
    cost_N: Tensor

    @staticmethod
    def of(points_N3: Tensor, seen: _Sightings, loss_scale: float) -> _Guess:
        camera_M3 = seen.camera(points_N3)
        return _Guess(points_N3, camera_M3, seen.cost(camera_M3, loss_scale))

    def or_better(self, other: _Guess, seen: _Sightings) -> _Guess:
        """Of each point the guess that costs less."""
        better_N = other.cost_N < self.cost_N
        return _Guess(
            torch.where(better_N[:, None], other.points_N3, self.points_N3),
            torch.where(seen.spread(better_N)[:, None], other.camera_M3, self.camera_M3),
            torch.where(better_N, other.cost_N, self.cost_N),
        )


@dataclass(frozen=True)
class Agreement:
    """How well points and their observations agree.

    error_M: as `reprojection_errors` gives them. angle_N: the largest angle in radians between
    the first ray that agrees and others that do; 0 where fewer than two do.
    """

    error_M: Floats
    angle_N: Floats


def agreement(
    points_N3: Floats,
    observations: Observations,
    structure: Structure,
    inlier_px: float,
    device: str = "cpu",
) -> Agreement:
    """Compare points with their observations, which are sorted by point.

    inlier_px: a smaller error agrees. Raises ValueError for observations in another order.
    """
    if np.any(np.diff(observations.point_M) < 0):
        raise ValueError("observations must be sorted by point")
    if not len(observations):
        return Agreement(np.zeros(0), np.zeros(len(points_N3)))
    seen = _Sightings.of(observations, structure, len(points_N3), device)
    camera_M3 = seen.camera(torch.from_numpy(np.ascontiguousarray(points_N3)).to(device))
    z_M = camera_M3[:, 2]
    off_M2 = seen.focal * camera_M3[:, :2] / z_M[:, None] - seen.xy_M2
    error_M = torch.linalg.norm(off_M2, dim=1)
    error_M = torch.where(z_M <= MIN_DEPTH, torch.inf, error_M)  # NaN stays NaN
    agrees_M = error_M < inlier_px
    last = len(observations) - 1
    index_M = torch.arange(last + 1, dtype=torch.float64, device=agrees_M.device)
    first_N = seen.reduce(torch.where(agrees_M, index_M, last), "min", last).long()
    apart_M3 = seen.direction_M3 - seen.spread(seen.direction_M3[first_N])
    chord_M = torch.where(agrees_M, torch.linalg.norm(apart_M3, dim=1), 0.0)
    angle_N = 2 * torch.arcsin((seen.reduce(chord_M, "max") / 2).clamp(max=1.0))
    return Agreement(error_M.cpu().numpy(), angle_N.cpu().numpy())


def reprojection_errors(
    points_N3: Floats, observations: Observations, structure: Structure
) -> Floats:
    """Distances (M,) in px; infinite behind the camera, NaN where the point is unknown."""
    camera = _in_camera(points_N3, observations, structure)
    depth = camera[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        pixels = structure.focal * camera[:, :2] / depth[:, None]
    error = np.linalg.norm(pixels - observations.xy_M2, axis=1)
    return np.asarray(np.where(depth > MIN_DEPTH, error, np.where(np.isnan(depth), np.nan, np.inf)))


def _in_camera(points_N3: Floats, observations: Observations, structure: Structure) -> Floats:
    R = structure.R_F33[observations.frame_M]
    rotated = np.einsum("mij,mj->mi", R, points_N3[observations.point_M])
    return np.asarray(rotated + structure.t_F3[observations.frame_M])


def _nearest_to_rays(seen: _Sightings) -> Tensor:
    """The points (N, 3) that are nearest to all their rays."""
    d, c = seen.direction_M3, seen.centre_M3
    along = (d * c).sum(1, keepdim=True)
    columns = [float(i == j) - d[:, i] * d[:, j] for i, j in UPPER]
    A_N33, b_N3 = _system(seen, columns, c - along * d)
    A_N33 = A_N33 + 1e-12 * torch.eye(3, dtype=A_N33.dtype, device=A_N33.device)
    return _solved(A_N33, b_N3)


def _improved(guess: _Guess, anchor_N3: Tensor, seen: _Sightings, loss_scale: float) -> Tensor:
    """One damped, reweighted Gauss–Newton step a point, which may not help.

    As in the solver a step is linear in the inverse distance from the anchor.
    """
    R, f = seen.R_M33, seen.focal
    points_N3, camera_M3 = guess.points_N3, guess.camera_M3
    z = camera_M3[:, 2].clamp(min=MIN_DEPTH)
    a, b = camera_M3[:, 0] / z, camera_M3[:, 1] / z
    ru, rv = f * a - seen.xy_M2[:, 0], f * b - seen.xy_M2[:, 1]
    weight = 1.0 / (1.0 + (ru * ru + rv * rv) / loss_scale**2)
    g = f / z
    ju = (R[:, 0] - a[:, None] * R[:, 2]) * g[:, None]
    jv = (R[:, 1] - b[:, None] * R[:, 2]) * g[:, None]
    columns = [weight * (ju[:, i] * ju[:, j] + jv[:, i] * jv[:, j]) for i, j in UPPER]
    right_M3 = weight[:, None] * (ju * ru[:, None] + jv * rv[:, None])
    A_N33, right_N3 = _system(seen, columns, right_M3)
    diagonal_N3 = torch.diagonal(A_N33, dim1=1, dim2=2)
    trace_N1 = diagonal_N3.sum(1, keepdim=True)
    A_N33 = A_N33 + torch.diag_embed(1e-4 * diagonal_N3 + 1e-12 * trace_N1 + 1e-30)
    finite_N = A_N33.isfinite().all(2).all(1)
    unit_33 = torch.eye(3, dtype=A_N33.dtype, device=A_N33.device)
    change_N3 = -_solved(torch.where(finite_N[:, None, None], A_N33, unit_33), right_N3)
    offset_N3 = points_N3 - anchor_N3
    along_N = (change_N3 * offset_N3).sum(1) / (offset_N3 * offset_N3).sum(1).clamp(min=1e-24)
    inverse_N = (1 - along_N).clamp(0.1, 10.0)
    bent_N3 = offset_N3 + change_N3 - along_N[:, None] * offset_N3
    moved_N3: Tensor = anchor_N3 + bent_N3 / inverse_N[:, None]
    return moved_N3


def _system(seen: _Sightings, columns: list[Tensor], right_M3: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (N, 3, 3) of the upper halves of matrices, and (N, 3) of right-hand sides."""
    sums_N9 = seen.reduce(torch.cat([torch.stack(columns, 1), right_M3], 1), "sum")
    A_N33 = sums_N9[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    return A_N33, sums_N9[:, 6:]


def _solved(A_N33: Tensor, b_N3: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve_ex(A_N33, b_N3[..., None])[0]
    return found[..., 0]
