"""Optical flow between all neighbouring frames, and the keyframes chosen by it.

The flow is stored in both directions, with its forward-backward consistency as the valid
channel; every later stage reads it from there. The rule for keyframes is the original's:
each frame scores by the flow to the next frame, and the best scores win.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from dynamicverse import backends
from dynamicverse.backends.flow import Flow
from dynamicverse.backends.flow.consistency import consistency
from dynamicverse.config import Config, KeyframesConfig
from dynamicverse.cores import available
from dynamicverse.formats import flow_png, keyframe_info
from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.keyframe_info import KeyframeInfo
from dynamicverse.scene import Scene
from dynamicverse.stages import asking
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.frames import SceneFrames

WRITERS = min(
    8, max(2, available() // 2)
)  # pairs that are checked and compressed while the next flow is computed
PERCENTILES = {"median": 50, "p75": 75, "p90": 90, "p95": 95}


def run(scene: Scene, context: StageContext) -> None:
    """Compute flow and keyframes of a scene; reads rgb, writes flow and key_frames."""
    config = context.config.keyframes
    with SceneFrames(scene) as frames:
        count = len(frames)
        if count == 1:
            context.progress(1, 1)
        scores = _store_flow(scene, context, frames)
    chosen = choose(scores, config.ratio, config.min_gap)
    for frame in chosen:
        with atomic_path(scene.key_frame(frame)) as target:
            shutil.copyfile(scene.rgb(frame), target)
    keyframe_info.write(
        scene.keyframe_info,
        KeyframeInfo(
            score=config.score,
            ratio=config.ratio,
            min_gap=config.min_gap,
            flow_model=config.flow_model,
            scores=scores,
            keyframes=chosen,
        ),
    )
    context.frames = count
    context.facts |= {
        "keyframes": len(chosen),
        "median_score": round(float(np.median(scores)), 3) if scores else None,
    }


def _store_flow(scene: Scene, context: StageContext, frames: SceneFrames) -> list[float]:
    """Write the flow of all pairs; returns their scores, px."""
    config, count = context.config.keyframes, len(frames)
    scores: list[float] = []
    pending: deque[Future[float]] = deque()

    def collect() -> None:
        scores.append(pending.popleft().result())
        context.progress(len(scores) + 1, count)

    with ThreadPoolExecutor(WRITERS, thread_name_prefix="flow-png") as writers:
        for forward_HW2, backward_HW2 in context.backend.stream(iter(frames)):
            pair = len(scores) + len(pending)
            pending.append(
                writers.submit(_store_pair, scene, config, pair, forward_HW2, backward_HW2)
            )
            if len(pending) > WRITERS:
                collect()
        while pending:
            collect()
    return scores


def _store_pair(
    scene: Scene, config: KeyframesConfig, frame: int, forward_HW2: Flow, backward_HW2: Flow
) -> float:
    """Write the flow between `frame` and the next; returns the score of the forward flow."""
    there, back = scene.flow(frame, frame + 1), scene.flow(frame + 1, frame)
    flow_png.write(there, forward_HW2, consistency(forward_HW2, backward_HW2))
    flow_png.write(back, backward_HW2, consistency(backward_HW2, forward_HW2))
    return score(forward_HW2, config.score)


def score(flow_HW2: Flow, kind: str) -> float:
    """One number for a flow field, px: mean, median, p75, p90, p95 or max of its length."""
    length_HW = np.asarray(cv2.magnitude(flow_HW2[..., 0], flow_HW2[..., 1]))
    if kind == "mean":
        return float(length_HW.mean(dtype=np.float64))
    if kind == "max":
        return float(length_HW.max())
    return float(np.percentile(length_HW, PERCENTILES[kind]))


def choose(scores: Sequence[float], ratio: float, min_gap: int) -> list[int]:
    """The keyframes of a clip of len(scores) + 1 frames, ascending.

    The score of the pair (t, t+1) belongs to frame t, so the last frame has none and is only
    chosen in a clip of one frame. Frames are taken by falling score, the earlier one first
    where scores tie, unless a frame less than `min_gap` away has been taken, until there
    are max(1, floor(ratio * F)) of them; there may be fewer where the gap leaves no room.
    """
    frames = len(scores) + 1
    wanted = max(1, int(ratio * frames + 1e-9))  # 0.2 * 15 is 3, not 2.99…
    chosen: list[int] = []
    for frame in sorted(range(len(scores)), key=lambda t: (-scores[t], t)) or [0]:
        if all(abs(frame - other) >= min_gap for other in chosen):
            chosen.append(frame)
            if len(chosen) == wanted:
                break
    return sorted(chosen)


def settings(config: Config) -> Mapping[str, Any]:
    return asking.settings("flow", config.keyframes.flow_model, config.keyframes, config)


def load(config: Config) -> Any:
    return backends.load("flow", config.keyframes.flow_model, config.keyframes)


STAGE = Stage(
    name="keyframes",
    version=2,
    reads=("scene_json", "rgb"),
    writes=("key_frames", "flow"),
    settings=settings,
    run=run,
    load=load,
)
