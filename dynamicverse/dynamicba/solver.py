"""Robust bundle adjustment: Levenberg–Marquardt with the points eliminated (torch, float64).

Minimises Σ ρ(w·‖π(R·X + t) − x‖²) over cameras, points and a shared focal length, with the
steps of `normal.py`. The damping follows Nielsen's schedule ("Damping parameter in Marquardt's
method", 1999).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicverse.dynamicba.blocks import Block, Floats, Observations, blocks
from dynamicverse.dynamicba.jacobians import CAMERA_DOF, project, residuals
from dynamicverse.dynamicba.normal import (
    FocalPrior,
    Options,
    State,
    linearise,
    retract,
    solve_reduced,
    total_cost,
    windowed,
)
from dynamicverse.dynamicba.threads import Map, worker_threads

__all__ = ["FocalPrior", "Options", "Solution", "Structure", "free_cameras", "solve"]

FIRST_DAMPING = 1e-4
LEAST_DAMPING = 1e-9
LAST_DAMPING = 1e10
MOST_SHRINK = 0.1


@dataclass(frozen=True)
class Structure:
    """Cameras x = R·X + t (world to camera), world points, and the focal length in px."""

    R_F33: Floats
    t_F3: Floats
    points_N3: Floats
    focal: float


@dataclass(frozen=True)
class Solution:
    """The optimum found.

    cost: Σρ at the end; log_focal_sigma: standard deviation of log f for observations with the
    stated weights (NaN when it was not asked for or f was kept);
    error_M: reprojection errors in px.
    """

    structure: Structure
    error_M: Floats
    initial_cost: float
    cost: float
    iterations: int
    converged: bool
    log_focal_sigma: float


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
    options: Options,
) -> Solution:
    """Adjust cameras (where free), points and, with a prior, the focal length.

    Points without observations and cameras without freedom stay as they are.
    """
    device = torch.device(options.device)
    layout = blocks(observations, device)
    state = State(
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
    state: State, layout: list[Block], free: Tensor, options: Options, parallel: Map
) -> tuple[State, float, float, int, bool]:
    """Levenberg–Marquardt: state, first and last cost, iterations, converged."""
    cost = initial = total_cost(state, layout, options, parallel)
    damping, growth = FIRST_DAMPING, 2.0
    converged, iteration = not len(layout), 0
    while iteration < options.iterations and not converged:
        iteration += 1
        normal = linearise(state, layout, options, damping, parallel)
        step = solve_reduced(normal, free)
        if step is not None:
            trial, expected = retract(state, step, layout, normal, parallel)
            trial_cost = total_cost(trial, layout, options, parallel)
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


def _errors(state: State, layout: list[Block], count: int) -> Floats:
    focal = state.log_focal.exp()
    errors = np.zeros(count)
    for block in layout:
        difference = residuals(project(*windowed(state, block)), focal, block.xy_2PW)
        norm = difference.square_().sum(0).sqrt_().cpu().reshape(-1)
        errors[block.index_K.numpy()] = norm[block.slot_K].numpy()
    return errors


def _log_focal_sigma(
    state: State, layout: list[Block], options: Options, free: Tensor, parallel: Map
) -> float:
    """Square root of the last diagonal element of S⁻¹."""
    if not options.uncertainty or options.focal_prior is None or not len(layout):
        return float("nan")
    S = linearise(state, layout, options, 0.0, parallel).S[free][:, free]
    unit = torch.zeros(len(S), 1, dtype=S.dtype, device=S.device)
    unit[-1] = 1.0
    factor, info = torch.linalg.cholesky_ex(S)
    if int(info):
        return float("inf")
    return float(torch.cholesky_solve(unit, factor)[-1, 0].sqrt())
