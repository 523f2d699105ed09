"""Robust losses on squared residuals, and their weights (torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["huber", "cauchy", "geman_mcclure"]


@dataclass(frozen=True)
class Loss:
    """ρ of the squared residual s in standard deviations; quadratic near zero.

    Beyond `scale` standard deviations linear (huber), logarithmic (cauchy) or bounded
    (geman_mcclure). convexity: μ of graduated non-convexity (Yang et al. 2020), by which
    geman_mcclure becomes quadratic as μ → ∞; 1 is the loss itself.
    """

    kind: Kind
    scale: float
    convexity: float = 1.0


def robust(squared_PW: Tensor, weight_PW: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """ρ and the factor by which an observation's squared residual counts at this point."""
    bound = loss.scale**2
    normalised = squared_PW * weight_PW
    if loss.kind == "geman_mcclure":
        ratio = (normalised / (loss.convexity * bound) + 1).reciprocal()
        return normalised * ratio, ratio.square() * weight_PW
    if loss.kind == "cauchy":
        ratio = normalised.div_(bound)
        factor = weight_PW / (1 + ratio)
        return ratio.log1p_().mul_(bound), factor
    root = normalised.clamp(min=bound).sqrt_()
    linear = root * (2 * loss.scale) - bound
    rho = torch.where(normalised > bound, linear, normalised)
    return rho, weight_PW * (loss.scale / root)


def slope(squared_PW: Tensor, weight_PW: Tensor, loss: Loss) -> Tensor:
    """Mean derivative of the influence ρ'·r along and across a residual in the plane.

    With w(s) = ρ'(s) as a function of the squared residual s it is w + w'·s.
    """
    bound = loss.scale**2
    s = squared_PW * weight_PW
    if loss.kind == "geman_mcclure":
        m = loss.convexity * bound
        factor = m / (m + s)
        return factor.square() * (1 - 2 * s / (m + s))
    if loss.kind == "cauchy":
        factor = bound / (bound + s)
        return factor.square()
    outside = s > bound
    return torch.where(outside, 0.5 * loss.scale / s.clamp(min=bound).sqrt(), torch.ones_like(s))
