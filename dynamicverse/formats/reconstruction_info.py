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
ObjectModel = Literal["rigid", "deforming", "contact", "unknown"]
ScaleSource = Literal["prior", "contact", "none"]


class ObjectFacts(Model):
    """How a moving object was reconstructed.

    model: a rigid body with a pose a frame; a deforming surface; the depth of its ground contact
    or prior for the object as a whole (`contact`); nothing (`unknown`). scale_source: what its
    distance rests on; with `none` only the rotation of a rigid object is known.
    tracks: it was solved from; posed_frames: with a pose. residual_px: root mean square
    reprojection error of what agrees; explained: share of the observations, 0..1, each the less
    the farther off; scale_spread: robust standard deviation of the logarithm of the scale
    between frames; strain: the same of the distances between neighbouring points of a deforming
    object. Null where the model has none.
    """

    instance_id: Annotated[int, Field(ge=1, le=255)]
    model: ObjectModel
    scale_source: ScaleSource
    tracks: Count
    posed_frames: FrameCount
    residual_px: Annotated[float, Field(ge=0)] | None = None
    explained: Annotated[float, Field(ge=0, le=1)] | None = None
    scale_spread: Annotated[float, Field(ge=0)] | None = None
    strain: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ObjectFacts:
        if (self.scale_source == "none") != (self.model == "unknown") and self.model != "rigid":
            raise ValueError(f"model '{self.model}' with scale source '{self.scale_source}'")
        if self.posed_frames and self.model != "rigid":
            raise ValueError("only a rigid object has poses")
        return self


class Relabelled(Model):
    """Tracks whose label in the masks contradicts their motion.

    to_static: on an object, but they stand still; to_moving: on the background, but they move
    with an object; set_aside: on the background, but they move with none.
    """

    to_static: Count = 0
    to_moving: Count = 0
    set_aside: Count = 0


class ReconstructionInfo(Model):
    """reconstruction.json.

    focal_px: pixels, null where none was used; focal_sigma_px: its standard deviation, where it
    was not estimated that of what was assumed, null where not known; reprojection_rmse_px: over
    all observations, null where there are none; path_length: of the camera, metres if scale is
    metric, units of the reconstruction if relative, null if unobservable.
    statements: plain words on what cannot be known ("depth unobservable: no parallax").
    objects: the moving objects of the masks, and how each was reconstructed.
    """

    status: Literal["full", "rotation_only", "static_camera", "too_short", "failed"]
    scale: Scale
    focal_px: Focal | None
    focal_source: Literal["estimated", "prior", "assumed"]
    focal_sigma_px: Annotated[float, Field(ge=0)] | None = None
    registered_frames: FrameCount
    frame_count: Annotated[int, Field(ge=1, le=MAX_FRAMES)]
    points: Count
    observations: Count
    reprojection_rmse_px: Annotated[float, Field(ge=0)] | None
    depth_source: Literal["plane_sweep", "prior", "none"]
    path_length: Annotated[float, Field(ge=0)] | None
    statements: Texts
    objects: list[ObjectFacts] = Field(default_factory=list, max_length=255)
    relabelled: Relabelled = Relabelled()

    @model_validator(mode="after")
    def _consistent(self) -> ReconstructionInfo:
        if self.registered_frames > self.frame_count:
            raise ValueError("more registered frames than frames")
        ids = [item.instance_id for item in self.objects]
        if len(set(ids)) < len(ids):
            raise ValueError("an instance id comes twice")
        if any(item.posed_frames > self.frame_count for item in self.objects):
            raise ValueError("more posed frames than frames")
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
