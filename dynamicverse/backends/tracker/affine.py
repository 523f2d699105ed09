"""Affine templates: the appearance of a point where it was first seen, found again later.

Shi and Tomasi, "Good features to track" (CVPR 1994): steps from frame to frame with a
translation, comparison with the first appearance under an affine warp. The alignment is
inverse-compositional (Baker and Matthews, IJCV 2004) on patches of zero mean and unit
norm, so brightness and contrast may change.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

BLUR = 1.0  # px, standard deviation of the smoothing before patches are sampled
STRIDE = 2.0  # px between samples of a patch
RADIUS = 5  # samples to each side: the patch is 11×11 samples, 21 px wide
AFFINE_STEP = 0.05  # standard deviation of what one iteration may change in the warp
NOISE = 2.0  # grey levels after smoothing
_MAX_ROWS = 30_000  # cv2.remap takes less than 2**15 rows

_REACH = STRIDE * np.arange(-RADIUS, RADIUS + 1, dtype=np.float32)
GRID_P2: Array = np.stack(np.meshgrid(_REACH, _REACH), axis=-1).reshape(-1, 2)
_SEARCH = np.arange(-3, 4, dtype=np.float32) * STRIDE
SEARCH_O2: Array = np.stack(np.meshgrid(_SEARCH, _SEARCH), axis=-1).reshape(-1, 2)
PATCH_SIDE = int(2 * RADIUS * STRIDE) + 1  # px


@dataclass
class Templates:
    """K templates. patch_KP: zero mean, unit norm. steepest_KP6: change of the patch with
    the warp parameters (four affine, two translation). inverse_K66: inverse Hessian."""

    patch_KP: Array
    steepest_KP6: Array
    inverse_K66: Array

    def __getitem__(self, rows: npt.NDArray[np.generic]) -> Templates:
        return Templates(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __setitem__(self, rows: npt.NDArray[np.generic], other: Templates) -> None:
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    def join(self, other: Templates) -> Templates:
        return Templates(
            *(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self))
        )


def smooth(image: npt.NDArray[np.uint8]) -> Array:
    """The grey image (H,W) as patches are sampled from it."""
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), BLUR), np.float32)


def sample(image: Array, points_KP2: Array) -> Array:
    """Bilinear values (K,P); beyond the border the border value."""
    count, samples = points_KP2.shape[:2]
    values_KP = np.empty((count, samples), np.float32)
    for start in range(0, count, _MAX_ROWS):
        rows = slice(start, start + _MAX_ROWS)
        values_KP[rows] = cv2.remap(  # type: ignore[call-overload]  # one map holds x and y
            image,
            np.ascontiguousarray(points_KP2[rows], np.float32),
            None,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return values_KP


def normalise(values_KP: Array) -> tuple[Array, Array]:
    """Zero mean and unit norm along P, and the norm (K,1); flat patches become zero."""
    centred = values_KP - values_KP.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("kp,kp->k", centred, centred))[:, None]
    least = np.float32(np.sqrt(values_KP.shape[1]))  # one grey level of contrast
    return np.where(norm > least, centred / np.maximum(norm, least), np.float32(0.0)), norm


def templates(image: Array, points_K2: Array) -> Templates:
    """Templates of a smoothed image around points (K,2)."""
    grid_KP2 = points_K2[:, None] + GRID_P2
    patch_KP, norm_K1 = normalise(sample(image, grid_KP2))
    slope_KP2 = (
        np.stack(
            [
                sample(image, grid_KP2 + d) - sample(image, grid_KP2 - d)
                for d in np.array([[0.5, 0.0], [0.0, 0.5]], np.float32)
            ],
            axis=-1,
        )
        / np.maximum(norm_K1, 1.0)[..., None]
    )
    x, y = GRID_P2[:, 0], GRID_P2[:, 1]
    gx, gy = slope_KP2[..., 0], slope_KP2[..., 1]
    steepest = np.stack([gx * x, gx * y, gy * x, gy * y, gx, gy], axis=-1)
    # the patch is compared after mean and norm are taken out, so take them out here too
    steepest -= steepest.mean(axis=1, keepdims=True)
    steepest -= patch_KP[..., None] * (patch_KP[:, None] @ steepest)
    hessian = steepest.transpose(0, 2, 1) @ steepest
    variance_K1 = (NOISE / np.maximum(norm_K1, 1.0)) ** 2
    prior_6 = np.array([1 / AFFINE_STEP**2] * 4 + [1.0] * 2, np.float32)
    hessian[:, range(6), range(6)] += variance_K1 * prior_6
    return Templates(
        patch_KP, steepest.astype(np.float32), np.linalg.inv(hessian).astype(np.float32)
    )


def align(
    image: Array, wanted: Templates, points_K2: Array, warp_K22: Array, iterations: int
) -> tuple[Array, Array, Array]:
    """Find templates in a smoothed image, from a guess of position and warp.

    Returns positions (K,2), warps (K,2,2) from template to image offsets, and the
    correlation there (K,).
    """
    points, warp = points_K2.astype(np.float32), warp_K22.astype(np.float32)
    eye = np.eye(2, dtype=np.float32)
    for _ in range(iterations):
        residual_KP = _seen(image, points, warp) - wanted.patch_KP
        slope_K16 = residual_KP[:, None] @ wanted.steepest_KP6
        delta_K6 = (slope_K16 @ wanted.inverse_K66)[:, 0]  # the inverse is symmetric
        limited = np.clip(delta_K6[:, :4], -0.2, 0.2).reshape(-1, 2, 2)
        warp = warp @ np.linalg.inv(eye + limited)
        points = points - np.einsum("kij,kj->ki", warp, delta_K6[:, 4:])
    similarity_K = np.einsum("kp,kp->k", _seen(image, points, warp), wanted.patch_KP)
    return points, warp, similarity_K


def search(
    image: Array, wanted: Templates, points_K2: Array, warp_K22: Array
) -> tuple[Array, Array]:
    """The best of a square of positions around a guess (K,2), by correlation.

    Returns positions (K,2), and the best correlation (K,) of those that are no neighbours
    of it: what a repeated pattern or an edge would show.
    """
    reach_KP2 = GRID_P2 @ warp_K22.transpose(0, 2, 1)
    similarity_KO = np.empty((len(points_K2), len(SEARCH_O2)), np.float32)
    for k, offset_2 in enumerate(SEARCH_O2):
        seen_KP, _ = normalise(sample(image, (points_K2 + offset_2)[:, None] + reach_KP2))
        similarity_KO[:, k] = np.einsum("kp,kp->k", seen_KP, wanted.patch_KP)
    best_K = similarity_KO.argmax(axis=1)
    apart_OO = np.abs(SEARCH_O2[:, None] - SEARCH_O2).max(axis=2) > 1.5 * STRIDE
    rival_K = np.where(apart_OO[best_K], similarity_KO, -1.0).max(axis=1).astype(np.float32)
    return points_K2 + SEARCH_O2[best_K], rival_K


def _seen(image: Array, points_K2: Array, warp_K22: Array) -> Array:
    grid_KP2 = points_K2[:, None] + GRID_P2 @ warp_K22.transpose(0, 2, 1)
    return normalise(sample(image, grid_KP2))[0]
