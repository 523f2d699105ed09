"""The reduced camera system of bundle adjustment: linearise, eliminate points, step (torch).

Each block of tracks is linearised and at once reduced to its part of the camera system (Schur
complement, Brown 1958; Triggs et al., "Bundle adjustment: a modern synthesis", 2000): with the
point block V = L·Lᵀ and Z = L⁻¹·Wᵀ, the reduced system is S = U − Zᵀ·Z, one matrix product a
block that covers only the cameras the block sees. The robust loss enters by reweighting, the
damping by Marquardt's scaling of U and V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.blocks import Block
from dynamicverse.dynamicba.jacobians import (
    CAMERA_DOF,
    MIN_DEPTH,
    Derivatives,
    derivatives,
    perturb,
    project,
    residuals,
)
from dynamicverse.dynamicba.threads import Map

LEAST_INVERSE, MOST_INVERSE = 0.1, 10.0  # factors on a point's inverse depth in one step


@dataclass(frozen=True)
class FocalPrior:
    """A Gaussian on log f around `focal` px."""

    focal: float
    log_sigma: float


@dataclass(frozen=True)
class Options:
    """How to solve.

    loss: quadratic up to `scale` standard deviations, then linear (huber) or logarithmic
    (cauchy). focal_prior: None keeps the focal length as it is.
    tolerance: stop when a step lowers the cost by less than this share of it.
    uncertainty: also compute `log_focal_sigma`, at the cost of one more linearisation.
    """

    loss: Literal["huber", "cauchy"] = "huber"
    scale: float = 1.5
    focal_prior: FocalPrior | None = None
    iterations: int = 30
    tolerance: float = 1e-5
    uncertainty: bool = False
    device: str = "cpu"


@dataclass
class State:
    R_F33: Tensor
    t_F3: Tensor
    points_N3: Tensor
    log_focal: Tensor

    def cameras(self, index: Tensor) -> State:
        """The cameras of an index list, in its order."""
        return State(self.R_F33[index], self.t_F3[index], self.points_N3, self.log_focal)


@dataclass(frozen=True)
class Linear:
    """A linearised block: weighted derivatives and residuals, and the points whitened.

    white_23PW: L⁻¹·Jᵀ of every observation; L_6P: the rows of L = chol(V).
    """

    jacobian: Derivatives
    error_2PW: Tensor
    white_23PW: Tensor
    L_6P: tuple[Tensor, ...]


@dataclass(frozen=True)
class Normal:
    """The reduced camera system S·step = −g, unknowns (6, F) then log f, and its blocks."""

    S: Tensor
    g: Tensor
    blocks: list[Linear]


def robust(squared_PW: Tensor, weight_PW: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """ρ and the factor by which an observation's squared residual counts at this point."""
    bound = options.scale**2
    normalised = squared_PW * weight_PW
    if options.loss == "cauchy":
        ratio = normalised / bound
        return ratio.log1p() * bound, weight_PW / (1 + ratio)
    root = normalised.clamp(min=bound).sqrt_()
    linear = root * (2 * options.scale) - bound
    rho = torch.where(normalised > bound, linear, normalised)
    return rho, weight_PW * (options.scale / root)


