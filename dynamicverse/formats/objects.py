"""dynamic_objects_<scene>.json: what moves, and where it is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dynamicverse.formats import jsonfile
from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.model import (
    Box,
    Frame,
    Items,
    Model,
    Name,
    PerFrame,
    Share,
    Text,
    Texts,
    require_unique,
)

MAX_BYTES = 256 << 20


class Position(Model):
    """frame: 0-based; box: [x0, y0, x1, y1] in pixels, (0,0) the first pixel's centre."""

    frame: Frame
    box: Box


class DynamicObject(Model):
    """One moving object; `category` is "unknown" where nothing named it.

    moves: does the measured motion agree that it moves; null where that was not checked.
    """

    name: Name
    category: Name
    tracking_id: Annotated[int, Field(ge=1, le=2**31 - 1)]
    reasoning: Text
    confidence: Share | None
    moves: bool | None = None
    position: PerFrame[Position]

    @field_validator("position")
    @classmethod
    def _ascending(cls, position: list[Position]) -> list[Position]:
        if any(later.frame <= earlier.frame for earlier, later in pairwise(position)):
            raise ValueError("frames must ascend")
        return position


class DynamicObjects(Model):
    """All moving objects of a scene; an empty list is a valid answer."""

    dynamic: Items[DynamicObject]
    static_scene: bool
    camera_motion: Literal["static", "rotation", "moving", "unknown"]
    notes: Texts

    @model_validator(mode="after")
    def _consistent(self) -> DynamicObjects:
        require_unique([o.tracking_id for o in self.dynamic], "tracking ids")
        return self


def write(path: Path, value: DynamicObjects) -> None:
    """Write dynamic_objects_<scene>.json."""
    jsonfile.write_model(path, value, MAX_BYTES)


def read(path: Path) -> DynamicObjects:
    """Read dynamic_objects_<scene>.json; raises ArtifactError."""
    return jsonfile.read_model(path, DynamicObjects, MAX_BYTES)


def validate(path: Path, frame_count: int, width: int, height: int) -> None:
    """Raise ArtifactError if an object is outside the clip or its boxes outside the image."""
    for item in read(path).dynamic:
        for position in item.position:
            x0, y0, x1, y1 = position.box
            if position.frame >= frame_count:
                raise invalid(path, f"frame {position.frame} is beyond the {frame_count} frames")
            # a box may be given by pixel centres or by outer edges: one pixel of play
            if x0 < -1 or y0 < -1 or x1 > width or y1 > height:
                raise invalid(path, f"box {position.box} is outside {width}x{height}")
