"""Points from many views with known cameras, all points at once (NumPy).

Sums over the observations of a point are `bincount`s, so the work is linear in observations.
"""

from __future__ import annotations

import numpy as np

from dynamicverse.dynamicba.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.solver import Structure

MIN_DEPTH = 1e-6
ROUNDS = 6  # Gauss–Newton rounds; from the linear start three or four are enough
FAR = 1000.0  # baselines: a point farther than this is as good as at infinity


def triangulate(
    observations: Observations, structure: Structure, count: int, loss_scale: float
) -> Floats:
    """Triangulate `count` points (N, 3); NaN where there are fewer than two observations.

    Linear start (the point nearest to all rays; far away on the first ray where the rays do not
    meet in front), then reweighted Gauss–Newton on the reprojection error with a Cauchy loss of
    `loss_scale` px. A point may still be far from an outlying observation: the caller tests
    `reprojection_errors`.
    """
    index = observations.point_M
    directions, centres = _world_rays(observations, structure)
    anchor, ray = _first(index, centres, count), _first(index, directions, count)
    baseline = np.zeros(count)
    np.maximum.at(baseline, index, np.linalg.norm(centres - anchor[index], axis=1))
    farthest = FAR * np.maximum(baseline, MIN_DEPTH)
    points = _nearest_to_rays(index, directions, centres, count)
    distance = np.sum((points - anchor) * ray, 1)
    astray = ~((distance > 0) & (distance < farthest))
    points[astray] = (anchor + farthest[:, None] * ray)[astray]
    points[np.bincount(index, minlength=count) < 2] = np.nan
    for _ in range(ROUNDS):
        points = _improve(points, anchor, observations, structure, loss_scale)
    return points


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


def _sum(values_M: Floats, point_M: Indices, count: int) -> Floats:
    return np.bincount(point_M, values_M, minlength=count).astype(np.float64)


def _nearest_to_rays(
    point_M: Indices,
    directions_M3: Floats,
    centres_M3: Floats,
    count: int,
) -> Floats:
    d, c = directions_M3, centres_M3
    along = np.sum(d * c, 1)
    A = np.empty((count, 3, 3))
    b = np.empty((count, 3))
    for i in range(3):
        for j in range(i + 1):
            A[:, i, j] = A[:, j, i] = _sum(float(i == j) - d[:, i] * d[:, j], point_M, count)
        b[:, i] = _sum(c[:, i] - along * d[:, i], point_M, count)
    A += 1e-12 * np.eye(3)
    return np.asarray(np.linalg.solve(A, b[..., None])[..., 0])


def _improve(
    points: Floats,
    anchor: Floats,
    observations: Observations,
    structure: Structure,
    loss_scale: float,
) -> Floats:
    """One damped, reweighted Gauss–Newton step a point; steps that do not help are undone.

    As in the solver a step is linear in the inverse distance from the anchor.
    """
    count, index = len(points), observations.point_M
    R, f = structure.R_F33[observations.frame_M], structure.focal
    camera = _in_camera(points, observations, structure)
    z = np.maximum(camera[:, 2], MIN_DEPTH)
    a, b = camera[:, 0] / z, camera[:, 1] / z
    ru, rv = f * a - observations.xy_M2[:, 0], f * b - observations.xy_M2[:, 1]
    weight = 1.0 / (1.0 + (ru * ru + rv * rv) / loss_scale**2)
    g = f / z
    ju = (R[:, 0] - a[:, None] * R[:, 2]) * g[:, None]
    jv = (R[:, 1] - b[:, None] * R[:, 2]) * g[:, None]
    A = np.empty((count, 3, 3))
    right = np.empty((count, 3))
    for i in range(3):
        for j in range(i + 1):
            entry = weight * (ju[:, i] * ju[:, j] + jv[:, i] * jv[:, j])
            A[:, i, j] = A[:, j, i] = _sum(entry, index, count)
        right[:, i] = _sum(weight * (ju[:, i] * ru + jv[:, i] * rv), index, count)
    diagonal = np.einsum("nii->ni", A)
    diagonal += 1e-4 * diagonal + 1e-12 * diagonal.sum(1, keepdims=True) + 1e-30
    A[~np.isfinite(A).all((1, 2))] = np.eye(3)
    change = -np.linalg.solve(A, right[..., None])[..., 0]
    offset = points - anchor
    along = np.sum(change * offset, 1) / np.maximum(np.sum(offset * offset, 1), 1e-24)
    inverse = np.clip(1 - along, 0.1, 10.0)
    moved = anchor + (offset + change - along[:, None] * offset) / inverse[:, None]
    before = _cost(points, observations, structure, loss_scale)
    after = _cost(moved, observations, structure, loss_scale)
    return np.where((after < before)[:, None], moved, points)


def _cost(
    points: Floats, observations: Observations, structure: Structure, loss_scale: float
) -> Floats:
    """Cauchy cost (N,); an observation behind its camera counts as one far off."""
    error = np.minimum(reprojection_errors(points, observations, structure), 1e6)
    return _sum(np.log1p((error / loss_scale) ** 2), observations.point_M, len(points))


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