def windowed(state: State, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    cameras = slice(block.first, block.first + block.window)
    return (
        state.R_F33[cameras].permute(1, 2, 0).contiguous(),
        state.t_F3[cameras].T.contiguous(),
        state.points_N3[block.order_P].T.contiguous(),
    )


def total_cost(state: State, layout: list[Block], options: Options, parallel: Map) -> float:
    focal = state.log_focal.exp()

    def of_block(block: Block) -> Tensor:
        error = residuals(project(*windowed(state, block)), focal, block.xy_2PW)
        return robust(error.square_().sum(0), block.weight_PW, options)[0].sum()

    return float(sum(parallel(of_block, layout), start=_prior(state, options)[0]))


def _prior(state: State, options: Options) -> tuple[Tensor, Tensor, float]:
    """Cost, gradient and curvature of the focal prior."""
    if options.focal_prior is None:
        zero = torch.zeros_like(state.log_focal)
        return zero, zero, 0.0
    information = options.focal_prior.log_sigma**-2
    difference = state.log_focal - float(np.log(options.focal_prior.focal))
    return information * difference**2, information * difference, information


def _linearise_block(state: State, block: Block, options: Options, damping: float) -> Linear:
    R, t, points = windowed(state, block)
    focal = state.log_focal.exp()
    projection = project(R, t, points)
    error = residuals(projection, focal, block.xy_2PW)
    _, factor = robust(error.square().sum(0), block.weight_PW, options)
    root = factor.sqrt_()
    jacobian = derivatives(projection, R, focal, root)
    return Linear(jacobian, error.mul_(root), *_whiten(jacobian.point_23PW, damping))


def _whiten(point_23PW: Tensor, damping: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """L⁻¹·Jᵀ of every observation (2, 3, P, W), and L = chol(V) as six rows (P)."""
    j = point_23PW
    v = {(i, k): (j[:, i] * j[:, k]).sum((0, 2)) for i in range(3) for k in range(i + 1)}
    floor = 1e-10 * (v[0, 0] + v[1, 1] + v[2, 2]) + 1e-30
    d0, d1, d2 = (v[i, i] * (1 + damping) + floor for i in range(3))
    l00 = d0.sqrt()
    l10, l20 = v[1, 0] / l00, v[2, 0] / l00
    l11 = (d1 - l10 * l10).clamp(min=floor).sqrt()
    l21 = (v[2, 1] - l20 * l10) / l11
    l22 = (d2 - l20 * l20 - l21 * l21).clamp(min=floor).sqrt()
    white = torch.empty_like(j)
    z0 = torch.div(j[:, 0], l00[:, None], out=white[:, 0])
    z1 = torch.sub(j[:, 1], l10[:, None] * z0, out=white[:, 1]).div_(l11[:, None])
    z2 = torch.sub(j[:, 2], l20[:, None] * z0, out=white[:, 2])
    z2.sub_(l21[:, None] * z1).div_(l22[:, None])
    return white, (l00, l10, l11, l20, l21, l22)


def linearise(
    state: State, layout: list[Block], options: Options, damping: float, parallel: Map
) -> Normal:
    """Sum the reduced camera systems of all blocks, always in the same order."""
    frames = len(state.R_F33)
    S = state.t_F3.new_zeros((CAMERA_DOF * frames + 1, CAMERA_DOF * frames + 1))
    g = S.new_zeros(len(S))
    cameras = S[:-1, :-1].view(CAMERA_DOF, frames, CAMERA_DOF, frames)
    border, gradient = (v.view(CAMERA_DOF, frames) for v in (S[:-1, -1], g[:-1]))
    linear = []

    def of_block(block: Block) -> tuple[Linear, Tensor]:
        part = _linearise_block(state, block, options, damping)
        return part, _reduced_system(part, damping)

    for block, (part, system) in zip(layout, parallel(of_block, layout), strict=True):
        near, window = slice(block.first, block.first + block.window), block.window
        cameras[:, near, :, near] += system[:-2, :-2].view(CAMERA_DOF, window, CAMERA_DOF, window)
        border[:, near] += system[:-2, -2].view(CAMERA_DOF, window)
        gradient[:, near] += system[:-2, -1].view(CAMERA_DOF, window)
        S[-1, -1] += system[-2, -2]
        g[-1] += system[-2, -1]
        linear.append(part)
    S[-1, :-1] = S[:-1, -1]
    _, slope, curvature = _prior(state, options)
    S[-1, -1] += curvature
    g[-1] += slope
    return Normal(S, g, linear)


def _reduced_system(part: Linear, damping: float) -> Tensor:
    """U − Zᵀ·Z of one block, unknowns (ω, δ) × its cameras, log f; the last column is g."""
    J, Jf, error = part.jacobian.camera_2PCW, part.jacobian.focal_2PW, part.error_2PW
    window = J.shape[3]
    system = _eliminated(part).neg_()
    cameras = system[:-2, :-2].view(CAMERA_DOF, window, CAMERA_DOF, window)
    diagonal = torch.diagonal(cameras, dim1=1, dim2=3)
    for c in range(CAMERA_DOF):
        row = (J[:, :, : c + 1] * J[:, :, c : c + 1]).sum((0, 1))
        row[c] *= 1 + damping
        diagonal[c, : c + 1] += row
        diagonal[:c, c] += row[:c]
    system[:-2, -2].view(CAMERA_DOF, window).add_((J * Jf[:, :, None]).sum((0, 1)))
    system[:-2, -1].view(CAMERA_DOF, window).add_((J * error[:, :, None]).sum((0, 1)))
    system[-2, -2] += Jf.square().sum() * (1 + damping)
    system[-2, -1] += (Jf * error).sum()
    return system


def _eliminated(part: Linear) -> Tensor:
    """Zᵀ·Z with columns (ω, δ) × cameras of the window, log f, residual."""
    J, white = part.jacobian.camera_2PCW, part.white_23PW
    _, points, _, window = J.shape
    Z = J.new_empty((3, points, CAMERA_DOF * window + 2))
    for k in range(3):
        columns = Z[k, :, :-2].view(points, CAMERA_DOF, window)
        torch.mul(J[0], white[0, k, :, None], out=columns)
        columns.addcmul_(J[1], white[1, k, :, None])
        Z[k, :, -2] = (part.jacobian.focal_2PW * white[:, k]).sum((0, 2))
        Z[k, :, -1] = (part.error_2PW * white[:, k]).sum((0, 2))
    Z = Z.view(3 * points, -1)
    return Z.T @ Z


def solve_reduced(normal: Normal, free: Tensor) -> Tensor | None:
    """The step of all unknowns (zero where fixed); None if the system is not positive definite."""
    step = torch.zeros_like(normal.g)
    if not len(free):
        return step
    S = normal.S[free][:, free]
    scale = S.diagonal().clamp(min=1e-30).rsqrt()
    S = S * scale * scale[:, None]
    S.diagonal().clamp_(min=1.0)  # unseen cameras: an empty row
    factor, info = torch.linalg.cholesky_ex(S)
    if int(info):
        return None
    step[free] = -scale * torch.cholesky_solve((scale * normal.g[free])[:, None], factor)[:, 0]
    return step


def retract(
    state: State, step: Tensor, layout: list[Block], normal: Normal, parallel: Map
) -> tuple[State, float]:
    """Move cameras and focal length by the step, and points to their optimum given it.

    Also returns the cost that the linear model, with the present weights, loses by the step.
    """
    step_F6 = step[:-1].view(CAMERA_DOF, -1).T.contiguous()
    R, t = perturb(state.R_F33, state.t_F3, step_F6)
    new = State(R, t, state.points_N3.clone(), state.log_focal + step[-1])

    def of_block(item: tuple[Block, Linear]) -> tuple[Tensor, Tensor]:
        block, part = item
        near = step_F6[block.first : block.first + block.window].T
        error = part.error_2PW + (part.jacobian.camera_2PCW * near).sum(2)
        error += part.jacobian.focal_2PW * step[-1]
        change_P3 = -_back_substitute(part, error)
        for k in range(3):
            error.addcmul_(part.jacobian.point_23PW[:, k], change_P3[:, k, None])
        points_P3, anchor = state.points_N3[block.order_P], block.anchor_P
        moved = _move_points(
            points_P3, change_P3, state.cameras(anchor), new.cameras(anchor), step_F6[anchor]
        )
        return moved, part.error_2PW.square().sum() - error.square_().sum()

    expected = torch.zeros_like(state.log_focal)
    work = parallel(of_block, zip(layout, normal.blocks, strict=True))
    for block, (moved, decrease) in zip(layout, work, strict=True):
        new.points_N3[block.order_P] = moved
        expected += decrease
    return new, float(expected)


def _back_substitute(part: Linear, error_2PW: Tensor) -> Tensor:
    """V⁻¹·Jᵀ·error (P, 3)."""
    y0, y1, y2 = ((part.white_23PW[:, k] * error_2PW).sum((0, 2)) for k in range(3))
    l00, l10, l11, l20, l21, l22 = part.L_6P
    x2 = y2 / l22
    x1 = (y1 - l21 * x2) / l11
    x0 = (y0 - l10 * x1 - l20 * x2) / l00
    return torch.stack((x0, x1, x2), 1)


def _move_points(
    points_P3: Tensor, change_P3: Tensor, anchor: State, new: State, step_P6: Tensor
) -> Tensor:
    """Take a step that is linear in pixel position and inverse depth in the anchor camera.

    To first order this is `points + change`. With little parallax, and along the valley where
    focal length, rotations and depths trade off, the reprojection is far closer to linear in
    these coordinates than in Euclidean ones (Civera, Davison, Montiel 2008): steps are longer.
    anchor, new: the anchor camera of each point before and after the step, `step_P6`.
    """
    local = (anchor.R_F33 @ points_P3[:, :, None])[:, :, 0] + anchor.t_F3
    turned = torch.linalg.cross(step_P6[:, :3], local) + step_P6[:, 3:]
    change = (anchor.R_F33 @ change_P3[:, :, None])[:, :, 0] + turned
    depth = local[:, 2:].clamp(min=MIN_DEPTH)
    zoom = new.log_focal - anchor.log_focal
    relative = change[:, 2:] / depth
    direction = local / depth
    direction = direction + (change / depth - direction * relative) + direction * zoom
    inverse = (1 - relative + zoom).clamp(LEAST_INVERSE, MOST_INVERSE)
    moved = torch.cat((direction[:, :2], zoom.exp().expand_as(depth)), 1) * (depth / inverse)
    back: Tensor = new.R_F33.transpose(1, 2) @ (moved - new.t_F3)[:, :, None]
    return back[:, :, 0]
