"""Growing a map over keyframes, then over all frames of the clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.bundle.solver import FocalPrior, LensPrior, Solution
from dynamicverse.dynamicba.cameras.focal_search import Sharp
from dynamicverse.dynamicba.cameras.mapping import KEPT, Map
from dynamicverse.dynamicba.cameras.noise import is_wide, narrower
from dynamicverse.geometry.lie import so3_exp, so3_log

LOCAL_WINDOW = 8  # cameras that move when a frame is added
AGREE_SHARE = 0.25  # of the points a frame sees must agree with its pose
GLOBAL_GROWTH = 1.4  # adjust everything when the map has grown by this factor
FINAL_ITERATIONS = 60
SOME_ITERATIONS = 20
NARROWINGS = 4  # of the loss, before the last adjustment

Advance = Callable[[int], None]


def grow(
    world: Map, frames: Indices, limit: int, advance: Advance = lambda registered: None
) -> list[int]:
    """Register frames, best seen first, until `limit` are; returns those that failed."""
    failed: list[int] = []
    while world.registered_F.sum() < limit:
        waiting = [int(f) for f in frames if not world.registered_F[f] and f not in failed]
        if not waiting:
            break
        seen = [len(world.visible_points(f)) for f in waiting]
        frame = waiting[int(np.argmax(seen))]
        if not max(seen) or not world.register(frame, nearby_poses(world, frame), AGREE_SHARE):
            failed.append(frame)
            continue
        failed.clear()  # new points may help those that failed before
        world.triangulate(frame)
        world.adjust_around(frame, LOCAL_WINDOW)
        advance(int(world.registered_F.sum()))
    return failed


def grow_all(
    world: Map,
    frames: Indices,
    prior: FocalPrior | None,
    advance: Advance = lambda registered: None,
) -> None:
    """Register all frames that can be, with an adjustment of everything now and then."""
    while True:
        before = int(world.registered_F.sum())
        grow(world, frames, int(before * GLOBAL_GROWTH) + 1, advance)
        if world.registered_F.sum() == before:
            return
        world.adjust(prior)
        world.classify()
        world.triangulate()


def finish(
    world: Map,
    prior: FocalPrior | None,
    lens_prior: LensPrior = KEPT,
    iterations: int = FINAL_ITERATIONS,
) -> Solution | None:
    """Adjust to convergence, the outliers and the width of the loss decided anew in between.

    The first registered camera becomes the origin, to which the uncertainty is relative.
    """
    for _ in range(NARROWINGS):
        world.adjust(prior, min(iterations, SOME_ITERATIONS), 1e-4, lens_prior=lens_prior)
        world.classify()
        world.triangulate()
        error_M = world.errors(np.flatnonzero(world.inlier_M))
        if not len(error_M) or not is_wide(error_M, world.tolerances):
            break
        world.tolerances = narrower(error_M, world.tolerances)
    world.reference = int(np.flatnonzero(world.registered_F)[0])
    return world.adjust(prior, iterations, 1e-6, uncertainty=True, lens_prior=lens_prior)


def extend(world: Map, observations: Observations, frames: Indices) -> Map:
    """The same cameras and more frames over other observations; frames that fail stay out."""
    wider = Map(
        observations,
        len(world.registered_F),
        len(world.known_N),
        world.structure.focal,
        world.tolerances,
        world.structure.lens,
    )
    wider.structure.R_F33[:] = world.structure.R_F33
    wider.structure.t_F3[:] = world.structure.t_F3
    wider.registered_F[:] = world.registered_F
    wider.reference = world.reference
    wider.triangulate()
    for _ in range(2):
        for frame in frames:
            if not wider.registered_F[frame]:
                guesses = nearby_poses(wider, int(frame))
                wider.register(int(frame), guesses, AGREE_SHARE)
        wider.triangulate()
    return wider


def restart(world: Map, sharp: Sharp) -> Map:
    """The map grown anew from better cameras of some of its frames."""
    tolerances = replace(world.tolerances, loss_px=sharp.loss_px)
    frames, tracks = len(world.registered_F), len(world.known_N)
    core = Map(world.raw, frames, tracks, sharp.structure.focal, tolerances)
    poses = zip(sharp.frames, sharp.structure.R_F33, sharp.structure.t_F3, strict=True)
    for frame, R, t in poses:
        core.place(int(frame), R, t)
    core.reference = int(sharp.frames[0])
    wanted = np.flatnonzero(world.registered_F)
    between = wanted[(wanted > sharp.frames[0]) & (wanted < sharp.frames[-1])]
    grown = extend(core, world.raw, between)
    grow_all(grown, wanted, None)
    return grown


def nearby_poses(world: Map, frame: int) -> list[tuple[Floats, Floats]]:
    """Guesses for a frame: between its registered neighbours, or that of the nearest one."""
    registered = np.flatnonzero(world.registered_F)
    position = int(np.searchsorted(registered, frame))
    R, t = world.structure.R_F33, world.structure.t_F3
    if 0 < position < len(registered):
        before, after = registered[position - 1], registered[position]
        share = (frame - before) / (after - before)
        turn = so3_exp(share * so3_log(R[after] @ R[before].T))
        centre = -(1 - share) * R[before].T @ t[before] - share * R[after].T @ t[after]
        between = turn @ R[before]
        return [(between, -between @ centre)]
    nearest = registered[min(position, len(registered) - 1)]
    return [(R[nearest], t[nearest])]
