"""Captions from geometry alone: no model, no category, nothing that was not measured."""

from __future__ import annotations

from collections.abc import Callable

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.captioner import Evidence
from dynamicverse.backends.captioner.camera_caption import caption_camera
from dynamicverse.backends.captioner.object_caption import caption_object
from dynamicverse.backends.captioner.object_motion import background_path, observe
from dynamicverse.backends.captioner.scene_caption import caption_scene, depth_range
from dynamicverse.config import CaptionsConfig
from dynamicverse.formats.captions import Captions


class GeometricCaptioner:
    """Words for the recovered trajectory, masks and tracks."""

    info = BackendInfo("geometric", licence="Apache-2.0")

    def __init__(self, settings: CaptionsConfig) -> None:
        del settings  # nothing to choose

    def caption(self, evidence: Evidence, progress: Callable[[int, int], None]) -> Captions:
        """See `Captioner`."""
        ids = [instance.id for instance in evidence.instances]
        seen = observe(evidence.mask, evidence.info.frame_count, ids, progress)
        background_F2 = background_path(evidence.tracks) if evidence.tracks else None
        depth = depth_range(evidence)
        return Captions(
            objects=[
                caption_object(instance, seen.get(instance.id), evidence, background_F2)
                for instance in evidence.instances
            ],
            scene=caption_scene(evidence, seen, depth),
            camera=caption_camera(evidence, seen, background_F2, depth),
        )
