"""Rotations and rigid motions as matrices, batched over leading dimensions (NumPy, float64).

A rigid motion is a 4×4 matrix that maps homogeneous points of one frame into another:
`c2w` maps camera coordinates (OpenCV axes: x right, y down, z forward) to the world.
Formulas: Solà, Deray, Atchuthan, "A micro Lie theory for state estimation in robotics", 2018.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def hat(omega: npt.ArrayLike) -> Array:
    """Cross-product matrices (..., 3, 3) of the vectors (..., 3): hat(a) @ b = a × b."""
    w = np.asarray(omega, np.float64)
    matrix = np.zeros((*w.shape[:-1], 3, 3))
    matrix[..., 0, 1], matrix[..., 0, 2], matrix[..., 1, 2] = -w[..., 2], w[..., 1], -w[..., 0]
    return matrix - np.swapaxes(matrix, -1, -2)


def so3_exp(omega: npt.ArrayLike) -> Array:
    """Rotations (..., 3, 3) of the rotation vectors (..., 3) in radians (Rodrigues)."""
    w = np.asarray(omega, np.float64)
    angle2 = np.sum(w * w, axis=-1)[..., None, None]
    angle = np.sqrt(angle2)
    small = angle2 < 1e-8
    safe = np.where(small, 1.0, angle)
    a = np.where(small, 1 - angle2 / 6, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle2 / 24, (1 - np.cos(safe)) / (safe * safe))
    skew = hat(w)
    return np.asarray(np.eye(3) + a * skew + b * (skew @ skew))


def so3_log(R: npt.ArrayLike) -> Array:
    """Rotation vectors (..., 3) in radians, length in [0, π], of rotations (..., 3, 3).

    Through the unit quaternion with the largest component, which is stable near 0 and near π.
    """
    m = np.asarray(R, np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # row k is 4·q_k·(w, x, y, z) for the quaternion q; take the row with the largest q_k
    rows = np.stack(
        [
            np.stack([1 + xx + yy + zz, _skew(m, 2, 1), _skew(m, 0, 2), _skew(m, 1, 0)], -1),
            np.stack([_skew(m, 2, 1), 1 + xx - yy - zz, _sym(m, 1, 0), _sym(m, 0, 2)], -1),
            np.stack([_skew(m, 0, 2), _sym(m, 1, 0), 1 - xx + yy - zz, _sym(m, 2, 1)], -1),
            np.stack([_skew(m, 1, 0), _sym(m, 0, 2), _sym(m, 2, 1), 1 - xx - yy + zz], -1),
        ],
        -2,
    )
    best = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(rows, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    q = np.where(q[..., :1] < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return np.asarray(q[..., 1:] * np.where(sine < 1e-12, 2.0, angle / np.maximum(sine, 1e-12)))


def _skew(m: Array, i: int, j: int) -> Array:
    return np.asarray(m[..., i, j] - m[..., j, i])


def _sym(m: Array, i: int, j: int) -> Array:
    return np.asarray(m[..., i, j] + m[..., j, i])


def rotation_angle(R: npt.ArrayLike) -> Array:
    """Angles (...) in radians of rotations (..., 3, 3)."""
    return np.asarray(np.linalg.norm(so3_log(R), axis=-1))


def nearest_rotation(matrix: npt.ArrayLike) -> Array:
    """The rotations nearest to (..., 3, 3) matrices in the Frobenius norm (SVD)."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64))
    u = u.copy()
    u[..., :, 2] *= np.linalg.det(u @ vt)[..., None]
    return np.asarray(u @ vt)


def se3(R: npt.ArrayLike, t: npt.ArrayLike) -> Array:
    """Rigid motions (..., 4, 4) from rotations (..., 3, 3) and translations (..., 3)."""
    rotation, translation = np.asarray(R, np.float64), np.asarray(t, np.float64)
    matrix = np.zeros((*np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1]), 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation, translation, 1.0
    return matrix


def se3_inverse(T: npt.ArrayLike) -> Array:
    """Inverse rigid motions (..., 4, 4): w2c of c2w and back."""
    motion = np.asarray(T, np.float64)
    Rt = np.swapaxes(motion[..., :3, :3], -1, -2)
    return se3(Rt, -(Rt @ motion[..., :3, 3:])[..., 0])


def transform(T: npt.ArrayLike, points: npt.ArrayLike) -> Array:
    """Apply one rigid motion (4, 4) to points (..., 3)."""
    motion = np.asarray(T, np.float64)
    return np.asarray(np.asarray(points, np.float64) @ motion[:3, :3].T + motion[:3, 3])
