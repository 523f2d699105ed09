"""A vision-language model names what moves; the measured motion says whether it does.

The model sees key frames and answers with names, categories, reasons and boxes, or with an
empty list. Beside it the `motion` analysis runs: it gives the camera's motion, marks each
named object (`moves`), and lends its regions to the objects whose boxes hold them, so that a
segmenter without a model of its own has labels to start from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.analysis.confirm import (
    FRAME_SHARE,
    Boxes,
    Measured,
    measure,
    moving_share,
    owners,
    write_owned,
)
from dynamicverse.backends.analysis.motion import MotionAnalysis
from dynamicverse.backends.analysis.working import Scratch
from dynamicverse.backends.vlm import prompts
from dynamicverse.backends.vlm.answers import Reply
from dynamicverse.backends.vlm.client import Question, VlmClient
from dynamicverse.backends.vlm.pictures import Picture, encode, spread
from dynamicverse.backends.vlm.usage import Usage
from dynamicverse.config import AnalysisConfig, VlmConfig
from dynamicverse.cores import available
from dynamicverse.formats.objects import DynamicObject, DynamicObjects, Position

Category = Literal[
    "person", "animal", "vehicle", "machine", "tool", "toy", "sports equipment", "furniture",
    "plant", "food", "clothing", "liquid or smoke", "screen or light", "other",
]  # fmt: skip
THOUSAND = 1000
FURTHEST = 2048  # the largest coordinate that a schema allows
Coordinate = Annotated[int, Field(ge=0, le=FURTHEST)]


class Sighting(Reply):
    """picture: 1-based, of those shown; bbox_2d: two opposite corners, x, y, x, y."""

    picture: Annotated[int, Field(ge=1, le=64)]
    bbox_2d: Annotated[list[Coordinate], Field(min_length=4, max_length=4)]


class Named(Reply):
    """One thing that the model says moves. The pattern of names keeps them plain words."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 '-]{0,59}$")]
    category: Category
    reasoning: Annotated[str, Field(min_length=1, max_length=300)]
    sightings: Annotated[list[Sighting], Field(min_length=1, max_length=64)]


class MovingThings(Reply):
    """The answer; an empty list says that nothing moves."""

    objects: Annotated[list[Named], Field(max_length=64)]


class VlmAnalysis:
    """Names moving objects with a VLM service."""

    info = BackendInfo(
        name="openai",
        licence="of the served model (Qwen2.5-VL 7B, 32B and Qwen3-VL: Apache-2.0; 72B: Qwen)",
        service="vlm",
    )
    prompts: ClassVar[tuple[str, ...]] = ("analysis",)

    def __init__(self, settings: AnalysisConfig, vlm: VlmConfig) -> None:
        """Raises MissingModelError when there is no service, key or model to ask."""
        self._vlm = vlm
        self._client = VlmClient(vlm)
        self._motion = MotionAnalysis(settings)
        # the measurement computes, the question waits: many scenes wait, few compute
        self._computing = threading.BoundedSemaphore(available())

    def analyse(
        self,
        clip: ClipReader,
        write_labels: Callable[[int, Labels], None],
        progress: Callable[[int], None],
        facts: dict[str, Any],
    ) -> DynamicObjects:
        """See `AnalysisBackend`. Raises AnswerError, ServiceError, MissingModelError."""
        count = len(clip)
        if count == 1:
            return self._motion.analyse(clip, write_labels, progress)
        with Scratch() as scratch:
            with self._computing:
                # pictures first: the last reads of the measurement leave nothing decoded ahead
                frames = spread(list(clip.keyframes), self._vlm.pictures)
                pictures = [encode(clip.rgb(f), self._vlm.picture_side) for f in frames]
                measured = measure(self._motion, clip, scratch, progress)
            usage = Usage()
            try:
                answer = self._client.ask(self._question(pictures), usage)
            finally:
                facts["vlm"] = usage.facts(self._vlm)
            boxes = [
                _boxes(named, frames, pictures, clip.size, self._unit()) for named in answer.objects
            ]
            with self._computing:
                owner = owners(boxes, measured)
                write_owned(owner, measured, count, write_labels)
            found = _merge(answer, boxes, measured, owner)
        facts["not_confirmed"] = sum(o.moves is False for o in found.dynamic)
        return found

    def _unit(self) -> str:
        if self._vlm.boxes != "auto":
            return self._vlm.boxes
        return "thousandths" if "qwen3" in self._vlm.model.lower() else "pixels"

    def _question(self, pictures: list[Picture]) -> Question[MovingThings]:
        shown, most = len(pictures), self._vlm.max_objects
        width, height = pictures[0].width, pictures[0].height
        relative = self._unit() == "thousandths"
        unit = "in thousandths of the picture's width and height" if relative else "in pixels"
        schema = MovingThings.model_json_schema()
        schema["properties"]["objects"]["maxItems"] = most
        sighting = schema["$defs"]["Sighting"]["properties"]
        sighting["picture"]["maximum"] = shown
        sighting["bbox_2d"]["items"]["maximum"] = THOUSAND if relative else max(width, height)
        schema["$defs"]["Named"]["properties"]["sightings"]["maxItems"] = shown
        return Question(
            prompt=prompts.read("analysis"),
            values={
                "count": str(shown),
                "width": str(width),
                "height": str(height),
                "most": str(most),
                "unit": unit,
            },
            pictures=pictures,
            captions=[f"Picture {i + 1} of {shown}:" for i in range(shown)],
            answer=MovingThings,
            schema=schema,
            check=partial(_check, shown=shown, most=most),
        )


