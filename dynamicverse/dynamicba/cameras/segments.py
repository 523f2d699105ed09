"""Stretches of a clip that tracks do not connect: each is solved, and stays, by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from dynamicverse.dynamicba.bundle.blocks import Floats, Indices
from dynamicverse.dynamicba.cameras.graph import Mask
from dynamicverse.dynamicba.cameras.solution import CameraSolution
from dynamicverse.formats.tracks import Tracks

LEAST_FRAMES = 6  # of a stretch that is worth a reconstruction
LEAST_SHARED = 8  # tracks that neighbouring frames of a stretch have in common

Solve = Callable[[Tracks, Floats], CameraSolution]


def with_segments(tracks: Tracks, solution: CameraSolution, solve: Solve) -> CameraSolution:
    """The solution with segments for what it left out, the largest first.

    solve: of the tracks of a stretch, given the intrinsics (3, 3) of the main segment.
    """
    found = []
    waiting = list(_stretches(tracks, ~solution.registered_F))
    while waiting:
        frames = waiting.pop()
        part = solve(_of_frames(tracks, frames), solution.K_F33[frames[0]])
        if part.status != "full" or part.registered_F.sum() < LEAST_FRAMES:
            continue
        found.append((frames[part.registered_F], part.c2w_F44[part.registered_F]))
        rest_F = np.zeros(len(solution.registered_F), bool)
        rest_F[frames[~part.registered_F]] = True
        waiting += _stretches(tracks, rest_F)
    if not found:
        return solution
    found.sort(key=lambda segment: (-len(segment[0]), int(segment[0][0])))
    segment_F = np.where(solution.registered_F, 0, -1).astype(np.int32)
    c2w_F44 = np.full_like(solution.c2w_F44, np.nan)
    for number, (frames, c2w) in enumerate(found, 1):
        segment_F[frames], c2w_F44[frames] = number, c2w
    told = [_told(number, frames) for number, (frames, _) in enumerate(found, 1)]
    return replace(
        solution,
        segment_F=segment_F,
        segment_c2w_F44=c2w_F44,
        statements=[*solution.statements, *told],
    )


def _told(number: int, frames: Indices) -> str:
    return (
        f"frames {frames[0] + 1} to {frames[-1] + 1} are a segment of their own ({number}): "
        "tracks do not connect them with the rest"
    )


def _stretches(tracks: Tracks, wanted_F: Mask) -> Iterator[Indices]:
    """Runs of wanted frames whose neighbours share tracks."""
    seen_FN = tracks.visibility_FN
    run: list[int] = []
    for frame in [*np.flatnonzero(wanted_F), -1]:
        connected = (
            bool(run)
            and frame == run[-1] + 1
            and (seen_FN[frame] & seen_FN[frame - 1]).sum() >= LEAST_SHARED
        )
        if run and not connected:
            if len(run) >= LEAST_FRAMES:
                yield np.array(run, np.int64)
            run = []
        run.append(int(frame))


def _of_frames(tracks: Tracks, frames: Indices) -> Tracks:
    return replace(
        tracks,
        tracks_FN2=tracks.tracks_FN2[frames],
        visibility_FN=tracks.visibility_FN[frames],
        confidence_FN=tracks.confidence_FN[frames],
        query_frame_N=np.zeros_like(tracks.query_frame_N),
    )
