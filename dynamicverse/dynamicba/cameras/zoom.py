"""One focal length for a clip, or one for every frame?

A clip that zooms, taken for one focal length, leaves errors that no camera path explains. A few
steps with a focal length a frame tell whether these are worth the unknowns.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np

from dynamicverse.dynamicba.bundle.covariance import RESIDUAL_DOF
from dynamicverse.dynamicba.bundle.solver import FocalPrior, LensPrior, Solution, Structure
from dynamicverse.dynamicba.cameras.incremental import finish
from dynamicverse.dynamicba.cameras.mapping import Map

CHANGE = 0.01  # of log f from frame to frame, standard deviation
TRIAL_ITERATIONS, TRIAL_TOLERANCE = 8, 1e-6
ROUNDS = 3  # focal length and path are one long valley: most clips need two


def finish_either(
    world: Map, prior: FocalPrior, lens_prior: LensPrior, largest_sigma: float
) -> tuple[Map, Solution | None, FocalPrior]:
    """`finish` with one focal length, or with one a frame; the prior says which.

    largest_sigma: of log f; a zoom whose focal length is known no better is not believed.
    """
    before = deepcopy(world)
    solution = finish(world, prior, lens_prior)
    changing = replace(prior, change_sigma=CHANGE)
    if solution is None or not _zooms(world, solution, changing, lens_prior):
        return world, solution, prior
    for _ in range(ROUNDS):
        zoomed = finish(before, changing, lens_prior)
        if zoomed is None or zoomed.converged:
            break
    if zoomed is None or zoomed.uncertainty is None:
        return world, solution, prior
    if zoomed.uncertainty.log_focal > largest_sigma:
        return world, solution, prior
    return before, zoomed, changing


def _zooms(world: Map, solution: Solution, prior: FocalPrior, lens_prior: LensPrior) -> bool:
    """Whether a focal length a frame explains the tracks better by more than its unknowns.

    world, solution: adjusted with one focal length. The Bayesian information criterion (Schwarz,
    "Estimating the dimension of a model", 1978) on the robust cost, the noise unknown. Errors go
    together along a track, so a track counts as one observation.
    """
    trial = deepcopy(world).adjust(prior, TRIAL_ITERATIONS, TRIAL_TOLERANCE, lens_prior=lens_prior)
    if trial is None:
        return False
    independent = RESIDUAL_DOF * len(np.unique(world.raw.point_M[world.inlier_M]))
    gain = independent * np.log(solution.cost / trial.cost)
    unknowns = int(world.registered_F.sum()) - 1
    return bool(gain > unknowns * np.log(independent))


def stated(structure: Structure) -> str:
    """The zoom in plain words."""
    focal_F = structure.lens.focal_F(structure.focal, len(structure.t_F3))
    return f"the clip zooms: focal length {focal_F.min():.0f} to {focal_F.max():.0f} px"
