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

REACH_R: Array = STRIDE * np.arange(-RADIUS, RADIUS + 1, dtype=np.float32)
SEARCH = 3  # samples to each side that a search looks
WIDE_W: Array = STRIDE * np.arange(-RADIUS - SEARCH, RADIUS + SEARCH + 1, dtype=np.float32)
_STEPS = STRIDE * np.arange(-SEARCH, SEARCH + 1, dtype=np.float32)
SEARCH_O2: Array = np.stack(np.meshgrid(_STEPS, _STEPS), axis=-1).reshape(-1, 2)
PATCH_SIDE = int(2 * RADIUS * STRIDE) + 1  # px


@dataclass
class Templates:
    """K templates. patch_KP: zero mean, unit norm. steepest_K6P: change of the patch with
    the warp parameters (four affine, two translation). inverse_K66: inverse Hessian."""

    patch_KP: Array
    steepest_K6P: Array
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


def sample(image: Array, points_K2: Array, warp_K22: Array, reach_R: Array = REACH_R) -> Array:
    """Bilinear values (K,R*R) of a warped square grid around points; x runs fastest.

    Beyond the border the border value.
    """
    count, side = len(points_K2), len(reach_R)
    along_K2R = warp_K22[:, :, 0, None] * reach_R
    down_K2R = points_K2[:, :, None] + warp_K22[:, :, 1, None] * reach_R
    x_KP, y_KP = (
        (down_K2R[:, k, :, None] + along_K2R[:, k, None, :]).reshape(count, side * side)
        for k in (0, 1)
    )
    values_KP = np.empty((count, side * side), np.float32)
    for start in range(0, count, _MAX_ROWS):
        rows = slice(start, start + _MAX_ROWS)
        values_KP[rows] = cv2.remap(
            image, x_KP[rows], y_KP[rows], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return values_KP


def normalise(values_KP: Array) -> tuple[Array, Array]:
    """Zero mean and unit norm along P, in place, and the norm (K,1); flat patches become zero."""
    values_KP -= values_KP.mean(axis=1, keepdims=True)
    norm_K1 = np.sqrt(np.einsum("kp,kp->k", values_KP, values_KP))[:, None]
    least = np.float32(np.sqrt(values_KP.shape[1]))  # one grey level of contrast
    values_KP *= np.where(norm_K1 > least, 1 / np.maximum(norm_K1, least), np.float32(0.0))
    return values_KP, norm_K1


def templates(image: Array, points_K2: Array) -> Templates:
    """Templates of a smoothed image around points (K,2)."""
    still_K22 = np.tile(np.eye(2, dtype=np.float32), (len(points_K2), 1, 1))
    patch_KP, norm_K1 = normalise(sample(image, points_K2, still_K22))
    slope_KP2 = (
        np.stack(
            [
                sample(image, points_K2 + d, still_K22) - sample(image, points_K2 - d, still_K22)
                for d in np.array([[0.5, 0.0], [0.0, 0.5]], np.float32)
            ],
            axis=-1,
        )
        / np.maximum(norm_K1, 1.0)[..., None]
    )
    x, y = np.tile(REACH_R, len(REACH_R)), np.repeat(REACH_R, len(REACH_R))
    gx, gy = slope_KP2[..., 0], slope_KP2[..., 1]
    steepest = np.stack([gx * x, gx * y, gy * x, gy * y, gx, gy], axis=1)
    # the patch is compared after mean and norm are taken out, so take them out here too
    steepest -= steepest.mean(axis=2, keepdims=True)
    steepest -= (steepest @ patch_KP[:, :, None]) * patch_KP[:, None]
    hessian = steepest @ steepest.transpose(0, 2, 1)
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
        slope_K61 = wanted.steepest_K6P @ residual_KP[:, :, None]
        delta_K6 = (wanted.inverse_K66 @ slope_K61)[:, :, 0]
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
    similarity_KO = _correlations(image, wanted.patch_KP, points_K2, warp_K22)
    best_K = similarity_KO.argmax(axis=1)
    apart_OO = np.abs(SEARCH_O2[:, None] - SEARCH_O2).max(axis=2) > 1.5 * STRIDE
    rival_K = np.where(apart_OO[best_K], similarity_KO, np.float32(-1.0)).max(axis=1)
    moved_K2 = np.einsum("kij,kj->ki", warp_K22, SEARCH_O2[best_K])
    return (points_K2 + moved_K2).astype(np.float32), rival_K


def _correlations(image: Array, patch_KP: Array, points_K2: Array, warp_K22: Array) -> Array:
    """Correlation (K,O) of each template with every position of its search square.

    The square is sampled once: positions are whole samples apart.
    """
    count, side, window = len(points_K2), len(WIDE_W), len(REACH_R)
    wide_KWW = sample(image, points_K2, warp_K22, WIDE_W).reshape(count, side, side)
    wide_KWW -= wide_KWW.mean(axis=(1, 2), keepdims=True)  # keeps the squares small
    seen_KOP = np.lib.stride_tricks.sliding_window_view(wide_KWW, (window, window), (1, 2))
    seen_KOP = seen_KOP.reshape(count, len(SEARCH_O2), window * window)
    product_KO = np.einsum("kop,kp->ko", seen_KOP, patch_KP)
    square_KO = np.einsum("kop,kop->ko", seen_KOP, seen_KOP)
    square_KO -= np.square(seen_KOP.sum(axis=2)) / window**2
    flat_KO = square_KO <= window**2  # one grey level of contrast, as in `normalise`
    return np.where(flat_KO, np.float32(0), product_KO / np.sqrt(np.maximum(square_KO, 1)))


def _seen(image: Array, points_K2: Array, warp_K22: Array) -> Array:
    return normalise(sample(image, points_K2, warp_K22))[0]
