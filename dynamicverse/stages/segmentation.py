"""Instance masks of the moving objects, what their ids mean, and pictures of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

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
from dynamicverse.stages.mask_pictures import MaskPictures
from dynamicverse.stages.scene_clip import SceneClip

Ids = npt.NDArray[np.uint8]
BEHIND = 64  # frames that drawing may lag: their masks are on disk


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
        draw = held.enter_context(_Drawing(scene)) if context.config.segmentation.visuals else None

        def write_mask(frame: int, ids_HW: Ids) -> None:
            masks.write(scene.mask(frame), ids_HW)
            statistics.add(frame, ids_HW)
            if draw is not None:
                draw(frame)

        context.backend.segment(
            clip,
            found,
            lambda frame: _coarse(scene, frame),
            write_mask,
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


class _Drawing:
    """Draws the pictures of the masks behind the segmenter; a context manager.

    Leaving it waits for the last one. Raises what drawing raised.
    """

    def __init__(self, scene: Scene) -> None:
        self._pending: deque[Future[None]] = deque()
        with ExitStack() as held:
            info = scene_info.read(scene.scene_json)
            self._pictures = held.enter_context(MaskPictures(scene, info))
            self._worker = held.enter_context(ThreadPoolExecutor(1, "draw"))
            self._held = held.pop_all()

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held:
            if error is not None:
                self._worker.shutdown(cancel_futures=True)
            while self._pending and error is None:
                self._pending.popleft().result()

    def __call__(self, frame: int) -> None:
        self._pending.append(self._worker.submit(self._pictures.add, frame))
        if len(self._pending) > BEHIND:
            self._pending.popleft().result()


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
        areas = np.bincount(ids_HW.ravel(), minlength=1)
        self.covered += ids_HW.size - int(areas[0])
        for i in (int(i) for i in np.flatnonzero(areas) if i):
            inside_HW = ids_HW == i
            rows, columns = np.flatnonzero(inside_HW.any(1)), np.flatnonzero(inside_HW.any(0))
            seen = self.objects.setdefault(i, _Seen(frame, frame))
            seen.last = frame
            seen.areas.append(int(areas[i]))
            seen.box_sum_4 += (columns[0], rows[0], columns[-1], rows[-1])

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
    version=1,
    reads=("scene_json", "rgb", "analysis", "motion", "flow"),
    writes=("masks", "segmentation"),
    settings=settings,
    run=run,
    load=load,
)
