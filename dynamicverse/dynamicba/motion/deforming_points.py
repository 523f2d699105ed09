"""Points of a moving surface that is not rigid: as rigid as possible, smooth in time.

The pixel of a track is taken as exact (half a pixel is a thousandth of the depth), so that only
the depth along its ray is unknown, one number for each point and frame. Three kinds of terms
hold the depths: neighbouring points keep their distance (robustly: parts may bend against each
other), every point moves smoothly through the world, and the object as a whole stays where its
anchors say. Gauss–Newton on the logarithm of depth; the normal equations are sparse and solved
by preconditioned conjugate gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NEIGHBOURS = 5
EVERY = 5  # frames between those in which neighbours are looked for
SHARED = 4  # frames in which two neighbours must both be seen
SMOOTHING = (16.0, 6.0)  # rounds without distances: noise makes them too long
ROBUST = (3.0, 3.0, 3.0, 3.0)  # rounds with them; scale of the robust weights
WHOLE_SIGMA = 0.01  # of the mean of log depth over the points known from outside in a frame
LEAST_INFORMATION = 0.1  # on a step: where nothing else holds a depth it stays
SMOOTH_SIGMA = 0.003  # of the change of motion in one frame, of the depth
REST_FRAMES = 8  # to either side: for so long a distance stays the same
LENGTH_SIGMA = 0.05  # of a distance, besides the noise of its pixels
NOISE_PX = 0.5
LARGEST_STEP = 0.1  # of log depth
CG_STEPS, CG_TOLERANCE = 200, 1e-3


@dataclass(frozen=True)
class Rays:
    """Sightings (S) of the points of one object.

    frame_S, track_S: where; ordered by track, then by frame. centre_S3: of the camera, world.
    ray_S3: direction in the world with unit length along the optical axis. focal: px.
    """

    frame_S: Ints
    track_S: Ints
    centre_S3: Floats
    ray_S3: Floats
    focal: float


@dataclass(frozen=True)
class Deforming:
    """depth_S: along the optical axis; strain: robust relative spread of distances between
    neighbours.
    """

    depth_S: Floats
    strain: float


@dataclass(frozen=True)
class _Terms:
    """Indices of sightings: three in a row of one point; pairs of neighbours in one frame.

    pair_E: the pair that an edge belongs to.
    """

    triple_K3: Ints
    edge_E2: Ints
    pair_E: Ints


def solve_deforming(rays: Rays, start_S: Floats, anchor_S: Floats, sigma_S: Floats) -> Deforming:
    """Depths of all sightings.

    start_S: depths to start from, positive. anchor_S: depths known from outside, and sigma_S how
    well: standard deviation of their logarithm, infinite where nothing is known.
    """
    terms = _terms(rays)
    log_S = np.log(start_S)
    information_S = sigma_S**-2.0
    whole_FS = _whole(rays.frame_S, information_S > 0)
    for robust, stiff in [(r, 0.0) for r in SMOOTHING] + [(r, 1.0) for r in ROBUST]:
        world_S3 = rays.centre_S3 + np.exp(log_S)[:, None] * rays.ray_S3
        rest_E = _rest_lengths(terms, world_S3)
        H, g = _normal_equations(rays, terms, world_S3, log_S, rest_E, robust, stiff)
        difference_S = np.where(information_S > 0, log_S - np.log(anchor_S), 0.0)
        weight_S = information_S / (1 + difference_S**2 * information_S / robust**2)
        system = (H + diags(weight_S + LEAST_INFORMATION)).tocsr()
        right = -(g + weight_S * difference_S + whole_FS.T @ (whole_FS @ difference_S))
        step = _conjugate_gradients(system, whole_FS, right)
        log_S = log_S + np.clip(step, -LARGEST_STEP, LARGEST_STEP)
    world_S3 = rays.centre_S3 + np.exp(log_S)[:, None] * rays.ray_S3
    return Deforming(np.exp(log_S), _strain(terms, world_S3))


def _conjugate_gradients(system: csr_matrix, whole_FS: csr_matrix, right_S: Floats) -> Floats:
    """(system + wholeᵀ·whole)⁻¹·right, preconditioned by the diagonal.

    The product of wholes would couple all points of a frame: it is applied, never formed.
    """
    whole_SF = whole_FS.T.tocsr()
    inverse_S = 1 / (system.diagonal() + np.asarray(whole_SF.power(2).sum(1)).ravel())
    found_S, left_S = np.zeros_like(right_S), right_S.copy()
    enough = CG_TOLERANCE * float(np.linalg.norm(right_S))
    along_S = inverse_S * left_S
    rate = float(left_S @ along_S)
    for _ in range(CG_STEPS):
        if np.linalg.norm(left_S) <= enough:
            break
        product_S = system @ along_S + whole_SF @ (whole_FS @ along_S)
        length = rate / float(along_S @ product_S)
        found_S += length * along_S
        left_S -= length * product_S
        scaled_S = inverse_S * left_S
        before, rate = rate, float(left_S @ scaled_S)
        along_S = scaled_S + rate / before * along_S
    return found_S


def _whole(frame_S: Ints, known_S: Mask) -> csr_matrix:
    """Weights (F, S) of the mean over the known points of each frame.

    What holds single points is weak, since an object is thick; and smooth motion, relative to
    the depth, looks the smoother the farther away it is. The mean holds the object in place.
    """
    sightings = np.flatnonzero(known_S)
    frame_K = frame_S[sightings]
    count_F = np.bincount(frame_K, minlength=int(frame_S.max()) + 1)
    weight_K = 1 / (WHOLE_SIGMA * count_F[frame_K])
    return csr_matrix((weight_K, (frame_K, sightings)), (len(count_F), len(frame_S)))


def _terms(rays: Rays) -> _Terms:
    count = len(rays.frame_S)
    index = np.arange(count)
    first, middle, last = index[:-2], index[1:-1], index[2:]
    same = (rays.track_S[first] == rays.track_S[last]) & (
        rays.frame_S[last] - rays.frame_S[first] == 2
    )
    triple_K3 = np.stack([first, middle, last], 1)[same]
    table = csr_matrix(
        (index + 1, (rays.frame_S, rays.track_S)),
        (int(rays.frame_S.max()) + 1, int(rays.track_S.max()) + 1),
    )
    pairs_P2 = _pairs(rays)
    edges, owner = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    columns = table.tocsc()
    for pair, (i, j) in enumerate(pairs_P2):
        both = _common(columns, i, j)
        if len(both) >= SHARED:
            edges.append(both)
            owner.append(np.full(len(both), pair))
    return _Terms(triple_K3, np.concatenate(edges), np.concatenate(owner))


def _common(columns: csr_matrix, i: int, j: int) -> Ints:
    """Sightings (E, 2) of two tracks in the same frames."""
    rows_i = columns.indices[columns.indptr[i] : columns.indptr[i + 1]]
    rows_j = columns.indices[columns.indptr[j] : columns.indptr[j + 1]]
    _, a, b = np.intersect1d(rows_i, rows_j, assume_unique=True, return_indices=True)
    first = columns.data[columns.indptr[i] : columns.indptr[i + 1]][a] - 1
    second = columns.data[columns.indptr[j] : columns.indptr[j + 1]][b] - 1
    return np.stack([first, second], 1)


def _pairs(rays: Rays) -> Ints:
    """Tracks (P, 2) that are neighbours in some frame."""
    found = [np.zeros((0, 2), np.int64)]
    for frame in np.unique(rays.frame_S)[::EVERY]:
        here = np.flatnonzero(rays.frame_S == frame)
        if len(here) < 2:
            continue
        xy = rays.ray_S3[here] @ _plane_axes(rays.ray_S3[here].mean(0))
        count = min(NEIGHBOURS, len(here) - 1)
        _, near = cKDTree(xy).query(xy, k=range(2, count + 2))
        pairs = np.stack([np.repeat(here, count), here[near.ravel()]], 1)
        found.append(np.sort(rays.track_S[pairs], 1))
    return np.unique(np.concatenate(found), axis=0)


def _plane_axes(direction_3: Floats) -> Floats:
    """Two axes (3, 2) across a direction."""
    return np.asarray(np.linalg.svd(direction_3[None])[2][1:].T)


def _lengths(terms: _Terms, world_S3: Floats) -> Floats:
    difference = world_S3[terms.edge_E2[:, 0]] - world_S3[terms.edge_E2[:, 1]]
    return np.asarray(np.linalg.norm(difference, axis=1))


def _rest_lengths(terms: _Terms, world_S3: Floats) -> Floats:
    """The length of each edge at rest: the mean of its pair over the time around it.

    Over a short time only: a surface may stretch. Edges are ordered by pair, then by time.
    """
    logarithm_E = np.log(np.maximum(_lengths(terms, world_S3), 1e-12))
    total = np.concatenate([[0.0], np.cumsum(logarithm_E)])
    index = np.arange(len(logarithm_E))
    _, first_P, count_P = np.unique(terms.pair_E, return_index=True, return_counts=True)
    first_E, last_E = np.repeat(first_P, count_P), np.repeat(first_P + count_P, count_P)
    low_E = np.maximum(first_E, index - REST_FRAMES)
    high_E = np.minimum(last_E, index + REST_FRAMES + 1)
    return np.asarray(np.exp((total[high_E] - total[low_E]) / (high_E - low_E)))


def _strain(terms: _Terms, world_S3: Floats) -> float:
    if not len(terms.edge_E2):
        return 0.0
    ratio = _lengths(terms, world_S3) / np.maximum(_rest_lengths(terms, world_S3), 1e-12)
    return 1.4826 * float(np.median(np.abs(ratio - 1)))


def _normal_equations(
    rays: Rays,
    terms: _Terms,
    world_S3: Floats,
    log_S: Floats,
    rest_E: Floats,
    robust: float,
    stiff: float,
) -> tuple[csr_matrix, Floats]:
    """JᵀJ and Jᵀr of smoothness and lengths, robustly weighted (Cauchy).

    Both are relative to the depth and to the length, derivatives included: an absolute error
    would shrink whatever is noisy towards the camera.
    """
    v_S3 = world_S3 - rays.centre_S3  # by the logarithm of depth
    depth_S = np.exp(log_S)
    t0, t1, t2 = terms.triple_K3.T
    scale_K1 = 1 / (SMOOTH_SIGMA * depth_S[t1])[:, None]
    r_K3 = (world_S3[t0] - 2 * world_S3[t1] + world_S3[t2]) * scale_K1
    root_K1 = np.sqrt(1 / (1 + np.sum(r_K3**2, 1) / robust**2))[:, None]
    J_K33 = np.stack([v_S3[t0] * scale_K1, -2 * v_S3[t1] * scale_K1 - r_K3, v_S3[t2] * scale_K1], 1)
    J_K33 = J_K33 * root_K1[..., None]
    i, j = terms.edge_E2.T
    difference = world_S3[i] - world_S3[j]
    length_E = np.maximum(np.linalg.norm(difference, axis=1), 1e-12)
    rest_E = np.maximum(rest_E, 1e-12)
    sigma_E = LENGTH_SIGMA + NOISE_PX * depth_S[i] / (rays.focal * rest_E)
    r_E = np.log(length_E / rest_E) / sigma_E
    root_E = np.sqrt(stiff / (1 + r_E**2 / robust**2))
    along_E3 = difference / (length_E**2 * sigma_E)[:, None] * root_E[:, None]
    J_E2 = np.stack([np.sum(along_E3 * v_S3[i], 1), -np.sum(along_E3 * v_S3[j], 1)], 1)
    triples, edges = len(t0), len(i)
    rows = np.concatenate(
        [np.repeat(np.arange(3 * triples), 3), 3 * triples + np.repeat(np.arange(edges), 2)]
    )
    columns = np.concatenate(
        [np.repeat(terms.triple_K3, 3, 0).reshape(-1), terms.edge_E2.reshape(-1)]
    )
    values = np.concatenate([np.swapaxes(J_K33, 1, 2).reshape(-1), J_E2.reshape(-1)])
    J = coo_matrix((values, (rows, columns)), (3 * triples + edges, len(log_S))).tocsr()
    r = np.concatenate([(r_K3 * root_K1).reshape(-1), r_E * root_E])
    return (J.T @ J).tocsr(), np.asarray(J.T @ r)
