"""captions: words for the objects, the scene and the camera, each with the facts behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicverse import backends
from dynamicverse.backends.captioner import Captioner, Evidence
from dynamicverse.config import Config
from dynamicverse.formats import (
    captions,
    fused,
    images,
    keyframe_info,
    labels,
    masks,
    objects,
    poses,
    reconstruction_info,
    scene_info,
    tracks,
)
from dynamicverse.scene import Scene
from dynamicverse.stages import asking
from dynamicverse.stages.base import Stage, StageContext

MOST_AT_ONCE = 8  # scenes: tracks and the fused points of each are held while it waits


def _settings(config: Config) -> Mapping[str, Any]:
    return asking.settings("captioner", config.captions.backend, config.captions, config)


def _load(config: Config) -> Captioner:
    name = config.captions.backend
    captioner: Captioner = backends.load("captioner", name, config.captions, config.vlm)
    return captioner


def _concurrency(config: Config) -> int:
    found = asking.concurrency("captioner", config.captions.backend, config)
    return min(found, MOST_AT_ONCE)


def run(scene: Scene, context: StageContext) -> None:
    """Write captions.json and objects.csv."""
    evidence = gather(scene)
    result = context.backend.caption(evidence, context.progress)
    captions.write(scene.captions, result)
    captions.write_csv(scene.object_captions, result)
    context.facts |= evidence.facts
    context.frames = evidence.info.frame_count
    context.facts["objects"] = len(result.objects)
    context.facts["camera_labels"] = list(result.camera.labels)
    context.log(f"scene: {result.scene.text}")
    context.log(f"camera: {result.camera.text}")


def gather(scene: Scene) -> Evidence:
    """What the earlier stages found out; artifacts of stages that did not run are left out."""

    def mask(frame: int) -> NDArray[np.uint8]:
        return masks.read(scene.mask(frame))

    def key_frame(frame: int) -> NDArray[np.uint8]:
        return images.read_rgb(scene.key_frame(frame))

    has_cameras = scene.poses.is_file()
    has_key_frames = scene.keyframe_info.is_file()
    return Evidence(
        info=scene_info.read(scene.scene_json),
        instances=labels.read(scene.instance_labels).instances,
        mask=mask,
        keyframes=keyframe_info.read(scene.keyframe_info).keyframes if has_key_frames else [],
        key_frame=key_frame,
        objects=objects.read(scene.dynamic_objects),
        tracks=tracks.read(scene.tracks) if scene.tracks.is_file() else None,
        poses=poses.read(scene.poses) if has_cameras else None,
        reconstruction=(
            reconstruction_info.read(scene.reconstruction_json) if has_cameras else None
        ),
        fused=fused.read(scene.fused, with_rgbs=False) if scene.fused.is_file() else None,
    )


STAGE = Stage(
    name="captions",
    version=1,
    reads=("scene_json", "analysis", "masks", "segmentation"),
    optional=("key_frames", "tracks", "cameras", "fused"),
    writes=("captions",),
    settings=_settings,
    run=run,
    load=_load,
    concurrency=_concurrency,
)
