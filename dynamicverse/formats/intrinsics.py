"""depth_prior/intrinsics.json: what a depth model says of the camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dynamicverse.formats import jsonfile
from dynamicverse.formats.model import Coordinate, Model, Name

Focal = Annotated[float, Field(gt=0, le=1e7)]


class PriorIntrinsics(Model):
    """Pinhole camera in pixels of the frames in `rgb/`; (0,0) is the first pixel's centre.

    metric: the depth of the prior is in metres; else its unit is not known.
    """

    fx: Focal
    fy: Focal
    cx: Coordinate
    cy: Coordinate
    source: Name
    metric: bool = False


def write(path: Path, value: PriorIntrinsics) -> None:
    """Write intrinsics.json."""
    jsonfile.write_model(path, value)


def read(path: Path) -> PriorIntrinsics:
    """Read intrinsics.json; raises ArtifactError."""
    return jsonfile.read_model(path, PriorIntrinsics)


def validate(path: Path) -> None:
    """Raise ArtifactError if the file is not valid."""
    read(path)
