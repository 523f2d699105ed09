"""Gaussian priors on focal length and lens in the reduced camera system (torch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.jacobians import CAMERA_DOF
from dynamicverse.dynamicba.bundle.options import Options
from dynamicverse.dynamicba.bundle.reduced import Plan, System, spread
from dynamicverse.dynamicba.bundle.scatter import normal_draws
from dynamicverse.dynamicba.bundle.state import State, Unknowns


@dataclass(frozen=True)
class Priors:
    """Means and information (1/σ²) of the shared unknowns, and the chain of focal lengths.

    between: information of the change of log f from frame to frame; None if f is shared.
    """

    mean_B: Tensor
    information_B: Tensor
    log_focal: float
    own: float
    between: float | None

    @staticmethod
    def of(options: Options, free: Unknowns, like: Tensor) -> Priors:
        """The priors of what is free."""
        mean, sigma = [], []
        focal, lens = options.focal_prior, options.lens_prior
        log_focal = 0.0 if focal is None else float(np.log(focal.focal))
        for name in free.shared:
            if name == "log_focal":
                assert focal is not None
                mean.append(log_focal)
                sigma.append(focal.log_sigma)
            else:
                given = lens.k1_sigma if name == "k1" else lens.centre_sigma
                assert given is not None
                mean.append(0.0)
                sigma.append(given)
        change = None if focal is None else focal.change_sigma
        return Priors(
            like.new_tensor(mean),
            like.new_tensor(sigma) ** -2,
            log_focal,
            0.0 if focal is None else focal.log_sigma**-2,
            None if change is None else change**-2,
        )

    def cost(self, state: State, free: Unknowns) -> Tensor:
        """Σ (x − mean)²/σ²."""
        total = (self.information_B * self._offsets(state, free).square()).sum()
        if self.between is not None:
            off = state.log_focal - self.log_focal
            share = self.own / len(off)
            total = total + share * off.square().sum()
            total = total + self.between * state.log_focal.diff().square().sum()
        return total

    def add(self, system: System, state: State, free: Unknowns) -> None:
        """Add curvature and slope to the system."""
        count = len(free.shared)
        system.corner_BB[:count, :count].diagonal().add_(self.information_B)
        slope_B = self.information_B * self._offsets(state, free)
        system.corner_BB[:count, count] += slope_B
        system.corner_BB[count, :count] += slope_B
        if self.between is None:
            return
        log_focal = state.log_focal
        share = self.own / len(log_focal)
        difference = log_focal.diff() * self.between
        slope_F = share * (log_focal - self.log_focal)
        slope_F[1:] += difference
        slope_F[:-1] -= difference
        own_F = torch.full_like(log_focal, share)
        own_F[1:] += self.between
        own_F[:-1] += self.between
        system.add_chain(CAMERA_DOF, own_F, slope_F, self.between)

    def draws(self, shape: Plan, free: Unknowns) -> tuple[Tensor, Tensor]:
        """Random gradients that scatter as the priors do: (S, D, K) and (B, K)."""
        shared_BK = normal_draws(self.mean_B, len(free.shared))
        shared_BK = shared_BK * self.information_B.sqrt()[:, None]
        padded = shape.segments * shape.size
        cameras_CFK = self.mean_B.new_zeros((shape.dof, padded, shared_BK.shape[1]))
        if self.between is not None:
            frames = shape.frames
            own_FK, change_FK = normal_draws(self.mean_B, 2, frames)
            own_FK = own_FK * (self.own / frames) ** 0.5
            change_FK = change_FK[1:] * self.between**0.5
            own_FK[1:] += change_FK
            own_FK[:-1] -= change_FK
            cameras_CFK[CAMERA_DOF, :frames] = own_FK
        return spread(cameras_CFK, shape), shared_BK

    def _offsets(self, state: State, free: Unknowns) -> Tensor:
        values = [shared_value(state, name) for name in free.shared]
        return torch.stack(values) - self.mean_B if values else self.mean_B


def shared_value(state: State, name: str) -> Tensor:
    """The present value of an unknown that all cameras share."""
    if name == "log_focal":
        return state.log_focal
    value = state.k1 if name == "k1" else state.centre_2
    assert value is not None
    return value if name == "k1" else value[0 if name == "cx" else 1]
