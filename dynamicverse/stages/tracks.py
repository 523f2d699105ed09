"""Point tracks: where points of the scene are in every frame, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicverse import backends
from dynamicverse.backends.tracker.trackset import TrackSet
from dynamicverse.config import Config
from dynamicverse.formats import masks, tracks
from dynamicverse.scene import Scene
from dynamicverse.stages import asking
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.frames import SceneFrames, read_ahead

UNKNOWN = -1  # the instance of a track where there are no masks


def run(scene: Scene, context: StageContext) -> None:
    """Track the points of a scene; reads rgb and masks, writes tracks."""
    settings = context.config.tracks
    with SceneFrames(scene) as frames:
        count = len(frames)
        found: TrackSet = context.backend.track(frames, lambda done: context.progress(done, count))
    kept = choose(found, settings.min_length, settings.max_cells)
    usable = int((found.visible_count_N() >= min(settings.min_length, count)).sum())
    if len(kept) < usable:
        context.warn(
            f"tracks: kept the {len(kept)} longest of {usable}; more do not fit in "
            f"tracks.max_cells = {settings.max_cells}"
        )
    instance_N = instances(kept, scene)
    tracks.write(
        scene.tracks,
        tracks.Tracks(*kept.dense(0, count), kept.query_N, instance_N, size=frames.size),
    )
    visible = int(kept.visible_M.sum())
    context.frames = count
    context.facts |= {
        "tracks": len(kept),
        "dropped": len(found) - len(kept),
        "visible_per_frame": round(visible / count, 1),
        "mean_length": round(visible / max(len(kept), 1), 1),
        "on_objects": int((instance_N > 0).sum()),
    }


def choose(found: TrackSet, min_length: int, max_cells: int) -> TrackSet:
    """The tracks worth keeping: visible in `min_length` frames (fewer in a shorter clip).

    If frames × tracks exceed `max_cells`, the same share of the tracks of every seed frame
    is kept, the longest first, so that the whole clip stays covered.
    """
    visible_N = found.visible_count_N()
    long_enough = np.flatnonzero(visible_N >= min(min_length, found.frame_count))
    budget = max_cells // found.frame_count
    if len(long_enough) <= budget:
        return found.select(long_enough)
    query_L, visible_L = found.query_N[long_enough], visible_N[long_enough]
    order = np.lexsort((long_enough, -visible_L, query_L))
    _, first, size = np.unique(query_L[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, size)
    share = (rank + 0.5) / np.repeat(size, size)
    best = order[np.lexsort((order, share))[:budget]]
    return found.select(np.sort(long_enough[best]))


def instances(found: TrackSet, scene: Scene) -> npt.NDArray[np.int32]:
    """The instance each track belongs to, (N): the label under most of its visible
    positions, background where two labels tie, UNKNOWN where there are no masks."""
    if not scene.files("masks"):
        return np.full(len(found), UNKNOWN, np.int32)
    votes_NL = np.zeros((len(found), 1), np.int32)
    with closing(read_ahead(lambda t: masks.read(scene.mask(t)), found.frame_count)) as read:
        for frame, labels_HW in enumerate(read):
            track_K, sample_K = found.visible_in(frame)
            height, width = labels_HW.shape
            x_K, y_K = np.rint(found.positions_M2[sample_K]).astype(np.int64).T
            labels_K = labels_HW[np.clip(y_K, 0, height - 1), np.clip(x_K, 0, width - 1)]
            missing = int(labels_K.max(initial=0)) + 1 - votes_NL.shape[1]
            if missing > 0:
                votes_NL = np.pad(votes_NL, ((0, 0), (0, missing)))
            votes_NL[track_K, labels_K] += 1  # a track has one sample a frame
    most_N = votes_NL.max(axis=1)
    tied_N = (votes_NL == most_N[:, None]).sum(axis=1) > 1
    return np.where(tied_N, 0, votes_NL.argmax(axis=1)).astype(np.int32)


def settings(config: Config) -> Mapping[str, Any]:
    return asking.settings("tracker", config.tracks.backend, config.tracks, config)


def load(config: Config) -> Any:
    return backends.load("tracker", config.tracks.backend, config.tracks)


STAGE = Stage(
    name="tracks",
    version=3,
    reads=("scene_json", "rgb", "masks"),
    writes=("tracks",),
    settings=settings,
    run=run,
    load=load,
)
