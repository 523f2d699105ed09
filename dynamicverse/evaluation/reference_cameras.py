"""The cameras of a reference, refined by its own pictures and depth.

The poses that a headset gives are off by a pixel or two over a few frames, more than a good
tracker. To judge tracks by them they are refined first, by means of their own: SIFT matches
between frames (no tracker takes part), the point of each match by the depth map of its first
frame, and Gauss-Newton over all poses, which a prior holds near those given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.evaluation.reprojection import SPAN, STRIDE, Depth, carry, read_depth
from dynamicverse.geometry.lie import Array, hat, se3, se3_inverse, so3_exp, so3_log, transform
from dynamicverse.geometry.projection import rays

Picture = Callable[[int], npt.NDArray[np.uint8]]

FEATURES = 2000  # a picture
RATIO = 0.75  # of the distances to the best and the second best descriptor
SPANS = (1, 2, 4, 8)  # frames between matched pictures
FEWEST = 20  # matches of two pictures
EPIPOLAR = 1.5  # px
GROSS = 20.0  # px; matches farther from the given poses are wrong
SIGMA_TURN, SIGMA_MOVE = np.radians(0.5), 0.02  # rad, m: how far off the poses may be
SIGMA_PIXEL = 0.7  # px, of the Cauchy loss
ITERATIONS = 15


@dataclass(frozen=True)
class _Link:
    """Matches of two frames: points in the first camera, pixels in the second."""

    source: int
    target: int
    points_N3: Array
    pixels_N2: Array


def refined_cameras(
    picture: Picture, depth: Callable[[int], Depth], c2w_F44: npt.ArrayLike, K_33: npt.ArrayLike
) -> Array:
    """Camera-to-world (F,4,4) in metres that agree with grey pictures (H,W) and depth (H,W)."""
    given, K = np.asarray(c2w_F44, np.float64), np.asarray(K_33, np.float64)
    links, cameras = list(_links(picture, depth, given, K)), given.copy()
    for _ in range(ITERATIONS):
        step_F6 = _step(cameras, given, links, K)
        cameras = cameras @ se3(so3_exp(step_F6[:, :3]), step_F6[:, 3:])
        if np.abs(step_F6).max() < 1e-6:
            break
    return cameras


def disagreement(
    tracks_FN2: npt.ArrayLike,
    visible_FN: npt.ArrayLike,
    given_F44: Array,
    refined_F44: Array,
    K_33: npt.ArrayLike,
    depth: Callable[[int], Depth],
) -> float:
    """How far apart two sets of cameras carry the points of tracks over SPAN frames: median,
    px. What perfect tracks by the second would be off by the first (`reprojection-8`)."""
    tracks, visible = np.asarray(tracks_FN2, np.float64), np.asarray(visible_FN, np.bool_)
    K, apart = np.asarray(K_33, np.float64), []
    for frame in range(0, len(tracks) - SPAN, STRIDE):
        later = frame + SPAN
        then = tracks[frame, visible[frame] & visible[later]]
        (one, known), (two, _) = (
            carry(then, se3_inverse(c[later]) @ c[frame], K, depth(frame), depth(later))
            for c in (given_F44, refined_F44)
        )
        apart.append(np.linalg.norm(one - two, axis=1)[known])
    return float(np.median(np.concatenate(apart)))


def _links(
    picture: Picture, depth: Callable[[int], Depth], given_F44: Array, K_33: Array
) -> Iterator[_Link]:
    finder = cv2.SIFT.create(FEATURES)
    found = [_features(finder, picture(frame)) for frame in range(len(given_F44))]
    for span in SPANS:
        for source in range(0, len(found) - span, max(1, span // 2)):
            target = source + span
            here, there = _matches(found[source], found[target])
            motion = se3_inverse(given_F44[target]) @ given_F44[source]
            expected, known = carry(here, motion, K_33, depth(source), depth(target))
            known &= np.linalg.norm(expected - there, axis=1) < GROSS
            if known.sum() >= FEWEST:
                z_N1 = read_depth(depth(source), here[known])[:, None]
                yield _Link(source, target, rays(here[known], K_33) * z_N1, there[known])


def _features(
    finder: cv2.SIFT, picture_HW: npt.NDArray[np.uint8]
) -> tuple[Array, npt.NDArray[np.float32]]:
    points, descriptors = finder.detectAndCompute(picture_HW, None)
    if not points:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    return np.array([p.pt for p in points], np.float64), np.asarray(descriptors, np.float32)


def _matches(
    first: tuple[Array, npt.NDArray[np.float32]], second: tuple[Array, npt.NDArray[np.float32]]
) -> tuple[Array, Array]:
    """Pixels (N,2) that match both ways, clearly, and by one epipolar geometry."""
    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    if min(len(first[0]), len(second[0])) < FEWEST:
        return nothing
    product = first[1] @ second[1].T
    squares = [np.square(descriptors).sum(axis=1) for _, descriptors in (first, second)]
    distance = np.sqrt(np.maximum(squares[0][:, None] + squares[1] - 2 * product, 0))
    best, two = distance.argmin(axis=1), np.partition(distance, 1, axis=1)[:, :2]
    mutual = distance.argmin(axis=0)[best] == np.arange(len(best))
    rows = np.flatnonzero(mutual & (two[:, 0] < RATIO * two[:, 1]))
    here, there = first[0][rows], second[0][best[rows]]
    if len(rows) < FEWEST:
        return nothing
    _, fits = cv2.findFundamentalMat(here, there, cv2.USAC_MAGSAC, EPIPOLAR, 0.9999, 10_000)
    if fits is None:
        return nothing
    agree = fits[:, 0] > 0
    return here[agree], there[agree]


def _step(cameras_F44: Array, given_F44: Array, links: list[_Link], K_33: Array) -> Array:
    """One Gauss-Newton step (F,6) of turns and moves in the frames of the cameras."""
    count = len(cameras_F44)
    normal, gradient = np.zeros((6 * count, 6 * count)), np.zeros(6 * count)
    for link in links:
        jacobian_N2V, residual_N2 = _linearised(cameras_F44, link, K_33)
        weight_N = 1 / (1 + np.square(residual_N2).sum(axis=1) / SIGMA_PIXEL**2)
        at = np.concatenate([6 * f + np.arange(6) for f in (link.source, link.target)])
        weighted = jacobian_N2V * weight_N[:, None, None]
        normal[np.ix_(at, at)] += np.einsum("nij,nik->jk", weighted, jacobian_N2V)
        gradient[at] += np.einsum("nij,ni->j", weighted, residual_N2)
    off = se3_inverse(given_F44) @ cameras_F44
    prior_6 = np.array([SIGMA_TURN] * 3 + [SIGMA_MOVE] * 3) ** -2.0
    normal[np.diag_indices(6 * count)] += np.tile(prior_6, count)
    off_F6 = np.concatenate([so3_log(off[:, :3, :3]), off[:, :3, 3]], axis=1)
    gradient += (off_F6 * prior_6).ravel()
    return np.asarray(-np.linalg.solve(normal, gradient).reshape(count, 6))


def _linearised(cameras_F44: Array, link: _Link, K_33: Array) -> tuple[Array, Array]:
    """Jacobian (N,2,12) by the steps of both cameras, and residuals (N,2) in px."""
    motion = se3_inverse(cameras_F44[link.target]) @ cameras_F44[link.source]
    seen_N3 = transform(motion, link.points_N3)
    z_N1 = seen_N3[:, 2:]
    pixels_N2 = (seen_N3 / z_N1) @ K_33.T[:, :2]
    project_N23 = (K_33[None, :2] - pixels_N2[..., None] * K_33[None, 2:]) / z_N1[..., None]
    unit = np.broadcast_to(np.eye(3), (len(seen_N3), 3, 3))
    of_source = motion[:3, :3] @ np.concatenate([-hat(link.points_N3), unit], axis=2)
    of_target = -np.concatenate([-hat(seen_N3), unit], axis=2)
    jacobian_N2V = project_N23 @ np.concatenate([of_source, of_target], axis=2)
    return jacobian_N2V, pixels_N2 - link.pixels_N2
