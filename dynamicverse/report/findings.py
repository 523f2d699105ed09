"""All that is known about a scene, read once; None where a stage gave nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats import (
    captions,
    fused,
    keyframe_info,
    labels,
    manifest,
    objects,
    poses,
    reconstruction_info,
    scene_info,
    tracks,
)
from dynamicverse.report.pictures import legible, sample
from dynamicverse.scene import Scene

T = TypeVar("T")

# what each stage is for, where the page has to say that it has not been run
PURPOSES = {
    "ingest": "decoding",
    "keyframes": "optical flow and the choice of keyframes",
    "analysis": "the search for moving objects",
    "segmentation": "the masks of the moving objects",
    "tracks": "point tracks",
    "depth": "a depth prior",
    "reconstruction": "cameras, depth and the 4D scene",
    "captions": "captions",
}


@dataclass(frozen=True)
class Findings:
    """A scene as the report sees it. frames: the chosen frames, 0-based."""

    scene: Scene
    preset: str
    info: scene_info.SceneInfo
    frames: list[int]
    keyframes: keyframe_info.KeyframeInfo | None = None
    objects: objects.DynamicObjects | None = None
    instances: list[labels.Instance] = field(default_factory=list)
    summary: labels.SegmentationSummary | None = None
    tracks: tracks.Tracks | None = None
    poses: poses.Poses | None = None
    reconstruction: reconstruction_info.ReconstructionInfo | None = None
    fused: fused.Fused | None = None
    captions: captions.Captions | None = None
    manifests: dict[str, manifest.Manifest] = field(default_factory=dict)

    def colours(self) -> dict[int, tuple[int, int, int]]:
        """Instance id → legible RGB."""
        return {i.id: legible((i.colour[0], i.colour[1], i.colour[2])) for i in self.instances}

    def moment(self, frame: int) -> str:
        """ "frame 12 · 0.48 s", or without a rate "frame 12"."""
        if self.info.rate is None:
            return f"frame {frame}"
        return f"frame {frame} · {self.info.times_s[frame]:.2f} s"

    def up(self) -> NDArray[np.float64] | None:
        """The vertical of the world (3,) as the captions state it."""
        if self.captions is None:
            return None
        stated = self.captions.camera.facts.get("up_in_world")
        if not isinstance(stated, list) or len(stated) != 3:
            return None
        vector = np.array([float(v) if isinstance(v, int | float) else 0.0 for v in stated])
        return vector if np.linalg.norm(vector) > 0.5 else None

    def absence(self, stage: str) -> str:
        """Why there is nothing of a stage, in a plain sentence."""
        purpose = PURPOSES[stage]
        if stage in self.manifests:
            return f"The stage “{stage}” ({purpose}) ran, and gave nothing to show here."
        if not self.info.filter.accepted:
            return (
                f"The data filter rejected this clip, so the stage “{stage}” ({purpose}) was "
                "not run."
            )
        return f"The stage “{stage}” ({purpose}) has not been run for this scene."


def _if_there(path: Path, reader: Callable[[Path], T]) -> T | None:
    return reader(path) if path.is_file() else None


def read(scene: Scene, preset: str, frames: int) -> Findings:
    """Read what there is; a file that is there but wrong raises ArtifactError.

    frames: how many frames the page shows at most.
    """
    info = scene_info.read(scene.scene_json)
    has_masks = scene.instance_labels.is_file()
    return Findings(
        scene=scene,
        preset=preset,
        info=info,
        frames=sample(info.frame_count, frames),
        keyframes=_if_there(scene.keyframe_info, keyframe_info.read),
        objects=_if_there(scene.dynamic_objects, objects.read),
        instances=labels.read(scene.instance_labels).instances if has_masks else [],
        summary=_if_there(scene.result_summary, labels.read_summary),
        tracks=_if_there(scene.tracks, tracks.read),
        poses=_if_there(scene.poses, poses.read),
        reconstruction=_if_there(scene.reconstruction_json, reconstruction_info.read),
        fused=fused.read(scene.fused, with_rgbs=False) if scene.fused.is_file() else None,
        captions=_if_there(scene.captions, captions.read),
        manifests={
            stage: manifest.read(scene.manifest(stage))
            for stage in PURPOSES
            if scene.manifest(stage).is_file()
        },
    )
