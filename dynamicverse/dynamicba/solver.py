"""Robust bundle adjustment: Levenberg–Marquardt with the points eliminated (torch, float64).

Minimises Σ ρ(w·‖π(R·X + t) − x‖²) over cameras, points and a shared focal length. Each block
of tracks is linearised and at once reduced to its part of the camera system (Schur complement,
Brown 1958; Triggs et al., "Bundle adjustment: a modern synthesis", 2000): with the point block
V = L·Lᵀ and Z = L⁻¹·Wᵀ, the reduced system is S = U − Zᵀ·Z, one matrix product a block that
covers only the cameras the block sees. The robust loss enters by reweighting. Damping follows
Marquardt's scaling and Nielsen's schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicverse.dynamicba.blocks import Block, Floats, Observations, blocks
from dynamicverse.dynamicba.jacobians import (
    CAMERA_DOF,
    Derivatives,
    MIN_DEPTH,
    derivatives,
    perturb,
    project,
    residuals,
)
from dynamicverse.dynamicba.threads import Map, worker_threads

FIRST_DAMPING = 1e-4
LEAST_DAMPING = 1e-9
LAST_DAMPING = 1e10
MOST_SHRINK = 0.1
LEAST_INVERSE, MOST_INVERSE = 0.1, 10.0  # factors on a point's inverse distance in one step


@dataclass(frozen=True)
class Structure:
    """Cameras x = R·X + t (world to camera), world points, and the focal length in px."""

    R_F33: Floats
    t_F3: Floats
    points_N3: Floats
    focal: float


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


@dataclass(frozen=True)
class Solution:
    """The optimum found.

    cost: Σρ at the end; log_focal_sigma: standard deviation of log f for observations with the
    stated weights (NaN when it was not asked for or f was kept); error_M: reprojection errors in px.
    """

    structure: Structure
    error_M: Floats
    initial_cost: float
    cost: float
    iterations: int
    converged: bool
    log_focal_sigma: float


@dataclass
class _State:
    R_F33: Tensor
    t_F3: Tensor
    points_N3: Tensor
    log_focal: Tensor

    def cameras(self, index: Tensor) -> _State:
        """The cameras of an index list, in its order."""
        return _State(self.R_F33[index], self.t_F3[index], self.points_N3, self.log_focal)


@dataclass(frozen=True)
class _Linear:
    """A linearised block: weighted derivatives and residuals, and the points whitened.

    white_23PW: L⁻¹·Jᵀ of every observation; L_6P: the rows of L = chol(V).
    """

    jacobian: Derivatives
    error_2PW: Tensor
    white_23PW: Tensor
    L_6P: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Normal:
    """The reduced camera system S·step = −g, unknowns (6, F) then log f, and its blocks."""

    S: Tensor
    g: Tensor
    blocks: list[_Linear]


def free_cameras(
    frames: int, reference: int, scale_from: int, t_F3: Floats
) -> npt.NDArray[np.bool_]:
    """A gauge (F, 6): camera `reference` fixed, and the largest component of one translation.

    t_F3: translations when `reference` is the origin of the world.
    """
    free = np.ones((frames, CAMERA_DOF), bool)
    free[reference] = False
    if scale_from != reference:
        free[scale_from, 3 + int(np.argmax(np.abs(t_F3[scale_from])))] = False
    return free


def solve(
    start: Structure,
    observations: Observations,
    free_F6: npt.NDArray[np.bool_],
    options: Options = Options(),  # noqa: B008  (immutable)
) -> Solution:
    """Adjust cameras (where free), points and, with a prior, the focal length.

    Points without observations and cameras without freedom stay as they are.
    """
    device = torch.device(options.device)
    layout = blocks(observations, device)
    state = _State(
        torch.tensor(start.R_F33, device=device),
        torch.tensor(start.t_F3, device=device),
        torch.tensor(start.points_N3, device=device),
        torch.tensor(float(np.log(start.focal)), dtype=torch.float64, device=device),
    )
    free = _free_unknowns(free_F6, options, device)
    with worker_threads(device) as parallel:
        state, initial, cost, iterations, converged = _iterate(
            state, layout, free, options, parallel
        )
        sigma = _log_focal_sigma(state, layout, options, free, parallel)
    return Solution(
        Structure(
            state.R_F33.cpu().numpy(),
            state.t_F3.cpu().numpy(),
            state.points_N3.cpu().numpy(),
            float(state.log_focal.exp()),
        ),
        _errors(state, layout, len(observations)),
        initial,
        cost,
        iterations,
        converged,
        sigma,
    )


def _iterate(
    state: _State, layout: list[Block], free: Tensor, options: Options, parallel: Map
) -> tuple[_State, float, float, int, bool]:
    """Levenberg–Marquardt: state, first and last cost, iterations, converged."""
    cost = initial = _cost(state, layout, options, parallel)
    damping, growth = FIRST_DAMPING, 2.0
    converged, iteration = not len(layout), 0
    while iteration < options.iterations and not converged:
        iteration += 1
        normal = _linearise(state, layout, options, damping, parallel)
        step = _solve_reduced(normal, free)
        if step is not None:
            trial, expected = _retract(state, step, layout, normal, parallel)
            trial_cost = _cost(trial, layout, options, parallel)
            if trial_cost < cost:
                gain = (cost - trial_cost) / max(expected, 1e-300)
                converged = cost - trial_cost < options.tolerance * cost
                state, cost = trial, trial_cost
                shrink = max(MOST_SHRINK, 1 - (2 * min(gain, 1.0) - 1) ** 3)
                damping, growth = max(damping * shrink, LEAST_DAMPING), 2.0
                continue
            converged = trial_cost - cost < 1e-9 * cost  # rounding: nothing left to gain
        damping, growth = damping * growth, growth * 2
        converged = converged or damping > LAST_DAMPING
    return state, initial, cost, iteration, converged


def _free_unknowns(
    free_F6: npt.NDArray[np.bool_], options: Options, device: torch.device
) -> Tensor:
    """Indices of the unknowns that may change, in the order (ω, δ) × cameras, then log f."""
    mask = np.append(free_F6.T.reshape(-1), options.focal_prior is not None)
    return torch.from_numpy(np.flatnonzero(mask)).to(device)


def _robust(squared_PW: Tensor, weight_PW: Tensor, options: Options) -> tuple[Tensor, Tensor]:
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


def _window(state: _State, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    cameras = slice(block.first, block.first + block.window)
    return (
        state.R_F33[cameras].permute(1, 2, 0).contiguous(),
        state.t_F3[cameras].T.contiguous(),
        state.points_N3[block.order_P].T.contiguous(),
    )


def _cost(state: _State, layout: list[Block], options: Options, parallel: Map) -> float:
    focal = state.log_focal.exp()

    def of_block(block: Block) -> Tensor:
        error = residuals(project(*_window(state, block)), focal, block.xy_2PW)
        return _robust(error.square_().sum(0), block.weight_PW, options)[0].sum()

    return float(sum(parallel(of_block, layout), start=_prior(state, options)[0]))


def _prior(state: _State, options: Options) -> tuple[Tensor, Tensor, float]:
    """Cost, gradient and curvature of the focal prior."""
    if options.focal_prior is None:
        zero = torch.zeros_like(state.log_focal)
        return zero, zero, 0.0
    information = options.focal_prior.log_sigma**-2
    difference = state.log_focal - float(np.log(options.focal_prior.focal))
    return information * difference**2, information * difference, information


def _errors(state: _State, layout: list[Block], count: int) -> Floats:
    focal = state.log_focal.exp()
    errors = np.zeros(count)
    for block in layout:
        difference = residuals(project(*_window(state, block)), focal, block.xy_2PW)
        norm = difference.square_().sum(0).sqrt_().cpu().reshape(-1)
        errors[block.index_K.numpy()] = norm[block.slot_K].numpy()
    return errors


def _linearise_block(state: _State, block: Block, options: Options, damping: float) -> _Linear:
    R, t, points = _window(state, block)
    focal = state.log_focal.exp()
    projection = project(R, t, points)
    error = residuals(projection, focal, block.xy_2PW)
    _, factor = _robust(error.square().sum(0), block.weight_PW, options)
    root = factor.sqrt_()
    jacobian = derivatives(projection, R, focal, root)
    return _Linear(jacobian, error.mul_(root), *_whiten(jacobian.point_23PW, damping))


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


def _linearise(
    state: _State, layout: list[Block], options: Options, damping: float, parallel: Map
) -> _Normal:
    """Sum the reduced camera systems of all blocks, always in the same order."""
    frames = len(state.R_F33)
    S = state.t_F3.new_zeros((CAMERA_DOF * frames + 1, CAMERA_DOF * frames + 1))
    g = S.new_zeros(len(S))
    cameras = S[:-1, :-1].view(CAMERA_DOF, frames, CAMERA_DOF, frames)
    border, gradient = (v.view(CAMERA_DOF, frames) for v in (S[:-1, -1], g[:-1]))
    linear = []

    def of_block(block: Block) -> tuple[_Linear, Tensor]:
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
    return _Normal(S, g, linear)


def _reduced_system(part: _Linear, damping: float) -> Tensor:
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


def _eliminated(part: _Linear) -> Tensor:
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


def _solve_reduced(normal: _Normal, free: Tensor) -> Tensor | None:
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


def _retract(
    state: _State, step: Tensor, layout: list[Block], normal: _Normal, parallel: Map
) -> tuple[_State, float]:
    """Move cameras and focal length by the step, and points to their optimum given it.

    Also returns the cost that the linear model, with the present weights, loses by the step.
    """
    step_F6 = step[:-1].view(CAMERA_DOF, -1).T.contiguous()
    R, t = perturb(state.R_F33, state.t_F3, step_F6)
    new = _State(R, t, state.points_N3.clone(), state.log_focal + step[-1])

    def of_block(item: tuple[Block, _Linear]) -> tuple[Tensor, Tensor]:
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


def _back_substitute(part: _Linear, error_2PW: Tensor) -> Tensor:
    """V⁻¹·Jᵀ·error (P, 3)."""
    y0, y1, y2 = ((part.white_23PW[:, k] * error_2PW).sum((0, 2)) for k in range(3))
    l00, l10, l11, l20, l21, l22 = part.L_6P
    x2 = y2 / l22
    x1 = (y1 - l21 * x2) / l11
    x0 = (y0 - l10 * x1 - l20 * x2) / l00
    return torch.stack((x0, x1, x2), 1)


def _move_points(
    points_P3: Tensor, change_P3: Tensor, anchor: _State, new: _State, step_P6: Tensor
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
    return (new.R_F33.transpose(1, 2) @ (moved - new.t_F3)[:, :, None])[:, :, 0]


def _log_focal_sigma(
    state: _State, layout: list[Block], options: Options, free: Tensor, parallel: Map
) -> float:
    """Square root of the last diagonal element of S⁻¹."""
    if not options.uncertainty or options.focal_prior is None or not len(layout):
        return float("nan")
    S = _linearise(state, layout, options, 0.0, parallel).S[free][:, free]
    unit = torch.zeros(len(S), 1, dtype=S.dtype, device=S.device)
    unit[-1] = 1.0
    factor, info = torch.linalg.cholesky_ex(S)
    if int(info):
        return float("inf")
    return float(torch.cholesky_solve(unit, factor)[-1, 0].sqrt())
