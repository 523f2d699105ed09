"""Reprojection and its analytic derivatives over a block of tracks (torch).

Layout: planes. A block holds P points seen from a window of W consecutive cameras as dense
(P, W) arrays (absent observations have weight 0), so that every sum over points or cameras is
a reduction and nothing is gathered or scattered: the same code is fast on CPU and CUDA.

A camera maps world points by x = R·X + t. It is perturbed on the left, x ↦ exp(ω)·x + δ, which
makes its derivatives depend on the camera coordinates alone. The focal length enters as its
logarithm. Pixels are relative to the principal point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CAMERA_DOF = 6  # ω then δ
MIN_DEPTH = 1e-6  # of the unit of the points; nearer points count as this near


@dataclass(frozen=True)
class Projection:
    """Points in the cameras of a window.

    a_PW, b_PW: x/z and y/z; inverse_depth_PW: 1/z with z clamped to be in front.
    """

    a_PW: Tensor
    b_PW: Tensor
    inverse_depth_PW: Tensor


@dataclass(frozen=True)
class Derivatives:
    """∂(u, v) scaled by a factor an observation.

    camera_2PCW: by (ω, δ); point_23PW: by the world point; focal_2PW: by log f.
    """

    camera_2PCW: Tensor
    point_23PW: Tensor
    focal_2PW: Tensor


def project(R_33W: Tensor, t_3W: Tensor, points_3P: Tensor) -> Projection:
    """Project points with every camera of the window."""
    x, y, z = (
        torch.addcmul(t_3W[i], points_3P[0, :, None], R_33W[i, 0])
        .addcmul_(points_3P[1, :, None], R_33W[i, 1])
        .addcmul_(points_3P[2, :, None], R_33W[i, 2])
        for i in range(3)
    )
    inverse = z.clamp(min=MIN_DEPTH).reciprocal()
    return Projection(x * inverse, y * inverse, inverse)


def residuals(projection: Projection, focal: Tensor, xy_2PW: Tensor) -> Tensor:
    """Projected minus observed pixels (2, P, W)."""
    return torch.stack((projection.a_PW * focal - xy_2PW[0], projection.b_PW * focal - xy_2PW[1]))


def derivatives(
    projection: Projection, R_33W: Tensor, focal: Tensor, factor_PW: Tensor
) -> Derivatives:
    """Derivatives of the residuals, each observation multiplied by its factor."""
    a, b, inverse = projection.a_PW, projection.b_PW, projection.inverse_depth_PW
    f = factor_PW * focal
    g = f * inverse
    fa, fb = f * a, f * b
    points, window = a.shape
    camera = a.new_empty((2, points, CAMERA_DOF, window))
    torch.mul(fa, b, out=camera[1, :, 1])
    torch.neg(camera[1, :, 1], out=camera[0, :, 0])
    torch.addcmul(f, fa, a, out=camera[0, :, 1])
    torch.neg(fb, out=camera[0, :, 2])
    torch.addcmul(f, fb, b, out=camera[1, :, 0]).neg_()
    camera[1, :, 2] = fa
    camera[0, :, 3] = g
    camera[0, :, 4] = 0.0
    camera[1, :, 3] = 0.0
    camera[1, :, 4] = g
    torch.mul(g, a, out=camera[0, :, 5]).neg_()
    torch.mul(g, b, out=camera[1, :, 5]).neg_()
    point = a.new_empty((2, 3, points, window))
    for k in range(3):
        torch.mul(torch.addcmul(R_33W[0, k], a, R_33W[2, k], value=-1), g, out=point[0, k])
        torch.mul(torch.addcmul(R_33W[1, k], b, R_33W[2, k], value=-1), g, out=point[1, k])
    return Derivatives(camera, point, torch.stack((fa, fb)))


def perturb(R_F33: Tensor, t_F3: Tensor, step_F6: Tensor) -> tuple[Tensor, Tensor]:
    """Apply (ω, δ) to every camera: R ← exp(ω)·R, t ← exp(ω)·t + δ."""
    w = step_F6[:, :3]
    zero = torch.zeros_like(w[:, 0])
    skew = torch.stack(
        (zero, -w[:, 2], w[:, 1], w[:, 2], zero, -w[:, 0], -w[:, 1], w[:, 0], zero), 1
    ).reshape(-1, 3, 3)
    rotation = torch.linalg.matrix_exp(skew)
    return rotation @ R_F33, (rotation @ t_F3[:, :, None])[:, :, 0] + step_F6[:, 3:]
