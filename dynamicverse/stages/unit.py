"""In what unit a reconstruction is, and how sure its focal length is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dynamicverse.dynamicba.dense.metric_scale import prior_scale
from dynamicverse.dynamicba.dense.views import SparsePoints
from dynamicverse.formats import depth_exr, intrinsics, tracks
from dynamicverse.formats.reconstruction_info import Scale
from dynamicverse.scene import Scene

if TYPE_CHECKING:
    from dynamicverse.dynamicba.cameras.solve import CameraSolution


def in_metres(
    scene: Scene, solution: CameraSolution, tracked: tracks.Tracks
) -> tuple[CameraSolution, Scale]:
    """The solution in metres where a prior in metres tells its unit."""
    has_prior = bool(scene.files("depth_prior"))
    metric = has_prior and intrinsics.read(scene.prior_intrinsics).metric
    if solution.status != "full":  # depth is the prior's own, if there is one
        known = has_prior and bool(solution.registered_F.any())
        return solution, "unobservable" if not known else "metric" if metric else "relative"
    if not metric:
        return solution, "relative"
    found = prior_scale(
        SparsePoints(solution.points_N3, tracked.visibility_FN & solution.static_N),
        tracked.tracks_FN2,
        solution.c2w_F44,
        solution.registered_F,
        lambda frame: depth_exr.read(scene.depth_prior(frame))[0],
    )
    if found is None:
        told = "the depth prior is in metres, but shows too few static points to tell the scale"
        return replace(solution, statements=[*solution.statements, told]), "relative"
    told = f"metres are those of the depth prior: frames differ by {100 * found.spread:.1f} %"
    solution = solution.in_unit(found.metres)
    return replace(solution, statements=[*solution.statements, told]), "metric"


def focal_sigma(solution: CameraSolution) -> float | None:
    """The mean standard deviation of the focal lengths in px; None where not known."""
    sigma_F = solution.focal_sigma_F
    known = sigma_F is not None and bool(np.isfinite(sigma_F).any())
    return float(np.nanmean(sigma_F)) if sigma_F is not None and known else None
