"""instance_labels.json and result_summary.json: what the mask ids mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dynamicverse.formats import jsonfile
from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.model import (
    MAX_FRAMES,
    Box,
    Colour,
    Count,
    Frame,
    FrameCount,
    InstanceId,
    Model,
    Name,
    PerInstance,
    Share,
    require_unique,
)


class Instance(Model):
    """One instance id; frames are 0-based and inclusive, colour is RGB 0..255."""

    id: InstanceId
    name: Name
    category: Name
    colour: Colour
    first_frame: Frame
    last_frame: Frame

    @model_validator(mode="after")
    def _consistent(self) -> Instance:
        if self.first_frame > self.last_frame:
            raise ValueError("last_frame is before first_frame")
        return self


class InstanceLabels(Model):
    """instance_labels.json: ids are stable over the clip."""

    instances: PerInstance[Instance]

    @model_validator(mode="after")
    def _consistent(self) -> InstanceLabels:
        require_unique([i.id for i in self.instances], "instance ids")
        return self


class ObjectStatistics(Model):
    """frames: in how many frames the object is seen; areas in pixels; box in pixels."""

    id: InstanceId
    frames: FrameCount
    mean_area_px: Annotated[float, Field(ge=0)]
    max_area_px: Annotated[float, Field(ge=0)]
    mean_box: Box

    @model_validator(mode="after")
    def _consistent(self) -> ObjectStatistics:
        if self.mean_area_px > self.max_area_px * (1 + 1e-6):
            raise ValueError("mean_area_px is above max_area_px")
        return self


class SegmentationSummary(Model):
    """result_summary.json; coverage: share of all pixels of the clip that is an object."""

    frame_count: Annotated[int, Field(ge=1, le=MAX_FRAMES)]
    object_count: Count
    coverage: Share
    objects: PerInstance[ObjectStatistics]

    @model_validator(mode="after")
    def _consistent(self) -> SegmentationSummary:
        require_unique([o.id for o in self.objects], "object ids")
        if len(self.objects) != self.object_count:
            raise ValueError(f"{len(self.objects)} objects, object_count {self.object_count}")
        if any(o.frames > self.frame_count for o in self.objects):
            raise ValueError("an object is in more frames than there are")
        return self


def write(path: Path, value: InstanceLabels) -> None:
    """Write instance_labels.json."""
    jsonfile.write_model(path, value)


def read(path: Path) -> InstanceLabels:
    """Read instance_labels.json; raises ArtifactError."""
    return jsonfile.read_model(path, InstanceLabels)


def validate(path: Path, frame_count: int) -> None:
    """Raise ArtifactError if the labels do not fit a scene of `frame_count` frames."""
    for instance in read(path).instances:
        if instance.last_frame >= frame_count:
            raise invalid(path, f"instance {instance.id} is beyond the {frame_count} frames")


def write_summary(path: Path, value: SegmentationSummary) -> None:
    """Write result_summary.json."""
    jsonfile.write_model(path, value)


def read_summary(path: Path) -> SegmentationSummary:
    """Read result_summary.json; raises ArtifactError."""
    return jsonfile.read_model(path, SegmentationSummary)


def validate_summary(path: Path, frame_count: int) -> None:
    """Raise ArtifactError if the summary does not fit a scene of `frame_count` frames."""
    found = read_summary(path).frame_count
    if found != frame_count:
        raise invalid(path, f"frame_count {found}, the scene has {frame_count}")
