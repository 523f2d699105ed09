"""Robust bundle adjustment: Levenberg–Marquardt with the points eliminated (torch, float64).

Minimises Σ ρ(w·‖π(R·X + t) − x‖²) over cameras, points and, with priors, focal length and lens,
with the steps of `normal.py`. The damping follows Nielsen's schedule ("Damping parameter in
Marquardt's method", 1999).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Floats, Layout, Observations, arrange
from dynamicverse.dynamicba.bundle.covariance import Uncertainty, uncertainty
from dynamicverse.dynamicba.bundle.jacobians import CAMERA_DOF, project, residuals
from dynamicverse.dynamicba.bundle.loss import Loss
from dynamicverse.dynamicba.bundle.normal import linearise, retract, total_cost, unpack
from dynamicverse.dynamicba.bundle.options import FocalPrior, LensPrior, Options
from dynamicverse.dynamicba.bundle.priors import Priors
from dynamicverse.dynamicba.bundle.reduced import Plan, plan
from dynamicverse.dynamicba.bundle.state import Freedom, State, Structure, Unknowns, unknowns
from dynamicverse.dynamicba.threads import Map, worker_threads

__all__ = [
    "FocalPrior",
    "LensPrior",
    "Options",
    "Solution",
    "Structure",
    "Uncertainty",
    "free_cameras",
    "solve",
]

FIRST_DAMPING = 1e-4
LEAST_DAMPING = 1e-9
LAST_DAMPING = 1e10
MOST_SHRINK = 0.1
ROUNDING = 1e-9  # of the cost: a smaller rise is rounding, there is nothing left to gain
SLOWEST = 0.9  # rate of convergence that is assumed at worst
CONVEX_AT = 50.0  # percentile of the errors up to which graduated non-convexity starts convex
CONVEX_MARGIN = 3.0  # Geman–McClure is convex up to a third of μ·c²
GRADUATION = 2.0  # by which its convexity falls a round
ROUND_ITERATIONS, ROUND_TOLERANCE = 3, 1e-2


@dataclass(frozen=True)
class Solution:
    """The optimum found.

    cost: Σρ and priors at the end; error_M: reprojection errors in px. uncertainty: None when
    it was not asked for or there were no observations.
    """

    structure: Structure
    error_M: Floats
    initial_cost: float
    cost: float
    iterations: int
    converged: bool
    uncertainty: Uncertainty | None


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
    """Adjust cameras (where free), points and, with priors, focal length and lens.

    Points without observations and cameras without freedom stay as they are.
    """
    device = torch.device(options.device)
    free = unknowns(options)
    layout = arrange(observations, device)
    shape = plan(len(start.t_F3), free.dof, len(free.shared), layout.widest)
    state = State.of(start, free, device)
    with worker_threads(device, len(layout.blocks)) as parallel:
        problem = _Problem(
            layout,
            free,
            shape,
            Freedom.of(free_F6, free, shape, state.t_F3),
            Priors.of(options, free, state.t_F3),
            parallel,
        )
        found = problem.graduated(state, options) if options.loss == "graduated" else None
        found = problem.minimise(found or _Progress(state), options.final_loss, options)
        sigmas = problem.uncertainty(found.state, options) if options.uncertainty else None
    errors = _errors(found.state, layout)
    return Solution(
        found.state.structure(),
        errors.cpu().numpy(),
        found.initial,
        found.cost,
        found.iterations,
        found.converged,
        sigmas,
    )


@dataclass(frozen=True)
class _Progress:
    """Where a minimisation is."""

    state: State
    damping: float = FIRST_DAMPING
    initial: float = float("nan")
    cost: float = float("nan")
    iterations: int = 0
    converged: bool = False


@dataclass(frozen=True)
class _Problem:
    layout: Layout
    free: Unknowns
    plan: Plan
    freedom: Freedom
    priors: Priors
    parallel: Map

    def minimise(self, begin: _Progress, loss: Loss, options: Options) -> _Progress:
        """Levenberg–Marquardt from where `begin` is, `options.iterations` in all."""
        state, damping, growth = begin.state, begin.damping, 2.0
        cost = initial = float(self._cost(state, loss))
        iteration, converged = begin.iterations, not len(self.layout.blocks)
        decrease = 0.0
        while iteration < options.iterations and not converged:
            iteration += 1
            trial, trial_cost, expected, bad = self._try(state, loss, damping)
            if not bad and trial_cost < cost:
                decrease, before = cost - trial_cost, decrease
                gain = decrease / max(expected, 1e-300)
                state, cost = trial, trial_cost
                converged = _to_come(decrease, before) < options.tolerance * cost
                shrink = max(MOST_SHRINK, 1 - (2 * min(gain, 1.0) - 1) ** 3)
                damping, growth = max(damping * shrink, LEAST_DAMPING), 2.0
                continue
            converged = not bad and trial_cost - cost < ROUNDING * cost
            damping, growth = damping * growth, growth * 2
            converged = converged or damping > LAST_DAMPING
        initial = initial if np.isnan(begin.initial) else begin.initial
        return _Progress(state, damping, initial, cost, iteration, converged)

    def graduated(self, state: State, options: Options) -> _Progress:
        """Follow the minimum from a nearly quadratic loss to the bounded one.

        Graduated non-convexity (Yang, Antonante, Tzoumas, Carlone: "Graduated non-convexity for
        robust spatial perception", 2020), with a few steps a round.
        """
        if not len(self.layout.blocks):
            return _Progress(state)
        loss = options.final_loss
        weight_M = _slots([b.weight_PW for b in self.layout.blocks], self.layout)
        squared = _errors(state, self.layout).square() * weight_M
        typical = float(np.percentile(squared.cpu().numpy(), CONVEX_AT))
        convexity = CONVEX_MARGIN * typical / loss.scale**2
        progress = _Progress(state, initial=float(self._cost(state, loss)))
        while convexity > 1:
            last = progress.iterations + ROUND_ITERATIONS
            some = replace(options, iterations=last, tolerance=ROUND_TOLERANCE)
            progress = self.minimise(progress, replace(loss, convexity=convexity), some)
            progress = replace(progress, damping=min(progress.damping, FIRST_DAMPING))
            convexity /= GRADUATION
        return replace(progress, iterations=0)

    def uncertainty(self, state: State, options: Options) -> Uncertainty | None:
        """Standard deviations at the optimum."""
        if not len(self.layout.blocks):
            return None
        system, linear = linearise(
            state, self.layout, self.free, self.plan, options.final_loss, 0.0, self.parallel
        )
        squared = _errors(state, self.layout).square()
        weight_M = _slots([b.weight_PW for b in self.layout.blocks], self.layout)
        return uncertainty(
            system,
            linear,
            self.layout,
            self.priors,
            state,
            self.free,
            self.freedom,
            (squared, weight_M),
            options.final_loss,
        )

    def _cost(self, state: State, loss: Loss) -> Tensor:
        return total_cost(state, self.layout, loss, self.parallel) + self.priors.cost(
            state, self.free
        )

    def _try(self, state: State, loss: Loss, damping: float) -> tuple[State, float, float, bool]:
        """One step: the new state, its cost, the decrease expected, and whether it failed."""
        system, linear = linearise(
            state, self.layout, self.free, self.plan, loss, damping, self.parallel
        )
        self.priors.add(system, state, self.free)
        factor = system.factor(self.freedom.cameras_SD, self.freedom.shared_B)
        step = unpack(self.plan, *factor.solve())
        trial, cost, expected = retract(
            state, step, self.layout, linear, self.free, loss, self.parallel
        )
        cost = cost + self.priors.cost(trial, self.free)
        told = torch.stack((cost, expected, factor.bad.to(cost.dtype))).tolist()
        return trial, told[0], told[1], told[2] != 0 or not np.isfinite(told[0])


def _to_come(decrease: float, before: float) -> float:
    """What further steps will gain if they go on shrinking as the last two did."""
    rate = min(decrease / max(before, 1e-300), SLOWEST)
    return decrease * min(1.0, rate / (1 - rate))


def _errors(state: State, layout: Layout) -> Tensor:
    """Reprojection errors (M,) in px."""
    planes = []
    for block in layout.blocks:
        R, t, points, intrinsics = state.window(block)
        error = residuals(project(R, t, points), intrinsics, block.xy_2PW)
        planes.append(error.square_().sum(0).sqrt_())
    return _slots(planes, layout)


def _slots(planes_PW: list[Tensor], layout: Layout) -> Tensor:
    """The values of the observations (M,) from those of the slots of all blocks."""
    if not planes_PW:
        return torch.zeros(0, dtype=torch.float64)
    return torch.cat([plane.reshape(-1) for plane in planes_PW])[layout.slot_M]
