"""The scale of the robust loss from the noise of the tracks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats
from dynamicverse.dynamicba.cameras.mapping import Tolerances

EFFICIENT = 2.385  # × the noise: a Cauchy loss is 95 % efficient on normal errors (Rey 1983)
SHARE = 0.25  # of the errors: the rest may drift
QUARTILE = np.sqrt(-2 * np.log(1 - SHARE))  # of the length of a normal error, over its noise
NARROWER = 0.8  # the loss is narrowed when it is so much wider than the noise asks for
LEAST_LOSS = 0.7  # px: smaller errors of a real lens and tracker are no noise, but bend everything


def narrowed_loss(error_M: Floats, tolerances: Tolerances) -> float:
    """The scale of the loss (px) that the errors ask for, never wider than it was."""
    wanted = EFFICIENT * float(np.quantile(error_M, SHARE)) / QUARTILE
    return float(np.clip(wanted, min(LEAST_LOSS, tolerances.loss_px), tolerances.loss_px))


def is_wide(error_M: Floats, tolerances: Tolerances) -> bool:
    """Whether the loss is clearly wider than the errors ask for."""
    return narrowed_loss(error_M, tolerances) < NARROWER * tolerances.loss_px


def narrower(error_M: Floats, tolerances: Tolerances) -> Tolerances:
    """One step to the loss that the errors ask for: at most half as wide."""
    wanted = narrowed_loss(error_M, tolerances)
    return replace(tolerances, loss_px=max(wanted, tolerances.loss_px / 2))
