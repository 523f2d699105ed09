"""How far the noise of whole tracks moves the cameras: a sandwich covariance by tracks (torch).

A tracker drifts: the errors of one track are correlated along it, and a covariance that takes
them as independent is far too small. Tracks as clusters (Liang, Zeger, "Longitudinal data
analysis using generalized linear models", 1986) need no model of the drift: with the gradient
s_k that track k contributes at the optimum, the estimate scatters by A⁻¹·(Σ s_k·s_kᵀ)·A⁻¹. Its
diagonal is the mean square of A⁻¹·Σ ±s_k over random signs (a wild cluster bootstrap: Cameron,
Gelbach, Miller, 2008), so that one factorisation serves, banded or dense.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Layout
from dynamicverse.dynamicba.bundle.normal import Linear
from dynamicverse.dynamicba.bundle.reduced import Factor, Plan, spread

DRAWS = 256  # of signs: standard deviations are then within 5 % of their limit


def track_draws(layout: Layout, linear: list[Linear], plan: Plan) -> tuple[Tensor, Tensor]:
    """Σ ±s_k of the segments' unknowns (S, D, K) and of the shared ones (B, K), for K draws."""
    like = linear[0].white_23PW
    signs = _signs(1 + max(int(block.order_P.max()) for block in layout.blocks))
    cameras_CFK = like.new_zeros((plan.dof, plan.segments * plan.size, DRAWS))
    shared_BK = like.new_zeros((plan.shared, DRAWS))
    for block, part in zip(layout.blocks, linear, strict=True):
        cameras_PCW, shared_PB = _scores(part, plan.dof)
        sign_PK = signs[block.order_P.cpu()].to(like)
        window = slice(block.first, block.first + block.window)
        flat = cameras_PCW.reshape(len(sign_PK), -1).T @ sign_PK
        cameras_CFK[:, window] += flat.view(plan.dof, block.window, DRAWS)
        shared_BK += shared_PB.T @ sign_PK
    return spread(cameras_CFK, plan), shared_BK


def mean_squares(factor: Factor, cameras_SDK: Tensor, shared_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares over the draws of A⁻¹·draw: (S, D) and (B,)."""
    cameras, shared = factor.apply(cameras_SDK, shared_BK)
    return cameras.square().mean(2), shared.square().mean(1)


def normal_draws(like: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers (*shape, K), the same ones every time."""
    return torch.from_numpy(np.random.default_rng(1).normal(size=(*shape, DRAWS))).to(like)


def _signs(tracks: int) -> Tensor:
    """±1 (N, K), the same ones every time."""
    bits = np.random.default_rng(0).integers(0, 2, (tracks, DRAWS), np.int8)
    return torch.from_numpy(2 * bits - 1)


def _scores(part: Linear, dof: int) -> tuple[Tensor, Tensor]:
    """Gradients of each track with its point eliminated: cameras (P, dof, W), shared (P, B)."""
    J, white = part.jacobian.columns_2PCW, part.white_23PW
    # the residual that is left when the point takes its step
    pull_3P = (white * J[:, None, :, -1]).sum((0, 3))
    left_2PW = J[:, :, -1] - (white * pull_3P[None, :, :, None]).sum(1)
    product_PCW = (J[:, :, :-1] * left_2PW[:, :, None]).sum(0)
    return product_PCW[:, :dof], product_PCW[:, dof:].sum(2)
