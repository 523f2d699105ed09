"""The embedded analysis: what moves is what the camera's motion does not explain.

No weights, no categories. The steps: evidence of every frame against robust background
models over gaps of 1 to 16 frames (`evidence`, `rigidity`); votes along the flow over the
whole clip (`votes`); colour models and edge-aware smoothing (`appearance`); what is missing of
an object (`completion`); what moves split by motion (`parts`) and linked over time
(`instances`); facts (`describe`). Works at a longer side of 216 px; a temporary folder grows
with the clip (0.7 MB a frame), memory by some kB a frame.

What cannot be told apart: a near static thing whose whole outline is in the picture, before a
flat or distant background that shows no other parallax, looks like a thing that moves; and
where there is parallax, a thing that moves along the epipolar lines looks static as long as
it keeps in step with the camera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.analysis.appearance import (
    EdgeAwareFilter,
    colour_ratios,
    smooth_labels,
)
from dynamicverse.backends.analysis.background import plane_flow
from dynamicverse.backends.analysis.completion import GAP, complete
from dynamicverse.backends.analysis.describe import Track, camera_motion, describe
from dynamicverse.backends.analysis.evidence import Evidence, collect_evidence
from dynamicverse.backends.analysis.instances import Ids, Linker
from dynamicverse.backends.analysis.parts import Points
from dynamicverse.backends.analysis.votes import LIMIT, Votes, vote
from dynamicverse.backends.analysis.working import FrameStore, Map, Scratch, WorkingClip
from dynamicverse.config import AnalysisConfig
from dynamicverse.formats.masks import MAX_ID
from dynamicverse.formats.objects import DynamicObjects

COLOUR_RADIUS = 20  # frames
COLOUR_NEAR = 20.0  # working px
COLOUR_WEIGHT = 0.6
REACH, CONTRAST, STRENGTH = 12.0, 60.0, 3.0  # of the smoothing; px, RGB, log-odds
VOTE_STEP = LIMIT / 127


class MotionAnalysis:
    """Finds moving objects from optical flow."""

    info = BackendInfo(name="motion", licence="Apache-2.0")

    def __init__(self, settings: AnalysisConfig) -> None:
        self._shortest = settings.min_frames
        self._support = settings.min_support
        self._share = settings.min_share

    def analyse(
        self,
        clip: ClipReader,
        write_labels: Callable[[int, Labels], None],
        progress: Callable[[int], None],
        facts: dict[str, Any] | None = None,
    ) -> DynamicObjects:
        """See `AnalysisBackend`; labels are written for every frame if anything moves, and
        there are no facts to add."""
        count = len(clip)
        if count == 1:
            progress(1)
            return DynamicObjects(
                dynamic=[],
                static_scene=False,
                camera_motion="unknown",
                notes=["one frame: motion unobservable"],
            )
        with Scratch() as scratch:
            # four passes over the clip; the first three take about the same time
            small = WorkingClip(clip, scratch, lambda done: progress(done // 4))
            votes = vote(small, _counted(collect_evidence(small), progress, count), scratch)
            ids = scratch.store((small.height, small.width), np.int32)
            linker = _link(
                small, votes, ids, scratch, lambda done: progress(count // 2 + done // 4)
            )
            tracks, names = self._choose(linker, count)
            _measure(tracks, names, small, votes, ids)
            if tracks:
                _write(clip.size, count, ids, names, write_labels)
            progress(count)
            camera, notes = camera_motion(votes.plane_F33, votes.rotating_F, small)
            return DynamicObjects(
                dynamic=[describe(i + 1, track, small) for i, track in enumerate(tracks)],
                static_scene=not tracks,
                camera_motion=camera,
                notes=notes,
            )

    def _choose(self, linker: Linker, count: int) -> tuple[list[Track], npt.NDArray[np.uint8]]:
        """The objects, largest first, and a table from linked id to tracking id, 0 = none."""
        found: dict[int, Track] = {}
        owner = linker.merged()
        for i, instance in linker.instances.items():
            track = found.setdefault(owner[i], Track())
            track.supported += instance.supported
            for frame, area in instance.areas.items():
                track.areas[frame] = track.areas.get(frame, 0) + area
                box = instance.boxes[frame]
                track.boxes[frame] = _union(track.boxes.get(frame, box), box)
        shortest = min(self._shortest, count)
        kept = [
            (root, track)
            for root, track in found.items()
            if len(track.areas) >= shortest and track.support >= self._support
        ]
        kept.sort(key=lambda item: (-item[1].mass, item[0]))
        kept = [item for item in kept if item[1].mass >= self._share * kept[0][1].mass][:MAX_ID]
        names = np.zeros(len(linker.instances) + 1, np.uint8)
        number = {root: i + 1 for i, (root, _) in enumerate(kept)}
        for i in linker.instances:
            names[i] = number.get(owner[i], 0)
        return [track for _, track in kept], names


def _counted(
    evidence: Iterator[Evidence], progress: Callable[[int], None], count: int
) -> Iterator[Evidence]:
    for done, found in enumerate(evidence):
        progress(count // 4 + done // 4)
        yield found


def _link(
    clip: WorkingClip,
    votes: Votes,
    ids: FrameStore,
    scratch: Scratch,
    progress: Callable[[int], None],
) -> Linker:
    """Decide what moves in every frame, and link it over time; stores linked ids."""
    stored = scratch.store((clip.height, clip.width), np.int8)
    for t in range(clip.frame_count):
        stored[t] = np.rint(votes.frame(t) / VOTE_STEP)

    def stored_votes(t: int) -> Map:
        return stored[t].astype(np.float32) * np.float32(VOTE_STEP)

    points = Points(clip.frame_count)
    moving = scratch.store((clip.height, clip.width), np.bool_)
    count = clip.frame_count
    ratios = colour_ratios(count, COLOUR_RADIUS, COLOUR_NEAR, clip.rgb, stored_votes)
    for t, ratio_HW in enumerate(ratios):
        unary_HW = stored_votes(t) + np.float32(COLOUR_WEIGHT) * ratio_HW
        smooth = EdgeAwareFilter(clip.rgb(t), REACH, CONTRAST)
        moving_HW = smooth_labels(unary_HW, smooth, STRENGTH) > 0
        chains = clip.chains(t, (GAP,), 1) | clip.chains(t, (GAP,), -1)
        moving_HW = complete(moving_HW, list(chains.values()))
        moving[t] = moving_HW
        points.add(moving_HW, clip.flow(t, 1) if t + 1 < count else None)
        progress((t + 1) // 2)
    groups = points.groups()
    linker = Linker(groups.apart)
    for t in range(count):
        backward = clip.flow(t, -1)[0] if t else None
        moving_HW = moving[t]
        groups_HW = groups.spread(t, moving_HW)
        ids[t] = linker.add(t, moving_HW, groups_HW, stored_votes(t), clip.rgb(t), backward)
        progress((count + t + 1) // 2)
    return linker


def _measure(
    tracks: list[Track],
    names: npt.NDArray[np.uint8],
    clip: WorkingClip,
    votes: Votes,
    ids: FrameStore,
) -> None:
    """The velocity of every object against the background, frame by frame."""
    scale_2 = np.float32(clip.scale)
    for t in range(clip.frame_count - 1):
        if not np.isfinite(votes.plane_F33[t]).all():
            continue
        labels_HW = names[ids[t]]
        flow_HW2, valid_HW = clip.flow(t, 1)
        moved_HW2 = flow_HW2 - plane_flow(votes.plane_F33[t], clip.x_HW, clip.y_HW)
        for i in np.unique(labels_HW[labels_HW > 0]):
            on_HW = (labels_HW == i) & valid_HW
            if on_HW.any():
                vx, vy = (np.median(moved_HW2[on_HW], axis=0) * scale_2).tolist()
                tracks[int(i) - 1].velocities.append((vx, vy))


def _write(
    size: tuple[int, int],
    count: int,
    ids: FrameStore,
    names: npt.NDArray[np.uint8],
    write_labels: Callable[[int, Labels], None],
) -> None:
    for t in range(count):
        labels_HW: Ids = ids[t]
        full_HW = cv2.resize(names[labels_HW], size, interpolation=cv2.INTER_NEAREST)
        write_labels(t, np.asarray(full_HW, np.uint8))


def _union(
    one: tuple[int, int, int, int], two: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    low = min(one[0], two[0]), min(one[1], two[1])
    return (*low, max(one[2], two[2]), max(one[3], two[3]))
