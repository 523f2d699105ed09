"""scene.json: what a scene is and where it comes from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dynamicverse.formats import jsonfile
from dynamicverse.formats.model import (
    MAX_FRAMES,
    Count,
    Model,
    Name,
    PerFrame,
    Sha256,
    Side,
    Text,
    Texts,
)
from dynamicverse.scene import sanitise


def _sanitised(name: str) -> str:
    if name != sanitise(name):
        raise ValueError("not a sanitised name")
    return name


SafeName = Annotated[Name, AfterValidator(_sanitised)]


class Source(Model):
    """The video or frame folder a scene was cut from.

    width, height: the source's size in pixels before rotation and scaling.
    sha256: of the file; of a folder, of its file names and contents.
    rotation: degrees clockwise, as the container says, already applied to the frames.
    """

    name: Annotated[Text, Field(min_length=1)]
    kind: Literal["video", "frames"]
    sha256: Sha256
    bytes: Count
    width: Side
    height: Side
    rotation: Literal[0, 90, 180, 270]


class Shot(Model):
    """The part of the source: frame indices 0-based and inclusive, seconds of the source."""

    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1)]
    first_frame: Annotated[int, Field(ge=0)]
    last_frame: Annotated[int, Field(ge=0)]
    start_s: float
    end_s: float

    @model_validator(mode="after")
    def _consistent(self) -> Shot:
        if self.index >= self.count:
            raise ValueError("index must be below count")
        if self.first_frame > self.last_frame or self.start_s > self.end_s:
            raise ValueError("the interval ends before it starts")
        return self


class FilterReport(Model):
    """The data filter: a score is null where it cannot be known."""

    scores: Annotated[dict[Name, float | None], Field(max_length=100)]
    accepted: bool
    reasons: Texts


class SceneInfo(Model):
    """scene.json.

    width, height: of the frames in `rgb/`, pixels.
    rate: mean frames a second; null for frame folders without a rate.
    times_s: (frame_count) time of every frame in seconds, finite, not decreasing.
    """

    name: SafeName
    dataset: SafeName
    width: Side
    height: Side
    frame_count: Annotated[int, Field(ge=1, le=MAX_FRAMES)]
    rate: Annotated[float, Field(gt=0, le=1e6)] | None
    times_s: PerFrame[float]
    source: Source
    shot: Shot
    filter: FilterReport
    warnings: Texts

    @model_validator(mode="after")
    def _consistent(self) -> SceneInfo:
        times = self.times_s
        if len(times) != self.frame_count:
            raise ValueError(f"{len(times)} times for {self.frame_count} frames")
        if any(later < earlier for earlier, later in pairwise(times)):
            raise ValueError("times_s decrease")
        if self.frame_count > self.shot.last_frame - self.shot.first_frame + 1:
            raise ValueError("more frames than the shot's interval has")
        return self


def write(path: Path, value: SceneInfo) -> None:
    """Write scene.json."""
    jsonfile.write_model(path, value)


def read(path: Path) -> SceneInfo:
    """Read scene.json; raises ArtifactError."""
    return jsonfile.read_model(path, SceneInfo)


def validate(path: Path) -> None:
    """Raise ArtifactError if the file is not a valid scene.json."""
    read(path)
