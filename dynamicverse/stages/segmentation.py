"""Instance masks of the moving objects, what their ids mean, and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse import backends
from dynamicverse.config import Config
from dynamicverse.formats import labels, masks, objects, scene_info
from dynamicverse.formats.labels import (
    Instance,
    InstanceLabels,
    ObjectStatistics,
    SegmentationSummary,
)
from dynamicverse.formats.objects import DynamicObjects
from dynamicverse.scene import Scene
from dynamicverse.stages import asking
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.behind import Behind
from dynamicverse.stages.mask_pictures import MaskPictures
from dynamicverse.stages.scene_clip import SceneClip

Ids = npt.NDArray[np.uint8]
BEHIND = 64  # masks that wait to be written: a segmenter may give many at once


def run(scene: Scene, context: StageContext) -> None:
    """Segment what the analysis found; reads scene.json, rgb, analysis, motion and flow,
    writes masks and segmentation."""
    for stale in (*scene.files("masks"), *scene.files("segmentation")):
        stale.unlink()
    found = objects.read(scene.dynamic_objects)
    statistics = Statistics()
    with ExitStack() as held:
        clip = held.enter_context(SceneClip(scene))
        count = len(clip)
        pictures = None
        if context.config.segmentation.visuals:
            info = scene_info.read(scene.scene_json)
            pictures = held.enter_context(MaskPictures(scene, info))

        def store(frame: int, ids_HW: Ids) -> None:
            masks.write(scene.mask(frame), ids_HW)
            statistics.add(frame, ids_HW)
            if pictures is not None:
                pictures.add(frame, ids_HW)

        context.backend.segment(
            clip,
            found,
            lambda frame: _coarse(scene, frame),
            held.enter_context(Behind(store, BEHIND, "masks")),
            lambda done: context.progress(done, count),
        )
    for missing in (o for o in found.dynamic if o.tracking_id not in statistics.objects):
        context.warn(f"segmentation: {missing.name} has no pixels and is left out")
    labels.write(scene.instance_labels, statistics.labels(found))
    labels.write_summary(scene.result_summary, statistics.summary())
    context.frames = count
    context.facts |= {
        "objects": len(statistics.objects),
        "coverage": round(statistics.coverage, 5),
    }


def _coarse(scene: Scene, frame: int) -> Ids | None:
    path = scene.motion(frame)
    return masks.read(path) if path.exists() else None


@dataclass
class _Seen:
    """One id: the frames it is in, its areas in px and the sum of its boxes."""

    first: int
    last: int
    areas: list[int] = field(default_factory=list)
    box_sum_4: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))


@dataclass
class Statistics:
    """Where the ids of a clip are; fed with one mask after the other."""

    objects: dict[int, _Seen] = field(default_factory=dict)
    frames: int = 0
    pixels: int = 0
    covered: int = 0

    @property
    def coverage(self) -> float:
        """Share of all pixels that is an object."""
        return self.covered / self.pixels if self.pixels else 0.0

    def add(self, frame: int, ids_HW: Ids) -> None:
        self.frames += 1
        self.pixels += ids_HW.size
        for i in sorted(masks.present(ids_HW)):
            inside_HW = (ids_HW == i).view(np.uint8)
            area = cv2.countNonZero(inside_HW)
            x, y, width, height = cv2.boundingRect(inside_HW)
            self.covered += area
            seen = self.objects.setdefault(i, _Seen(frame, frame))
            seen.last = frame
            seen.areas.append(area)
            seen.box_sum_4 += (x, y, x + width - 1, y + height - 1)

    def labels(self, found: DynamicObjects) -> InstanceLabels:
        """The objects of the analysis that have pixels; raises KeyError for an unknown id."""
        named = {o.tracking_id: o for o in found.dynamic}
        return InstanceLabels(
            instances=[
                Instance(
                    id=i,
                    name=named[i].name,
                    category=named[i].category,
                    colour=masks.colour(i),
                    first_frame=seen.first,
                    last_frame=seen.last,
                )
                for i, seen in sorted(self.objects.items())
            ]
        )

    def summary(self) -> SegmentationSummary:
        return SegmentationSummary(
            frame_count=self.frames,
            object_count=len(self.objects),
            coverage=self.coverage,
            objects=[
                ObjectStatistics(
                    id=i,
                    frames=len(seen.areas),
                    mean_area_px=sum(seen.areas) / len(seen.areas),
                    max_area_px=float(max(seen.areas)),
                    mean_box=(seen.box_sum_4 / len(seen.areas)).tolist(),
                )
                for i, seen in sorted(self.objects.items())
            ],
        )


def settings(config: Config) -> Mapping[str, Any]:
    return asking.settings("segmenter", config.segmentation.backend, config.segmentation, config)


def load(config: Config) -> Any:
    return backends.load("segmenter", config.segmentation.backend, config.segmentation)


STAGE = Stage(
    name="segmentation",
    version=2,
    reads=("scene_json", "rgb", "analysis", "motion", "flow"),
    writes=("masks", "segmentation"),
    settings=settings,
    run=run,
    load=load,
)
