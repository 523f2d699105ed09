"""The noise of the tracks, and the focal length at which it is least.

A robust loss that is wider than the noise lets slow drift of a tracker bend the solution: with
focal length and distortion free, thousands of sliding tracks outvote the good ones. So the
loss is narrowed to the noise of the better half of the observations, in steps from a wide one,
and that from several focal lengths, since a solution that was bent has its own minimum. The
least median of the errors decides (Rousseeuw, "Least median of squares regression", 1984).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Indices, Observations
from dynamicverse.dynamicba.bundle.solver import Options, Structure, free_cameras, solve
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.mapping import Map, Tolerances, renumber
from dynamicverse.dynamicba.cameras.noise import LEAST_LOSS, narrowed_loss
from dynamicverse.dynamicba.cameras.triangulation import triangulate
from dynamicverse.geometry.lie import so3_exp, so3_log

STEP, STEPS = 1.3, 3  # factor on the focal length, and how often either way
SPAN, FRAMES = 72, 24  # registered frames that are looked at, and how many of them take part
PER_FRAME = 150  # tracks
LEAST_SEEN = 4  # frames that see a track
STEP_ITERATIONS, STEP_TOLERANCE = 10, 1e-3
FALLS = 0.98  # of the median error: then a narrower loss is tried
CLEARER = 0.9  # a median so much lower is worth leaving a focal length


Solved = tuple[Structure, float, float]  # cameras, scale of the loss, median error


@dataclass(frozen=True)
class Sharp:
    """Cameras of some frames, the scale of the loss that fits the noise, the median error (px)."""

    frames: Indices
    structure: Structure
    loss_px: float
    median: float


def sharpen(graph: TrackGraph, world: Map, expected: float, steps: int = STEPS) -> Sharp | None:
    """The sharpest of solutions with fixed focal lengths; None with too few observations.

    From the focal length so far on to where the errors fall, `steps` steps at most. Of those that
    fit about as well, the one nearest to the expected focal length (px) is taken.
    """
    frames = _frames(world)
    used_N = graph.thinned(frames, PER_FRAME)
    seen, tracks = renumber(graph.observations(frames, LEAST_SEEN, used_N))
    if not len(tracks):
        return None
    position = np.full(graph.frames, -1)
    position[frames] = np.arange(len(frames))
    seen = replace(seen, frame_M=position[seen.frame_M])

    def at(step: int) -> Solved:
        start = _stretched(world, frames, STEP**step)
        return _narrowed(seen, len(tracks), start, world.tolerances)

    solved = _searched(at, steps)
    least = min(median for _, _, median in solved)
    close = [sharp for sharp in solved if CLEARER * sharp[2] <= least]
    best = min(close, key=lambda sharp: abs(np.log(sharp[0].focal / expected)))
    return Sharp(frames, *best)


def _searched(at: Callable[[int], Solved], steps: int) -> list[Solved]:
    """Step 0, its neighbours, and onwards while the median error falls."""
    solved = [at(0)]
    if not steps:
        return solved
    down, up = at(-1), at(1)
    side, last = (-1, down) if down[2] < up[2] else (1, up)
    solved += [down, up]
    step, before = 1, solved[0]
    while step < steps and last[2] < before[2]:
        step, before, last = step + 1, last, at(side * (step + 1))
        solved.append(last)
    return solved


def _frames(world: Map) -> Indices:
    """Some of the registered frames, from the stretch that holds most observations."""
    registered = np.flatnonzero(world.registered_F)
    if len(registered) > SPAN:
        per_frame = np.bincount(
            world.observations.frame_M[world.inlier_M], minlength=len(world.registered_F)
        )[registered]
        held = np.convolve(per_frame, np.ones(SPAN, np.int64), "valid")
        first = int(np.argmax(held))
        registered = registered[first : first + SPAN]
    chosen = np.linspace(0, len(registered) - 1, min(FRAMES, len(registered)))
    return np.asarray(registered[chosen.round().astype(np.int64)], np.int64)


def _stretched(world: Map, frames: Indices, factor: float) -> Structure:
    """Cameras as a focal length times `factor` would see about the same pictures.

    To first order turns shrink and the scene deepens with the focal length.
    """
    old = world.structure
    R0, t0 = old.R_F33[frames[0]], old.t_F3[frames[0]]
    R_K33 = old.R_F33[frames] @ R0.T
    t_K3 = old.t_F3[frames] - R_K33 @ t0
    centres = -np.einsum("kji,kj->ki", R_K33, t_K3) * [1, 1, factor]
    turned = so3_exp(so3_log(R_K33) / factor)
    moved = -np.einsum("kij,kj->ki", turned, centres)
    return Structure(turned, moved, np.zeros((0, 3)), old.focal * factor)


def _narrowed(seen: Observations, count: int, start: Structure, tolerances: Tolerances) -> Solved:
    """Solve with ever narrower losses while the median error falls, focal length held.

    Returns the cameras, the scale of the loss that fits the noise, and the median error in px.
    """
    points = triangulate(seen, start, count, tolerances.loss_px, tolerances.device)
    distance = np.linalg.norm(start.t_F3, axis=1)
    free = free_cameras(len(distance), 0, int(np.argmax(distance)), start.t_F3)
    best, structure, median = start, replace(start, points_N3=points), np.inf
    loss_px = tolerances.loss_px
    while loss_px >= min(LEAST_LOSS, tolerances.loss_px):  # once at least
        options = Options(
            "cauchy",
            loss_px,
            None,
            STEP_ITERATIONS,
            STEP_TOLERANCE,
            device=tolerances.device,
        )
        solution = solve(structure, seen, free, options)
        found = float(np.median(solution.error_M))
        if found < median:
            best, error_M = solution.structure, solution.error_M
        if found > FALLS * median:
            break
        structure, median, loss_px = solution.structure, min(found, median), loss_px / 2
    return best, narrowed_loss(error_M, tolerances), float(np.median(error_M))
