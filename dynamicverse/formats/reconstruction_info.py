"""reconstruction.json: how well the reconstruction went, and what cannot be known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dynamicverse.formats import jsonfile
from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.intrinsics import Focal
from dynamicverse.formats.model import MAX_FRAMES, Count, FrameCount, Model, Texts

Scale = Literal["metric", "relative", "unobservable"]


class ReconstructionInfo(Model):
    """reconstruction.json.

    focal_px: pixels, null where none was used; reprojection_rmse_px: over all observations,
    null where there are none; path_length: of the camera, metres if scale is metric, units of
    the reconstruction if relative, null if unobservable.
    statements: plain words on what cannot be known ("depth unobservable: no parallax").
    """

    status: Literal["full", "rotation_only", "static_camera", "too_short", "failed"]
    scale: Scale
    focal_px: Focal | None
    focal_source: Literal["estimated", "prior", "assumed"]
    registered_frames: FrameCount
    frame_count: Annotated[int, Field(ge=1, le=MAX_FRAMES)]
    points: Count
    observations: Count
    reprojection_rmse_px: Annotated[float, Field(ge=0)] | None
    depth_source: Literal["plane_sweep", "prior", "none"]
    path_length: Annotated[float, Field(ge=0)] | None
    statements: Texts

    @model_validator(mode="after")
    def _consistent(self) -> ReconstructionInfo:
        if self.registered_frames > self.frame_count:
            raise ValueError("more registered frames than frames")
        return self


def write(path: Path, value: ReconstructionInfo) -> None:
    """Write reconstruction.json."""
    jsonfile.write_model(path, value)


def read(path: Path) -> ReconstructionInfo:
    """Read reconstruction.json; raises ArtifactError."""
    return jsonfile.read_model(path, ReconstructionInfo)


def validate(path: Path, frame_count: int) -> None:
    """Raise ArtifactError if the file does not fit a scene of `frame_count` frames."""
    found = read(path).frame_count
    if found != frame_count:
        raise invalid(path, f"frame_count {found}, the scene has {frame_count}")
