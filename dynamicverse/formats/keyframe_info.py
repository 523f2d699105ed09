"""keyframe_info.json: the score of every frame pair and the frames chosen."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dynamicverse.formats import jsonfile
from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.model import MAX_FRAMES, Frame, Model, Name, PerFrame


class KeyframeInfo(Model):
    """keyframe_info.json.

    score: how a flow field becomes one number, for example "p90" (90th percentile of its
    length); ratio: share of frames chosen; min_gap: frames between two keyframes, at least.
    scores: (F-1) pixels, one a consecutive pair; keyframes: 0-based, ascending.
    """

    score: Name
    ratio: Annotated[float, Field(gt=0, le=1)]
    min_gap: Annotated[int, Field(ge=0, le=MAX_FRAMES)]
    flow_model: Name
    scores: PerFrame[float]
    keyframes: PerFrame[Frame]

    @model_validator(mode="after")
    def _consistent(self) -> KeyframeInfo:
        if any(later <= earlier for earlier, later in pairwise(self.keyframes)):
            raise ValueError("keyframes must ascend")
        if self.keyframes and self.keyframes[-1] > len(self.scores):
            raise ValueError(f"keyframe {self.keyframes[-1]} is beyond the last frame")
        return self


def write(path: Path, value: KeyframeInfo) -> None:
    """Write keyframe_info.json."""
    jsonfile.write_model(path, value)


def read(path: Path) -> KeyframeInfo:
    """Read keyframe_info.json; raises ArtifactError."""
    return jsonfile.read_model(path, KeyframeInfo)


def validate(path: Path, frame_count: int) -> None:
    """Raise ArtifactError if the file does not fit a scene of `frame_count` frames."""
    info = read(path)
    if len(info.scores) != frame_count - 1:
        raise invalid(path, f"{len(info.scores)} scores for {frame_count} frames")