def _check(answer: MovingThings, shown: int, most: int) -> None:
    if len(answer.objects) > most:
        raise ValueError(f"{len(answer.objects)} objects, at most {most} are allowed")
    for named in answer.objects:
        for sighting in named.sightings:
            if sighting.picture > shown:
                raise ValueError(f"picture {sighting.picture}, only {shown} were shown")


def _boxes(
    named: Named, frames: list[int], pictures: list[Picture], size: tuple[int, int], unit: str
) -> Boxes:
    """Frame → box in full px, ascending; several sightings in one picture are united."""
    found: dict[int, list[float]] = {}
    for sighting in named.sightings:
        picture = pictures[sighting.picture - 1]
        sent = (THOUSAND, THOUSAND) if unit == "thousandths" else (picture.width, picture.height)
        x, y = (
            sorted(
                min(c * size[axis] / sent[axis], size[axis] - 1.0)
                for c in sighting.bbox_2d[axis::2]
            )
            for axis in (0, 1)
        )
        box = [x[0], y[0], x[1], y[1]]
        before = found.get(frames[sighting.picture - 1], box)
        low = [min(before[i], box[i]) for i in (0, 1)]
        found[frames[sighting.picture - 1]] = low + [max(before[i], box[i]) for i in (2, 3)]
    return {frame: [round(c, 2) for c in box] for frame, box in sorted(found.items())}


def _merge(
    answer: MovingThings, boxes: list[Boxes], measured: Measured, owner: dict[int, int]
) -> DynamicObjects:
    dynamic = [
        _marked(index + 1, named, boxes[index], measured)
        for index, named in enumerate(answer.objects)
    ]
    unnamed = [o for o in measured.found.dynamic if o.tracking_id not in owner]
    notes = [*measured.found.notes]
    notes += [
        f"'{o.name}' was named, but its region does not move" for o in dynamic if o.moves is False
    ]
    notes += [
        f"a moving region was measured that nothing was named for: frames "
        f"{o.position[0].frame} to {o.position[-1].frame}, {o.reasoning}"
        for o in unnamed
    ]
    return DynamicObjects(
        dynamic=dynamic,
        static_scene=not dynamic and not unnamed,
        camera_motion=measured.found.camera_motion,
        notes=notes,
    )


def _marked(tracking_id: int, named: Named, boxes: Boxes, measured: Measured) -> DynamicObject:
    """A named object with what the measurement says of it."""
    share = moving_share(boxes, measured) if measured.observable else None
    return DynamicObject(
        name=named.name.strip(),
        category=named.category,
        tracking_id=tracking_id,
        reasoning=named.reasoning,
        confidence=None if share is None else round(share, 3),
        moves=None if share is None else share >= FRAME_SHARE,
        position=[Position(frame=frame, box=list(box)) for frame, box in boxes.items()],
    )
