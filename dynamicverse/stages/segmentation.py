"""The segmentation stage: instance masks, their labels, and copies for looking at."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse import backends
from dynamicverse.backends.segmenter import SegmenterBackend
from dynamicverse.config import Config
from dynamicverse.formats import images, labels, masks, objects, scene_info
from dynamicverse.formats.objects import DynamicObject
from dynamicverse.media import VideoWriter
from dynamicverse.scene import Scene
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.scene_clip import SceneClip

KINDS = ("original", "masks", "overlay", "segmented")
OPACITY = 0.45


class Statistics:
    """Areas and boxes of the instances, gathered frame by frame."""

    def __init__(self) -> None:
        self.areas: dict[int, dict[int, int]] = {}
        self.boxes: dict[int, list[tuple[float, float, float, float]]] = {}
        self.pixels = 0

    def add(self, frame: int, ids_HW: NDArray[np.uint8]) -> None:
        self.pixels += ids_HW.size
        for label in np.unique(ids_HW[ids_HW > 0]):
            rows, columns = np.nonzero(ids_HW == label)
            self.areas.setdefault(int(label), {})[frame] = len(rows)
            box = (columns.min(), rows.min(), columns.max(), rows.max())
            self.boxes.setdefault(int(label), []).append(tuple(float(v) for v in box))  # type: ignore[arg-type]

    def summary(self, frame_count: int) -> labels.SegmentationSummary:
        """result_summary.json."""
        covered = sum(sum(areas.values()) for areas in self.areas.values())
        return labels.SegmentationSummary(
            frame_count=frame_count,
            object_count=len(self.areas),
            coverage=covered / max(self.pixels, 1),
            objects=[
                labels.ObjectStatistics(
                    id=label,
                    frames=len(areas),
                    mean_area_px=float(np.mean(list(areas.values()))),
                    max_area_px=float(max(areas.values())),
                    mean_box=[round(float(v), 1) for v in np.mean(self.boxes[label], axis=0)],
                )
                for label, areas in sorted(self.areas.items())
            ],
        )

    def instances(self, found: Mapping[int, DynamicObject]) -> labels.InstanceLabels:
        """instance_labels.json: the names come from the analysis."""
        return labels.InstanceLabels(
            instances=[
                labels.Instance(
                    id=label,
                    name=found[label].name,
                    category=found[label].category,
                    colour=list(masks.colour(label)),
                    first_frame=min(areas),
                    last_frame=max(areas),
                )
                for label, areas in sorted(self.areas.items())
            ]
        )


class Visuals:
    """Copies for looking at: the frames, the masks, both together, and the objects alone."""

    def __init__(self, scene: Scene, info: scene_info.SceneInfo, stack: ExitStack) -> None:
        self.scene, self.info = scene, info
        rate = info.rate or 24.0
        self.videos = {
            kind: stack.enter_context(
                VideoWriter(scene.segmentation_video(kind), info.width, info.height, rate)
            )
            for kind in KINDS
        }
        self.palette = np.array([masks.colour(i) if i else (0, 0, 0) for i in range(256)], np.uint8)

    def add(self, frame: int, rgb: NDArray[np.uint8], ids: NDArray[np.uint8]) -> None:
        colours = self.palette[ids]
        inside = (ids > 0)[..., None]
        blend = cv2.addWeighted(rgb, 1 - OPACITY, colours, OPACITY, 0)
        pictures = {
            "original": rgb,
            "masks": colours,
            "overlay": np.where(inside, blend, rgb),
            "segmented": np.where(inside, rgb, np.uint8(0)),
        }
        for kind, picture in pictures.items():
            path = self.scene.segmentation_frame(kind, frame)
            if kind == "masks":
                masks.write(path, ids)
            elif path.suffix == ".jpg":
                images.write_jpeg(path, picture)
            else:
                images.write_png(path, picture)
            self.videos[kind].write(picture, self.info.times_s[frame])


def settings(config: Config) -> Mapping[str, Any]:
    """What decides the outputs."""
    return config.segmentation.model_dump(mode="json")


def load(config: Config) -> SegmenterBackend:
    """The configured backend; raises MissingModelError."""
    chosen = config.segmentation
    backend: SegmenterBackend = backends.load("segmenter", chosen.backend, chosen)
    return backend


def run(scene: Scene, context: StageContext) -> None:
    """Write the masks of every frame, the labels and the summary."""
    info = scene_info.read(scene.scene_json)
    found = objects.read(scene.dynamic_objects)
    named = {item.tracking_id: item for item in found.dynamic}
    statistics = Statistics()

    def coarse(frame: int) -> NDArray[np.uint8] | None:
        path = scene.motion(frame)
        return masks.read(path) if path.is_file() else None

    with SceneClip(scene) as clip, ExitStack() as stack:
        visuals = Visuals(scene, info, stack) if context.config.segmentation.visuals else None

        def write(frame: int, ids_HW: NDArray[np.uint8]) -> None:
            masks.write(scene.mask(frame), ids_HW)
            statistics.add(frame, ids_HW)
            if visuals is not None:
                visuals.add(frame, images.read_rgb(scene.rgb(frame)), ids_HW)

        def progress(done: int) -> None:
            context.progress(done, info.frame_count)

        context.backend.segment(clip, found, coarse, write, progress)
    labels.write(scene.instance_labels, statistics.instances(named))
    summary = statistics.summary(info.frame_count)
    labels.write_summary(scene.result_summary, summary)
    context.frames = info.frame_count
    context.facts["objects"] = summary.object_count
    context.facts["coverage"] = round(summary.coverage, 4)


STAGE = Stage(
    name="segmentation",
    version=1,
    reads=("scene_json", "rgb", "analysis", "motion", "flow"),
    writes=("masks", "segmentation"),
    settings=settings,
    run=run,
    load=load,
)
