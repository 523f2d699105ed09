"""Which objects move: names, boxes, tracking ids, and coarse labels for the segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamicverse import backends
from dynamicverse.config import Config
from dynamicverse.formats import masks, objects
from dynamicverse.formats.objects import DynamicObjects
from dynamicverse.scene import Scene
from dynamicverse.stages import asking
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.scene_clip import SceneClip


def run(scene: Scene, context: StageContext) -> None:
    """Find what moves; reads scene.json, rgb, key_frames and flow, writes analysis, motion."""
    for stale in scene.files("motion"):
        stale.unlink()
    with SceneClip(scene) as clip:
        count = len(clip)
        found: DynamicObjects = context.backend.analyse(
            clip,
            lambda frame, labels_HW: masks.write(scene.motion(frame), labels_HW),
            lambda done: context.progress(done, count),
            context.facts,
        )
    objects.write(scene.dynamic_objects, found)
    for note in found.notes:
        context.log(f"analysis: {note}")
    context.frames = count
    context.facts |= {
        "objects": len(found.dynamic),
        "static_scene": found.static_scene,
        "camera_motion": found.camera_motion,
    }


def settings(config: Config) -> Mapping[str, Any]:
    return asking.settings("analysis", config.analysis.backend, config.analysis, config)


def load(config: Config) -> Any:
    return backends.load("analysis", config.analysis.backend, config.analysis, config.vlm)


def concurrency(config: Config) -> int:
    return asking.concurrency("analysis", config.analysis.backend, config)


STAGE = Stage(
    name="analysis",
    version=4,
    reads=("scene_json", "rgb", "key_frames", "flow"),
    writes=("analysis", "motion"),
    settings=settings,
    run=run,
    load=load,
    concurrency=concurrency,
)
