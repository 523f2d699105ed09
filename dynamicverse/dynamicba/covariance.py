"""Standard deviations of the cameras at the optimum of a robust bundle adjustment (torch).

The reduced camera system S is the information of cameras and intrinsics with the points
marginalised. An M-estimator with influence ψ scatters by V = κ/τ² · (Σ JᵀJ)⁻¹ with κ the mean
square of ψ and τ the mean of its derivative (Huber, "Robust Statistics", 1981), both estimated
from the residuals themselves: the noise need not be known, nor the share of outliers. S is
summed with the weights of the loss, whose mean stands in for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dynamicverse.dynamicba.blocks import Floats
from dynamicverse.dynamicba.jacobians import CAMERA_DOF
from dynamicverse.dynamicba.loss import Loss, robust, slope
from dynamicverse.dynamicba.priors import Priors
from dynamicverse.dynamicba.reduced import System
from dynamicverse.dynamicba.state import Freedom, State, Unknowns

POINT_DOF, RESIDUAL_DOF = 3, 2


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations, relative to the cameras and the coordinate that the gauge holds.

    pose_F6: of a rotation about the axes of the camera (rad), then of its centre along these
    axes (unit of the points); zero where a camera is held.
    log_focal_F: of log f of every frame; centre_2: px; k1; zero where held.
    noise: of a residual in units of its stated standard deviation.
    """

    pose_F6: Floats
    log_focal_F: Floats
    centre_2: Floats
    k1: float
    noise: float

    @property
    def log_focal(self) -> float:
        """Of the (mean) log f."""
        return float(np.mean(self.log_focal_F))


def uncertainty(
    system: System,
    priors: Priors,
    state: State,
    free: Unknowns,
    freedom: Freedom,
    residuals: tuple[Tensor, Tensor, int],
    loss: Loss,
) -> Uncertainty:
    """From the undamped system (without priors) at the optimum; infinite where it is singular.

    residuals: squared errors in px² (M,), their weights (M,), and the number of points.
    """
    variance, noise = _scatter(system, free, freedom, residuals, loss)
    system.diagonal_SDD /= variance
    system.below_SDD /= variance
    system.border_SDB /= variance
    system.corner_BB /= variance
    priors.add(system, state, free)
    factor = system.factor(freedom.cameras_SD, freedom.shared_B)
    frames, shape = system.plan.frames, system.plan
    if int(factor.bad):
        endless = np.full(frames, np.inf)
        return Uncertainty(
            np.full((frames, CAMERA_DOF), np.inf), endless, np.full(2, np.inf), np.inf, noise
        )
    cameras_SD, shared_BB = factor.variances()
    cameras = cameras_SD.view(shape.segments, shape.dof, shape.size).transpose(1, 2)
    sigma_FC = cameras.reshape(-1, shape.dof)[:frames].clamp(min=0).sqrt().cpu().numpy()
    shared = dict(zip(free.shared, shared_BB.diagonal().clamp(min=0).sqrt().tolist(), strict=True))
    log_focal_F = np.full(frames, shared.get("log_focal", 0.0))
    return Uncertainty(
        sigma_FC[:, :CAMERA_DOF],
        sigma_FC[:, CAMERA_DOF] if free.own_focal else log_focal_F,
        np.array([shared.get("cx", 0.0), shared.get("cy", 0.0)]),
        shared.get("k1", 0.0),
        noise,
    )


def _scatter(
    system: System,
    free: Unknowns,
    freedom: Freedom,
    residuals: tuple[Tensor, Tensor, int],
    loss: Loss,
) -> tuple[float, float]:
    """The factor on S⁻¹, and the standard deviation of a residual.

    The residuals of a fit are smaller than the noise, by the unknowns that they determine.
    """
    squared_M, weight_M, points = residuals
    _, factor_M = robust(squared_M, weight_M, loss)
    weights = factor_M / weight_M
    s_M = squared_M * weight_M
    count = len(squared_M)
    unknown = float(freedom.cameras_SD.sum()) + len(free.shared) + POINT_DOF * points
    spare = max(RESIDUAL_DOF * count - unknown, 1.0) / (RESIDUAL_DOF * count)
    influence = float((weights.square() * s_M).mean()) / RESIDUAL_DOF / spare
    steepness = max(float(slope(squared_M, weight_M, loss).mean()), 1e-6)
    mean_weight = float(weights.mean())
    variance = max(influence * mean_weight / steepness**2, 1e-300)
    return variance, float(np.sqrt(influence)) / steepness
