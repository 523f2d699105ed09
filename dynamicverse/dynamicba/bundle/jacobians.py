"""Reprojection and its analytic derivatives over a block of tracks (torch).

Layout: planes. A block holds P points seen from a window of W consecutive cameras as dense
(P, W) arrays (absent observations have weight 0), so that every sum over points or cameras is
a reduction and nothing is gathered or scattered: the same code is fast on CPU and CUDA.

A camera maps world points by x = R·X + t. It is perturbed on the left, x ↦ exp(ω)·x + δ, which
makes its derivatives depend on the camera coordinates alone. The focal length enters as its
logarithm. The lens is that of `lens.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CAMERA_DOF = 6  # ω then δ; a focal length of its own is a seventh
MIN_DEPTH = 1e-6  # of the unit of the points; nearer points count as this near

Shared = Literal["log_focal", "cx", "cy", "k1"]  # unknowns that all cameras share


@dataclass(frozen=True)
class Intrinsics:
    """focal_W: px, a scalar or one a camera. centre_2: px, k1; None where they are zero."""

    focal_W: Tensor
    centre_2: Tensor | None = None
    k1: Tensor | None = None


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

    columns_2PCW: by (ω, δ) and, if asked for, the camera's log f; then by the shared unknowns
    that were asked for; last the residual itself. point_23PW: by the world point.
    """

    columns_2PCW: Tensor
    point_23PW: Tensor

    @property
    def error_2PW(self) -> Tensor:
        """The scaled residual."""
        return self.columns_2PCW[:, :, -1]


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


def residuals(projection: Projection, intrinsics: Intrinsics, xy_2PW: Tensor) -> Tensor:
    """Projected minus observed pixels (2, P, W)."""
    a, b, f = projection.a_PW, projection.b_PW, intrinsics.focal_W
    if intrinsics.k1 is not None:
        f = f * _radial(a, b, intrinsics.k1)
    error = torch.stack((a * f - xy_2PW[0], b * f - xy_2PW[1]))
    if intrinsics.centre_2 is not None:
        error = error + intrinsics.centre_2[:, None, None]
    return error


def _radial(a_PW: Tensor, b_PW: Tensor, k1: Tensor) -> Tensor:
    return (a_PW * a_PW).addcmul_(b_PW, b_PW).mul_(k1).add_(1)


def derivatives(
    projection: Projection,
    R_33W: Tensor,
    intrinsics: Intrinsics,
    error_2PW: Tensor,
    factor_PW: Tensor,
    shared: Sequence[Shared],
    own_focal: bool = False,
) -> Derivatives:
    """Derivatives of the residuals and these themselves, each multiplied by its factor.

    own_focal: also by the focal length of each camera.
    """
    a, b, inverse = projection.a_PW, projection.b_PW, projection.inverse_depth_PW
    f = factor_PW * intrinsics.focal_W
    g = f * inverse
    fa, fb = f * a, f * b
    points, window = a.shape
    dof = CAMERA_DOF + own_focal
    columns = a.new_empty((2, points, dof + len(shared) + 1, window))
    torch.mul(fa, b, out=columns[1, :, 1])
    torch.neg(columns[1, :, 1], out=columns[0, :, 0])
    torch.addcmul(f, fa, a, out=columns[0, :, 1])
    torch.neg(fb, out=columns[0, :, 2])
    torch.addcmul(f, fb, b, out=columns[1, :, 0]).neg_()
    columns[1, :, 2] = fa
    columns[0, :, 3] = g
    columns[0, :, 4] = 0.0
    columns[1, :, 3] = 0.0
    columns[1, :, 4] = g
    torch.mul(g, a, out=columns[0, :, 5]).neg_()
    torch.mul(g, b, out=columns[1, :, 5]).neg_()
    point = a.new_empty((2, 3, points, window))
    for k in range(3):
        torch.mul(torch.addcmul(R_33W[0, k], a, R_33W[2, k], value=-1), g, out=point[0, k])
        torch.mul(torch.addcmul(R_33W[1, k], b, R_33W[2, k], value=-1), g, out=point[1, k])
    if intrinsics.k1 is not None:
        radial = _radial(a, b, intrinsics.k1)
        bending = _bending(a, b, radial, intrinsics.k1)
        _apply(columns[:, :, :CAMERA_DOF].unbind(2), bending)
        _apply(point.unbind(1), bending)
        fa, fb = fa * radial, fb * radial
    if own_focal:
        columns[0, :, CAMERA_DOF], columns[1, :, CAMERA_DOF] = fa, fb
    for column, name in enumerate(shared, dof):
        _fill_shared(columns[:, :, column], name, projection, (f, fa, fb), factor_PW)
    torch.mul(error_2PW, factor_PW, out=columns[:, :, -1])
    return Derivatives(columns, point)


def _fill_shared(
    column_2PW: Tensor,
    name: Shared,
    projection: Projection,
    focal: tuple[Tensor, Tensor, Tensor],
    factor_PW: Tensor,
) -> None:
    f, fa, fb = focal
    if name == "log_focal":
        column_2PW[0], column_2PW[1] = fa, fb
    elif name == "k1":
        a, b = projection.a_PW, projection.b_PW
        scaled = f * (a * a + b * b)
        torch.mul(scaled, a, out=column_2PW[0])
        torch.mul(scaled, b, out=column_2PW[1])
    else:
        first = 0 if name == "cx" else 1
        column_2PW[first], column_2PW[1 - first] = factor_PW, 0.0


def _bending(a: Tensor, b: Tensor, radial: Tensor, k1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The symmetric derivative (aa, ab, bb) of (1 + k1·r²)·(a, b) by (a, b)."""
    twice = 2 * k1
    return radial + twice * a * a, twice * a * b, radial + twice * b * b


def _apply(planes: Sequence[Tensor], bending: tuple[Tensor, Tensor, Tensor]) -> None:
    """Multiply derivatives (2, P, W) in place by the derivative of the lens."""
    aa, ab, bb = bending
    for plane in planes:
        first = plane[0] * aa
        first.addcmul_(plane[1], ab)
        torch.addcmul(plane[1] * bb, plane[0], ab, out=plane[1])
        plane[0] = first


def perturb(R_F33: Tensor, t_F3: Tensor, step_F6: Tensor) -> tuple[Tensor, Tensor]:
    """Apply (ω, δ) to every camera: R ← exp(ω)·R, t ← exp(ω)·t + δ."""
    rotation = rotations(step_F6[:, :3])
    return rotation @ R_F33, (rotation @ t_F3[:, :, None])[:, :, 0] + step_F6[:, 3:]


def rotations(w_F3: Tensor) -> Tensor:
    """exp(ω) (F, 3, 3) by Rodrigues' formula."""
    x, y, z = w_F3.unbind(1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), 1).view(-1, 3, 3)
    angle = w_F3.square().sum(1).sqrt_()[:, None, None]
    half = torch.sinc(angle / (2 * torch.pi))  # sin(θ/2) / (θ/2)
    eye = torch.eye(3, dtype=w_F3.dtype, device=w_F3.device)
    return eye + torch.sinc(angle / torch.pi) * skew + 0.5 * half.square() * (skew @ skew)
