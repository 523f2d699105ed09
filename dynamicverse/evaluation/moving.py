"""Moving objects against truth: how they turn, and how far away their points are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.alignment import Similarity
from dynamicverse.geometry.lie import Array, nearest_rotation, rotation_angle

Mask = npt.NDArray[np.bool_]


def rotation_errors(
    estimate_F44: npt.ArrayLike, truth_F44: npt.ArrayLike, to_truth: Similarity
) -> Array:
    """Angles (F) in degrees between estimated and true orientations of an object.

    Poses are object-to-world, NaN where not known. The object's own frame is free: the one that
    fits best over all frames is taken, so what is compared is how the object turns.
    to_truth: maps the estimated world onto the true one.
    NaN where not estimated. Raises ValueError where fewer than two frames are.
    """
    estimate = np.asarray(estimate_F44, np.float64)[:, :3, :3]
    truth = np.asarray(truth_F44, np.float64)[:, :3, :3]
    known = np.flatnonzero(np.isfinite(estimate).all((1, 2)))
    if len(known) < 2:
        raise ValueError("the object has fewer than two poses")
    aligned, true = to_truth.R @ estimate[known], truth[known]
    own_frame = nearest_rotation((np.swapaxes(aligned, 1, 2) @ true).sum(0))
    errors = np.full(len(estimate), np.nan)
    errors[known] = np.degrees(rotation_angle(np.swapaxes(aligned @ own_frame, 1, 2) @ true))
    return errors


def depth_errors(
    points_N3: npt.ArrayLike,
    to_truth: Similarity,
    true_c2w: npt.ArrayLike,
    true_K: npt.ArrayLike,
    true_depth_HW: npt.ArrayLike,
    moving_HW: npt.ArrayLike,
) -> Array:
    """|z − d| / d (M) of estimated world points of one frame that fall on what truly moves.

    z: depth of the point in the true camera after alignment; d: true depth of that pixel.
    """
    c2w, K = np.asarray(true_c2w, np.float64), np.asarray(true_K, np.float64)
    depth, moving = np.asarray(true_depth_HW, np.float64), np.asarray(moving_HW, np.bool_)
    camera = (to_truth.apply(points_N3) - c2w[:3, 3]) @ c2w[:3, :3]
    camera = camera[camera[:, 2] > 0]
    x, y = np.rint((camera / camera[:, 2:]) @ K.T[:, :2]).astype(np.int64).T
    inside = (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
    x, y, z = x[inside], y[inside], camera[inside, 2]
    on = moving[y, x]
    true = depth[y[on], x[on]]
    return np.asarray(np.abs(z[on] - true) / true)
