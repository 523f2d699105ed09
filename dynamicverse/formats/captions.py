"""captions.json and objects.csv: words for objects, scene and camera, with their grounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dynamicverse.formats import csvfile, jsonfile
from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.model import (
    Facts,
    Frame,
    InstanceId,
    Items,
    Model,
    Name,
    PerInstance,
    Text,
    require_unique,
)

CSV_HEADER = ("instance_id", "description")
Labels = Annotated[list[Name], Field(max_length=100)]


class Caption(Model):
    """A caption, the backend it comes from and the facts it rests on."""

    text: Text
    source: Name
    facts: Facts


class ObjectCaption(Caption):
    """The caption of one instance."""

    instance_id: InstanceId


class CameraSegment(Model):
    """Part of the clip, 0-based and inclusive, with CameraBench labels."""

    first_frame: Frame
    last_frame: Frame
    labels: Labels

    @model_validator(mode="after")
    def _consistent(self) -> CameraSegment:
        if self.first_frame > self.last_frame:
            raise ValueError("last_frame is before first_frame")
        return self


class CameraCaption(Caption):
    """How the camera moves; labels in CameraBench's vocabulary."""

    labels: Labels
    segments: Items[CameraSegment]


class Captions(Model):
    """captions.json."""

    objects: PerInstance[ObjectCaption]
    scene: Caption
    camera: CameraCaption

    @model_validator(mode="after")
    def _consistent(self) -> Captions:
        require_unique([o.instance_id for o in self.objects], "instance ids")
        return self


def write(path: Path, value: Captions) -> None:
    """Write captions.json."""
    jsonfile.write_model(path, value)


def read(path: Path) -> Captions:
    """Read captions.json; raises ArtifactError."""
    return jsonfile.read_model(path, Captions)


def validate(path: Path, frame_count: int) -> None:
    """Raise ArtifactError if the captions do not fit a scene of `frame_count` frames."""
    for segment in read(path).camera.segments:
        if segment.last_frame >= frame_count:
            raise invalid(path, f"a camera segment ends beyond the {frame_count} frames")


def write_csv(path: Path, value: Captions) -> None:
    """Write objects.csv: one row `instance_id,description` an object."""
    rows = [(str(o.instance_id), o.text) for o in value.objects]
    csvfile.write(path, CSV_HEADER, rows)


def read_csv(path: Path) -> dict[int, str]:
    """Read objects.csv: instance id to description; raises ArtifactError."""
    descriptions: dict[int, str] = {}
    for instance_id, text in csvfile.read(path, CSV_HEADER):
        if not re.fullmatch("[1-9][0-9]{0,2}", instance_id) or int(instance_id) > 255:
            raise invalid(path, f"not an instance id: {instance_id[:20]!r}")
        if int(instance_id) in descriptions:
            raise invalid(path, f"instance id {instance_id} comes twice")
        descriptions[int(instance_id)] = text
    return descriptions
