"""Captions by a vision-language model, each with the measurements that it was checked against.

The geometric captions come first. The model is told what they measured and adds what only
eyes can tell: what things are and look like. What it says of the camera is compared with the
measured trajectory, label by label; where there is one, the caption's labels are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.captioner import Evidence, camera_check
from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.geometric import GeometricCaptioner
from dynamicverse.backends.vlm import prompts
from dynamicverse.backends.vlm.answers import Reply
from dynamicverse.backends.vlm.client import Question, VlmClient
from dynamicverse.backends.vlm.pictures import Picture, encode, spread
from dynamicverse.backends.vlm.usage import Usage
from dynamicverse.config import CaptionsConfig, VlmConfig
from dynamicverse.formats.captions import CameraCaption, Caption, Captions, ObjectCaption
from dynamicverse.formats.labels import Instance

OBJECT_PICTURES = 8  # the original system's number
OUTLINE = (255, 0, 0)
OUTLINE_PX = 2
Sentences = Annotated[str, Field(min_length=1, max_length=1500)]
Label = Annotated[str, Field(max_length=40)]


class Description(Reply):
    """What is described."""

    description: Sentences


class CameraDescription(Reply):
    """How the camera moves."""

    labels: Annotated[list[Label], Field(max_length=20)]
    description: Sentences


class QwenCaptioner:
    """Object, scene and camera captions from a VLM service."""

    info = BackendInfo(
        name="qwen",
        licence="of the served model (Qwen2.5-VL 7B, 32B and Qwen3-VL: Apache-2.0; 72B: Qwen)",
        service="vlm",
    )
    prompts: ClassVar[tuple[str, ...]] = ("object", "scene", "camera")

    def __init__(self, settings: CaptionsConfig, vlm: VlmConfig) -> None:
        """Raises MissingModelError when there is no service, key or model to ask."""
        self._vlm = vlm
        self._client = VlmClient(vlm)
        self._geometric = GeometricCaptioner(settings)

    def caption(self, evidence: Evidence, progress: Callable[[int, int], None]) -> Captions:
        """See `Captioner`. An object that no keyframe shows keeps its geometric caption.

        Raises AnswerError, ServiceError, MissingModelError.
        """
        measured = self._geometric.caption(evidence, progress)
        if not evidence.keyframes:
            return measured
        usage = Usage()
        by_id = {instance.id: instance for instance in evidence.instances}
        try:
            return Captions(
                objects=[
                    self._object(by_id[one.instance_id], one, evidence, usage)
                    for one in measured.objects
                ],
                scene=self._scene(measured.scene, evidence, usage),
                camera=self._camera(measured.camera, evidence, usage),
            )
        finally:
            evidence.facts["vlm"] = usage.facts(self._vlm)

    def _object(
        self, instance: Instance, measured: ObjectCaption, evidence: Evidence, usage: Usage
    ) -> ObjectCaption:
        pictures = self._outlined(instance.id, evidence)
        if not pictures:
            return measured
        values = {"name": instance.name, "measured": measured.text}
        said = self._ask("object", pictures, values, usage)
        return ObjectCaption(
            instance_id=instance.id,
            text=said.description,
            source=self._source,
            facts=_grounds(measured, len(pictures)),
        )

    def _scene(self, measured: Caption, evidence: Evidence, usage: Usage) -> Caption:
        pictures = self._shown(evidence)
        said = self._ask("scene", pictures, {"measured": measured.text}, usage)
        facts = _grounds(measured, len(pictures))
        return Caption(text=said.description, source=self._source, facts=facts)

    def _camera(self, measured: CameraCaption, evidence: Evidence, usage: Usage) -> CameraCaption:
        if evidence.info.frame_count == 1:
            return measured
        pictures = self._shown(evidence)
        schema = CameraDescription.model_json_schema()
        schema["properties"]["labels"]["items"] = {"enum": sorted(v.VOCABULARY)}
        question = Question(
            prompt=prompts.read("camera"),
            values={"count": str(len(pictures))},
            pictures=pictures,
            captions=_numbered(pictures),
            answer=CameraDescription,
            schema=schema,
            check=_check_labels,
        )
        said = self._client.ask(question, usage)
        found = camera_check.compare(said.labels, measured)
        return CameraCaption(
            text=camera_check.told(said.description, measured, found),
            labels=list(measured.labels) if found.measured else said.labels,
            segments=list(measured.segments),
            source=f"{self._source}; {measured.source}" if found.measured else self._source,
            facts=_grounds(measured, len(pictures)) | found.facts(said.labels),
        )

    def _ask(
        self, prompt: str, pictures: list[Picture], values: dict[str, str], usage: Usage
    ) -> Description:
        question = Question(
            prompt=prompts.read(prompt),
            values=values | {"count": str(len(pictures))},
            pictures=pictures,
            captions=_numbered(pictures),
            answer=Description,
        )
        return self._client.ask(question, usage)

    @property
    def _source(self) -> str:
        return f"{self.info.name}: {self._vlm.model}"[:100]

    def _shown(self, evidence: Evidence) -> list[Picture]:
        frames = spread(evidence.keyframes, self._vlm.pictures)
        return [encode(evidence.key_frame(f), self._vlm.picture_side) for f in frames]

    def _outlined(self, instance_id: int, evidence: Evidence) -> list[Picture]:
        """Key frames that show the instance, with its outline."""
        frames = [f for f in evidence.keyframes if (evidence.mask(f) == instance_id).any()]
        return [
            encode(
                _with_outline(evidence.key_frame(f), evidence.mask(f) == instance_id),
                self._vlm.picture_side,
            )
            for f in spread(frames, min(OBJECT_PICTURES, self._vlm.pictures))
        ]


def _with_outline(rgb_HW3: NDArray[np.uint8], inside_HW: NDArray[np.bool_]) -> NDArray[np.uint8]:
    contours, _ = cv2.findContours(
        inside_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    drawn = cv2.drawContours(rgb_HW3.copy(), contours, -1, OUTLINE, OUTLINE_PX)
    return np.asarray(drawn, np.uint8)


def _numbered(pictures: list[Picture]) -> list[str]:
    return [f"Picture {i + 1} of {len(pictures)}:" for i in range(len(pictures))]


def _grounds(measured: Caption, pictures: int) -> dict[str, Any]:
    """What a caption rests on: the pictures that were shown and what was measured."""
    return {**measured.facts, "pictures": pictures, "measured_text": measured.text}


def _check_labels(answer: CameraDescription) -> None:
    unknown = [label for label in answer.labels if label not in v.VOCABULARY]
    if unknown:
        raise ValueError(f"'{unknown[0]}' is not one of the labels allowed")
