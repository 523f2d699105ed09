"""What the solver is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynamicverse.dynamicba.bundle.loss import Loss


@dataclass(frozen=True)
class FocalPrior:
    """A Gaussian on log f around `focal` px.

    change_sigma: standard deviation of the change of log f from one frame to the next; then
    every frame has a focal length of its own. None: one for all frames.
    """

    focal: float
    log_sigma: float
    change_sigma: float | None = None


@dataclass(frozen=True)
class LensPrior:
    """Gaussians around zero on what departs from a pinhole; None keeps it as it is.

    centre_sigma: px, of each coordinate of the principal point. k1_sigma: no unit.
    """

    centre_sigma: float | None = None
    k1_sigma: float | None = None


@dataclass(frozen=True)
class Options:
    """How to solve.

    loss: quadratic up to `scale` standard deviations, then linear (huber) or logarithmic
    (cauchy); graduated: bounded (Geman–McClure), reached from a quadratic by graduated
    non-convexity, for many outliers. focal_prior: None keeps the focal length as it is.
    tolerance: stop when further steps will lower the cost by less than this share of it.
    uncertainty: also compute standard deviations, at the cost of one more linearisation.
    """

    loss: Literal["huber", "cauchy", "graduated"] = "huber"
    scale: float = 1.5
    focal_prior: FocalPrior | None = None
    iterations: int = 30
    tolerance: float = 1e-5
    uncertainty: bool = False
    device: str = "cpu"
    lens_prior: LensPrior = LensPrior()

    @property
    def final_loss(self) -> Loss:
        """The loss at the optimum."""
        return Loss("geman_mcclure" if self.loss == "graduated" else self.loss, self.scale)
