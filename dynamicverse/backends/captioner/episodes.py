"""When which camera motion goes on: velocities → labels per frame → segments in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.kinematics import (
    Array,
    Motion,
    Trajectory,
    frame_seconds,
    registered_runs,
)

Names = frozenset[str] | None  # None: no pose is known, so nothing can be said


@dataclass(frozen=True)
class MotionSegment:
    """Frames first_frame … last_frame (inclusive) with one set of labels.

    known: False where no pose was recovered: no label then says nothing.
    turn_deg: net tilt up, pan right, roll clockwise.
    travel: net way right, down, forward, in median scene depths (or without unit).
    arc_deg: change of bearing round the pivot, clockwise from above is positive.
    """

    first_frame: int
    last_frame: int
    labels: tuple[str, ...]
    known: bool
    seconds: float
    turn_deg: tuple[float, float, float]
    travel: tuple[float, float, float]
    arc_deg: float | None = None


def split(path: Trajectory, motion: Motion) -> list[MotionSegment]:
    """The clip cut into segments of the same motion."""
    labels_F = _labels(path, _active(path, motion))
    return [
        make(path, motion, first, last, names)
        for first, last, names in _absorb_short(path, _runs(labels_F))
    ]


def make(path: Trajectory, motion: Motion, first: int, last: int, names: Names) -> MotionSegment:
    """A segment with its net turn and travel."""
    seconds_F = frame_seconds(path.times_F)
    part = slice(first, last + 1)

    def net(rates_F3: Array) -> tuple[float, float, float]:
        x, y, z = np.nansum(rates_F3[part] * seconds_F[part, None], axis=0)
        return float(x), float(y), float(z)

    return MotionSegment(
        first,
        last,
        ordered(names or frozenset()),
        names is not None,
        float(seconds_F[part].sum()),
        net(motion.turn_F3),
        net(motion.travel_F3),
    )


def ordered(names: frozenset[str]) -> tuple[str, ...]:
    """Primitives in the order of the vocabulary."""
    return tuple(sorted(names, key=v.PRIMITIVES.index))


def zoom_observable(path: Trajectory) -> bool:
    """True if the focal length was recovered frame by frame (it differs at all)."""
    focal = path.focal_F[path.registered_F]
    return len(focal) > 1 and bool(np.ptp(focal) > 1e-6 * focal.mean())


def _active(path: Trajectory, motion: Motion) -> dict[str, NDArray[np.bool_]]:
    """For every primitive the frames in which it goes on."""
    turn = (v.TURN_START, v.TURN_HOLD, v.TURN_TOTAL)
    travel = (v.TRAVEL_START, v.TRAVEL_HOLD, v.TRAVEL_TOTAL)
    if not motion.travel_scaled:
        travel = (v.UNSCALED_START, v.UNSCALED_HOLD, v.UNSCALED_TOTAL)
    seconds_F = frame_seconds(path.times_F)
    active = {}
    for pairs, rate_F3, limits, share in (
        (v.TURNS, motion.turn_F3, turn, v.TURN_PART),
        (v.TRAVELS, motion.travel_F3, travel, v.TRAVEL_PART),
    ):
        rate_F3 = np.nan_to_num(rate_F3)
        whole_F = np.linalg.norm(rate_F3, axis=1)
        for axis, pair in enumerate(pairs):
            for name, sign in zip(pair, (1.0, -1.0), strict=True):
                rate_F = sign * rate_F3[:, axis]
                rate_F = np.where(rate_F >= share * whole_F, rate_F, 0.0)
                active[name] = _episodes(rate_F, seconds_F, *limits)
    if zoom_observable(path):
        known = path.registered_F
        focal_F = np.interp(path.times_F, path.times_F[known], path.focal_F[known])
        zoom_F = np.gradient(np.log(focal_F), path.times_F)
        for name, sign in zip(v.ZOOMS, (1.0, -1.0), strict=True):
            active[name] = _episodes(
                sign * zoom_F, seconds_F, v.ZOOM_START, v.ZOOM_HOLD, v.ZOOM_TOTAL
            )
    return active


def _episodes(
    rate_F: Array, seconds_F: Array, start: float, hold: float, total: float
) -> NDArray[np.bool_]:
    """Hysteresis: runs above `hold` that reach `start`, last, and add up to `total`."""
    on = np.zeros(len(rate_F), bool)
    least = min(v.SHORTEST_S, 0.5 * float(seconds_F.sum()))
    edges = np.flatnonzero(np.diff(np.pad(rate_F > hold, 1).astype(np.int8)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        part = slice(first, end)
        way = float((rate_F[part] * seconds_F[part]).sum())
        if seconds_F[part].sum() >= least and rate_F[part].max() >= start and way >= total:
            on[part] = True
    return on


def _labels(path: Trajectory, active: dict[str, NDArray[np.bool_]]) -> list[Names]:
    known_F = np.zeros(len(path.times_F), bool)
    for run in registered_runs(path):
        known_F[run[0] : run[-1] + 1] = len(run) > 1
    return [
        frozenset(name for name, on_F in active.items() if on_F[i]) if known_F[i] else None
        for i in range(len(known_F))
    ]


def _runs(labels_F: list[Names]) -> list[tuple[int, int, Names]]:
    return joined([(i, i, names) for i, names in enumerate(labels_F)])


def joined(runs: list[tuple[int, int, Names]]) -> list[tuple[int, int, Names]]:
    """Neighbours with the same labels made one."""
    out: list[tuple[int, int, Names]] = []
    for first, last, names in runs:
        if out and out[-1][2] == names:
            out[-1] = (out[-1][0], last, names)
        else:
            out.append((first, last, names))
    return out


def _absorb_short(
    path: Trajectory, runs: list[tuple[int, int, Names]]
) -> list[tuple[int, int, Names]]:
    """A run that is too short goes to the neighbour that is more like it."""
    seconds_F = frame_seconds(path.times_F)
    while len(runs) > 1:
        lengths = [float(seconds_F[first : last + 1].sum()) for first, last, _ in runs]
        k = int(np.argmin(lengths))
        if lengths[k] >= v.SHORTEST_S:
            break
        neighbours = [n for n in (k - 1, k + 1) if 0 <= n < len(runs)]
        into = max(neighbours, key=lambda n: _likeness(runs[k][2], runs[n][2]))
        runs[k] = (runs[k][0], runs[k][1], runs[into][2])
        runs = joined(runs)
    return runs


def _likeness(a: Names, b: Names) -> float:
    """Jaccard index of two label sets."""
    if a is None or b is None:
        return -1.0
    return len(a & b) / len(a | b) if a | b else 1.0
