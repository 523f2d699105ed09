"""Points from many views with known cameras, all points at once (torch, float64).

Sums over the observations of a point are sums over segments, in the order of the observations:
the work is linear in observations, and the same at every call, on a GPU too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.bundle.solver import Structure

MIN_DEPTH = 1e-6
ROUNDS = 6  # Gauss–Newton rounds; from the linear start three or four are enough
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
    for _ in range(ROUNDS):
        points_N3 = _improve(points_N3, anchor_N3, seen, loss_scale)
    return np.asarray(points_N3.cpu().numpy(), np.float64)


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

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Sums or largest values (N, …) over the observations of each point; 0 without any."""
        reduced: Tensor = torch.segment_reduce(values, how, lengths=self.count_N, axis=0, initial=0)
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

    def cost(self, points_N3: Tensor, loss_scale: float) -> Tensor:
        """Cauchy cost (N,); an observation behind its camera counts as one far off."""
        camera_M3 = self.camera(points_N3)
        z_M = camera_M3[:, 2]
        off_M2 = self.focal * camera_M3[:, :2] / z_M[:, None] - self.xy_M2
        error_M = torch.linalg.norm(off_M2, dim=1).clamp(max=1e6)
        error_M = torch.where(z_M <= MIN_DEPTH, 1e6, error_M)  # NaN stays NaN
        return self.reduce(torch.log1p((error_M / loss_scale) ** 2), "sum")


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


def triangulation_angles(observations: Observations, structure: Structure, count: int) -> Floats:
    """Largest angle (N,) in radians between the first ray of a point and its others."""
    directions, _ = _world_rays(observations, structure)
    return _angles(observations.point_M, directions, count)


def _world_rays(observations: Observations, structure: Structure) -> tuple[Floats, Floats]:
    """Unit directions and camera centres (M, 3)."""
    ones = np.full((len(observations), 1), structure.focal)
    local = np.concatenate([observations.xy_M2, ones], 1)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    R = structure.R_F33[observations.frame_M]
    centres_F3 = -np.einsum("fji,fj->fi", structure.R_F33, structure.t_F3)
    return np.einsum("mji,mj->mi", R, local), centres_F3[observations.frame_M]


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


def _improve(points_N3: Tensor, anchor_N3: Tensor, seen: _Sightings, loss_scale: float) -> Tensor:
    """One damped, reweighted Gauss–Newton step a point; steps that do not help are undone.

    As in the solver a step is linear in the inverse distance from the anchor.
    """
    R, f = seen.R_M33, seen.focal
    camera_M3 = seen.camera(points_N3)
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
    moved_N3 = anchor_N3 + bent_N3 / inverse_N[:, None]
    better_N = seen.cost(moved_N3, loss_scale) < seen.cost(points_N3, loss_scale)
    return torch.where(better_N[:, None], moved_N3, points_N3)


def _system(seen: _Sightings, columns: list[Tensor], right_M3: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (N, 3, 3) of the upper halves of matrices, and (N, 3) of right-hand sides."""
    sums_N9 = seen.reduce(torch.cat([torch.stack(columns, 1), right_M3], 1), "sum")
    A_N33 = sums_N9[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    return A_N33, sums_N9[:, 6:]


def _solved(A_N33: Tensor, b_N3: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve_ex(A_N33, b_N3[..., None])[0]
    return found[..., 0]


def _angles(point_M: Indices, directions_M3: Floats, count: int) -> Floats:
    first = _first(point_M, directions_M3, count)
    chord = np.linalg.norm(directions_M3 - first[point_M], axis=1)
    largest = np.zeros(count)
    np.maximum.at(largest, point_M, chord)
    return np.asarray(2 * np.arcsin(np.minimum(largest / 2, 1.0)))


def _first(point_M: Indices, values_M3: Floats, count: int) -> Floats:
    """The value of the first observation of each point (N, 3)."""
    first = np.zeros((count, 3))
    first[point_M[::-1]] = values_M3[::-1]  # the last write wins
    return first
