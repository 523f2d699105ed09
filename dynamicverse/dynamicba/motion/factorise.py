"""Shape and motion of a small rigid object from its tracks, in closed form.

Tomasi and Kanade, "Shape and motion from image streams under orthography", IJCV 1992, grown
over tracks that are seen in some views only, with the metric constraints of scaled orthography
(Poelman and Kanade, 1997). Every view is first turned so that the object is in its middle: there
an affine camera is good for any small object, while essential matrices are not determined by so
narrow a cone of rays. The depth of the object may come out reversed (Necker): only perspective
tells the two solutions apart, later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats
from dynamicverse.dynamicba.cameras.graph import Mask
from dynamicverse.geometry.lie import nearest_rotation

FLATTEST = 0.02  # least eigenvalue of the metric, relative to the largest
LEAST_TRACKS = 8  # of a window, and known ones of a view that is added
LEAST_SIGHTINGS = 3  # of a track that is added
SPANS = (5, 9, 17, 33)  # views of the windows that are looked at
WINDOW_VIEWS = 8  # of a window that are used
ENOUGH_TRACKS = 40  # more do not make a window better
ROUNDS = 20  # of alternation, views and points in turn
PLANAR = 1e-3  # least relative eigenvalue of the points that a view is solved from
VAGUE = 0.5  # largest standard deviation of a point, in standard deviations of the shape


@dataclass(frozen=True)
class ShapeMotion:
    """Views x = R·X + t of an object, in a unit of its own, and its points; NaN where unknown.

    R_V33, t_V3: object to camera. points_N3: in the object's frame.
    """

    R_V33: Floats
    t_V3: Floats
    points_N3: Floats

    @property
    def known_V(self) -> Mask:
        """Views that have a pose."""
        return np.isfinite(self.t_V3[:, 0])


@dataclass
class Affine:
    """Affine views u = A·X + b and points; NaN where unknown."""

    A_V23: Floats
    b_V2: Floats
    points_N3: Floats


def reconstruct(rays_VN2: Floats, visible_VN: Mask, noise: float) -> ShapeMotion | None:
    """A shape that explains the tracks of an object; the other one is its reversal.

    rays_VN2: x/z, y/z in the cameras, anything where not visible. noise: typical error of
    these. None where too little is tracked, or where the object shows no relief: it is flat, or
    never turns.
    """
    turn_V33, plane_VN2 = turn_towards(rays_VN2, visible_VN)
    start = _best_window(plane_VN2, visible_VN, noise)
    if start is None:
        return None
    affine = _start(plane_VN2, start)
    _grow(affine, plane_VN2, visible_VN, noise)
    shape = _upgrade(affine)
    if shape is None:
        return None
    back = np.swapaxes(turn_V33, 1, 2)
    t_V3 = (back @ shape.t_V3[..., None])[..., 0]
    return ShapeMotion(back @ shape.R_V33, t_V3, shape.points_N3)


def look_at(axis_V3: Floats) -> Floats:
    """Rotations (V,3,3) from cameras to ones that look along the given directions."""
    axis = axis_V3 / np.linalg.norm(axis_V3, axis=1, keepdims=True)
    x = np.stack([axis[:, 2], np.zeros(len(axis)), -axis[:, 0]], 1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(axis, x), axis], 1)


def turn_towards(rays_VN2: Floats, visible_VN: Mask) -> tuple[Floats, Floats]:
    """Rotations (V,3,3) from each camera to one that looks at the object, and x/z, y/z there.

    NaN where not visible.
    """
    bearings = np.concatenate([rays_VN2, np.ones((*rays_VN2.shape[:2], 1))], -1)
    bearings /= np.linalg.norm(bearings, axis=-1, keepdims=True)
    bearings[~visible_VN] = 0
    axis_V3 = bearings.sum(1)
    axis_V3[np.linalg.norm(axis_V3, axis=1) == 0] = (0, 0, 1)
    turn_V33 = look_at(axis_V3)
    turned = bearings @ np.swapaxes(turn_V33, 1, 2)
    turned[~visible_VN] = np.nan
    return turn_V33, turned[..., :2] / turned[..., 2:]


def _best_window(
    plane_VN2: Floats, visible_VN: Mask, noise: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Views and tracks seen in all of them, with the most relief beyond the noise."""
    best, score = None, 0.0
    views = len(plane_VN2)
    for span in sorted({min(s, views) for s in SPANS}):
        for first in range(0, views - span + 1, max(1, span // 3)):
            inside = np.linspace(first, first + span - 1, min(span, WINDOW_VIEWS))
            window = np.unique(inside.round().astype(int))
            tracks = np.flatnonzero(visible_VN[window].all(0))
            if len(tracks) < LEAST_TRACKS:
                continue
            matrix = _matrix(plane_VN2[np.ix_(window, tracks)])
            singular = np.linalg.svd(matrix, compute_uv=False) / np.sqrt(matrix.size / 2)
            beyond = singular[2] / max(singular[3], noise) if len(singular) > 3 else 0.0
            value = (beyond - 1) * min(1.0, len(tracks) / ENOUGH_TRACKS)
            if value > score:
                best, score = (window, tracks), value
    return best


def _matrix(plane_VN2: Floats) -> Floats:
    """Measurements (2V, N) relative to the mean of each view: all x, then all y."""
    centred = plane_VN2 - plane_VN2.mean(1, keepdims=True)
    return np.concatenate([centred[..., 0], centred[..., 1]])


def _start(plane_VN2: Floats, window: tuple[np.ndarray, np.ndarray]) -> Affine:
    """Factorise a window."""
    views, tracks = window
    count, total = plane_VN2.shape[:2]
    affine = Affine(
        np.full((count, 2, 3), np.nan), np.full((count, 2), np.nan), np.full((total, 3), np.nan)
    )
    plane = plane_VN2[np.ix_(views, tracks)]
    U, singular, Vt = np.linalg.svd(_matrix(plane), full_matrices=False)
    root = np.sqrt(len(tracks))
    motion = (U[:, :3] * singular[:3] / root).reshape(2, len(views), 3)
    affine.A_V23[views] = np.swapaxes(motion, 0, 1)
    affine.b_V2[views] = plane.mean(1)
    affine.points_N3[tracks] = Vt[:3].T * root
    return affine


def _grow(affine: Affine, plane_VN2: Floats, visible_VN: Mask, noise: float) -> None:
    """Add points and views in turn until no more can be, then alternate over all."""
    known = -1
    while (now := _known(affine)) > known:
        known = now
        _solve_points(affine, plane_VN2, visible_VN, noise)
        _solve_views(affine, plane_VN2, visible_VN, noise)
    for _ in range(ROUNDS):
        _solve_points(affine, plane_VN2, visible_VN, noise)
        _solve_views(affine, plane_VN2, visible_VN, noise)


def _known(affine: Affine) -> int:
    return int(np.isfinite(affine.b_V2[:, 0]).sum() + np.isfinite(affine.points_N3[:, 0]).sum())


def _weights(affine: Affine, plane_VN2: Floats, visible_VN: Mask, noise: float) -> Floats:
    """Cauchy weights (V, N) of the observations between known views and points; 1 if new."""
    predicted = affine.points_N3 @ np.swapaxes(affine.A_V23, 1, 2) + affine.b_V2[:, None]
    error = np.sum((predicted - plane_VN2) ** 2, -1)
    known = np.isfinite(error)
    scale = max(noise**2, float(np.median(error[known])) if known.any() else 0.0)
    weight = 1 / (1 + np.where(known, error, 0.0) / (4 * scale))
    return np.asarray(weight * visible_VN)


def _solve_points(affine: Affine, plane_VN2: Floats, visible_VN: Mask, noise: float) -> None:
    weight = _weights(affine, plane_VN2, visible_VN, noise)
    known_V = np.isfinite(affine.b_V2[:, 0])
    A, w = affine.A_V23[known_V], weight[known_V]
    right = np.nan_to_num(plane_VN2[known_V] - affine.b_V2[known_V, None])
    outer = np.einsum("vij,vik->vjk", A, A).reshape(len(A), 9)
    normal = (w.T @ outer).reshape(-1, 3, 3)
    moment = np.einsum("vij,vni->nj", A, w[..., None] * right, optimize=True)
    least_K = np.linalg.eigvalsh(normal)[:, 0]
    enough = (visible_VN[known_V].sum(0) >= LEAST_SIGHTINGS) & (least_K > (noise / VAGUE) ** 2)
    affine.points_N3[:] = np.nan
    affine.points_N3[enough] = np.linalg.solve(normal[enough], moment[enough][..., None])[..., 0]


def _solve_views(affine: Affine, plane_VN2: Floats, visible_VN: Mask, noise: float) -> None:
    weight = _weights(affine, plane_VN2, visible_VN, noise)
    known_N = np.isfinite(affine.points_N3[:, 0])
    X = np.concatenate([affine.points_N3[known_N], np.ones((int(known_N.sum()), 1))], 1)
    w = weight[:, known_N]
    normal = (w @ (X[:, :, None] * X[:, None]).reshape(len(X), 16)).reshape(-1, 4, 4)
    right = w[..., None] * np.nan_to_num(plane_VN2[:, known_N])
    moment = X.T @ right
    values = np.linalg.eigvalsh(normal)
    enough = (visible_VN[:, known_N].sum(1) >= LEAST_TRACKS) & (
        values[:, 0] > PLANAR * values[:, -1]
    )
    affine.A_V23[:], affine.b_V2[:] = np.nan, np.nan
    solved = np.swapaxes(np.linalg.solve(normal[enough], moment[enough]), 1, 2)
    affine.A_V23[enough], affine.b_V2[enough] = solved[..., :3], solved[..., 3]


def _upgrade(affine: Affine) -> ShapeMotion | None:
    """Make the affine views scaled orthographic, and place the object along their axes."""
    known = np.flatnonzero(np.isfinite(affine.b_V2[:, 0]))
    if len(known) < LEAST_SIGHTINGS:
        return None
    Q = _metric(affine.A_V23[known, 0], affine.A_V23[known, 1])
    if Q is None:
        return None
    axes = affine.A_V23[known] @ Q
    scale = np.linalg.norm(axes, axis=2).mean(1)
    unit = axes / scale[:, None, None]
    R = nearest_rotation(np.concatenate([unit, np.cross(unit[:, 0], unit[:, 1])[:, None]], 1))
    views = len(affine.b_V2)
    shape = ShapeMotion(
        np.full((views, 3, 3), np.nan),
        np.full((views, 3), np.nan),
        np.asarray(np.linalg.solve(Q, affine.points_N3.T).T, np.float64),
    )
    shape.R_V33[known] = R
    ones = np.ones((len(known), 1))
    shape.t_V3[known] = np.concatenate([affine.b_V2[known], ones], 1) / scale[:, None]
    return shape


def _metric(x_V3: Floats, y_V3: Floats) -> Floats | None:
    """Q (3, 3) that makes x·Q and y·Q of each view equally long and perpendicular."""
    xx, yy = _quadratic(x_V3, x_V3), _quadratic(y_V3, y_V3)
    size_V = np.sum(x_V3**2 + y_V3**2, 1)[:, None]
    rows = np.concatenate([(xx - yy) / size_V, 2 * _quadratic(x_V3, y_V3) / size_V])
    length = ((xx + yy) / size_V).mean(0)
    weight = 10.0 * len(rows)
    design = np.concatenate([rows, weight * length[None]])
    c = np.linalg.lstsq(design, np.append(np.zeros(len(rows)), weight))[0]
    C = np.array([[c[0], c[1], c[2]], [c[1], c[3], c[4]], [c[2], c[4], c[5]]])
    values, vectors = np.linalg.eigh(C)
    if values[2] <= 0:
        return None
    return np.asarray(vectors * np.sqrt(np.maximum(values, FLATTEST * values[2])))


def _quadratic(a_V3: Floats, b_V3: Floats) -> Floats:
    """aᵀ·C·b as rows for the six entries of a symmetric C."""
    (a0, a1, a2), (b0, b1, b2) = a_V3.T, b_V3.T
    crossed = (a0 * b1 + a1 * b0, a0 * b2 + a2 * b0, a1 * b2 + a2 * b1)
    return np.stack([a0 * b0, crossed[0], crossed[1], a1 * b1, crossed[2], a2 * b2], 1)
