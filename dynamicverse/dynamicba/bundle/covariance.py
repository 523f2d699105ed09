"""Standard deviations of the cameras at the optimum of a robust bundle adjustment (torch).

The reduced camera system S is the information of cameras and intrinsics with the points
marginalised. An M-estimator with influence ψ scatters by V = κ/τ² · (Σ JᵀJ)⁻¹ with κ the mean
square of ψ and τ the mean of its derivative (Huber, "Robust Statistics", 1981), both estimated
from the residuals themselves: the noise need not be known, nor the share of outliers. S is
summed with the weights of the loss, whose mean stands in for them.

That holds for errors that are independent. Those of a tracker are not: the scatter of whole
tracks (`scatter.py`) and of parts of the picture (`jackknife.py`) is computed too, and the
largest is stated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Floats, Layout
from dynamicverse.dynamicba.bundle.jackknife import group_variances
from dynamicverse.dynamicba.bundle.jacobians import CAMERA_DOF
from dynamicverse.dynamicba.bundle.loss import Loss, robust, slope
from dynamicverse.dynamicba.bundle.normal import Linear
from dynamicverse.dynamicba.bundle.priors import Priors
from dynamicverse.dynamicba.bundle.reduced import Plan, System
from dynamicverse.dynamicba.bundle.scatter import mean_squares, track_draws
from dynamicverse.dynamicba.bundle.state import Freedom, State, Unknowns

POINT_DOF, RESIDUAL_DOF = 3, 2


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations, relative to the cameras and the coordinate that the gauge holds.

    Of noise that is correlated in tracks, in parts of the picture, or not, whichever gives most.
    pose_F6: of a rotation about the axes of the camera (rad), then of its centre along these
    axes (unit of the points); zero where a camera is held.
    log_focal_F: of log f of every frame; centre_2: px; k1; zero where held.
    noise: of a residual in units of its stated standard deviation.
    correlation: variance of log f over what it would be with independent errors; 1 where it
    is held.
    """

    pose_F6: Floats
    log_focal_F: Floats
    centre_2: Floats
    k1: float
    noise: float
    correlation: float = 1.0

    @property
    def log_focal(self) -> float:
        """Of the (mean) log f."""
        return float(np.mean(self.log_focal_F))


def uncertainty(
    system: System,
    linear: list[Linear],
    layout: Layout,
    priors: Priors,
    state: State,
    free: Unknowns,
    freedom: Freedom,
    residuals: tuple[Tensor, Tensor],
    loss: Loss,
) -> Uncertainty:
    """From the undamped system (without priors) at the optimum; infinite where it is singular.

    residuals: squared errors in px² (M,) and their weights (M,).
    """
    found = _scatter(system, free, freedom, (*residuals, layout.observed), loss)
    alone = _with_priors(system, 1 / found.variance, priors, state, free)
    whole = _with_priors(system, found.curvature, priors, state, free)
    independent, curved = (s.factor(freedom.cameras_SD, freedom.shared_B) for s in (alone, whole))
    if int(independent.bad) or int(curved.bad):
        return _endless(system.plan.frames, found.noise)
    independent_SD, shared_BB = independent.variances()
    independent_B = shared_BB.diagonal()
    prior_SDK, prior_BK = priors.draws(system.plan, free)
    cameras_SDK, shared_BK = track_draws(layout, linear, system.plan)
    scale = found.spare**-0.5
    tracks_SD, tracks_B = mean_squares(
        curved, scale * cameras_SDK + prior_SDK, scale * shared_BK + prior_BK
    )
    parts = group_variances(whole, linear, layout, found.curvature, freedom)
    if parts is None:
        return _endless(system.plan.frames, found.noise)
    parts_SD, parts_B = parts
    given_SD, given_B = mean_squares(curved, prior_SDK, prior_BK)
    largest_SD = torch.maximum(independent_SD, torch.maximum(tracks_SD, parts_SD + given_SD))
    largest_B = torch.maximum(independent_B, torch.maximum(tracks_B, parts_B + given_B))
    sigma_FC = _by_camera(largest_SD, system.plan)
    sigma_B = largest_B.clamp(min=0).sqrt()
    shared = dict(zip(free.shared, sigma_B.tolist(), strict=True))
    frames = system.plan.frames
    log_focal_F = np.full(frames, shared.get("log_focal", 0.0))
    ratio = 1.0
    if free.own_focal:
        log_focal_F = sigma_FC[:, CAMERA_DOF]
        alone_F = _by_camera(independent_SD, system.plan)[:, CAMERA_DOF]
        ratio = float(np.mean((log_focal_F / alone_F) ** 2))
    elif "log_focal" in free.shared:
        at = free.shared.index("log_focal")
        ratio = float(sigma_B[at] ** 2 / independent_B[at])
    return Uncertainty(
        sigma_FC[:, :CAMERA_DOF],
        log_focal_F,
        np.array([shared.get("cx", 0.0), shared.get("cy", 0.0)]),
        shared.get("k1", 0.0),
        found.noise,
        ratio,
    )


def _with_priors(
    system: System, factor: float, priors: Priors, state: State, free: Unknowns
) -> System:
    """The data's system, times a number, and the priors."""
    scaled = system.scaled(factor)
    priors.add(scaled, state, free)
    return scaled


def _by_camera(variance_SD: Tensor, shape: Plan) -> Floats:
    """Standard deviations (F, dof)."""
    cameras = variance_SD.view(shape.segments, shape.dof, shape.size).transpose(1, 2)
    flat = cameras.reshape(-1, shape.dof)[: shape.frames]
    return np.asarray(flat.clamp(min=0).sqrt().cpu().numpy(), np.float64)


def _endless(frames: int, noise: float) -> Uncertainty:
    endless = np.full(frames, np.inf)
    return Uncertainty(
        np.full((frames, CAMERA_DOF), np.inf), endless, np.full(2, np.inf), np.inf, noise
    )


@dataclass(frozen=True)
class _Scatter:
    """variance: factor on S⁻¹ with independent errors. curvature: of the cost over S.

    noise: standard deviation of a residual. spare: share of the residuals' freedom that the
    cameras have left of what the points left.
    """

    variance: float
    curvature: float
    noise: float
    spare: float


def _scatter(
    system: System,
    free: Unknowns,
    freedom: Freedom,
    residuals: tuple[Tensor, Tensor, int],
    loss: Loss,
) -> _Scatter:
    """Of the residuals: squared errors, weights, and the number of points.

    The residuals of a fit are smaller than the noise, by the unknowns that they determine.
    """
    squared_M, weight_M, points = residuals
    _, factor_M = robust(squared_M, weight_M, loss)
    weights = factor_M / weight_M
    s_M = squared_M * weight_M
    count = len(squared_M)
    cameras = float(freedom.cameras_SD.sum()) + len(free.shared)
    of_points = max(RESIDUAL_DOF * count - POINT_DOF * points, 1.0)
    left = max(of_points - cameras, 1.0)
    spare = left / (RESIDUAL_DOF * count)
    influence = float((weights.square() * s_M).mean()) / RESIDUAL_DOF / spare
    steepness = max(float(slope(squared_M, weight_M, loss).mean()), 1e-6)
    mean_weight = float(weights.mean())
    variance = max(influence * mean_weight / steepness**2, 1e-300)
    noise = float(np.sqrt(influence)) / steepness
    return _Scatter(variance, steepness / mean_weight, noise, left / of_points)
