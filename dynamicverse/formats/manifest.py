""".dynamicverse/<stage>.json: what a stage made, from what, and what it took."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, FailFast, Field

from dynamicverse.formats import jsonfile
from dynamicverse.formats.model import (
    MAX_FRAMES,
    Count,
    Facts,
    FrameCount,
    Model,
    Name,
    Sha256,
    Texts,
)

MAX_BYTES = 512 << 20  # a line of about 150 bytes for every file of every frame


def _inside(path: str) -> str:
    """Refuse a path that could leave the root."""
    parts = PurePosixPath(path).parts
    if "\\" in path or "\0" in path or path.startswith("/") or ".." in parts or not parts:
        raise ValueError("not a path relative to the root")
    return path


def _utc(text: str) -> str:
    time = datetime.fromisoformat(text)
    if time.utcoffset() != timedelta(0):
        raise ValueError("not a time in UTC")
    return text


class OutputFile(Model):
    """path: relative to the root, with `/` separators."""

    path: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_inside)]
    bytes: Count
    sha256: Sha256


Files = Annotated[list[OutputFile], Field(max_length=16 * MAX_FRAMES), FailFast()]


class Manifest(Model):
    """One run of one stage on one scene.

    key: digest of everything that decides the outputs; inputs: artifact to digest.
    finished: ISO 8601 in UTC; software: package to version.
    """

    stage: Name
    version: Annotated[int, Field(ge=1)]
    key: Name
    inputs: Annotated[dict[Name, Name], Field(max_length=100)]
    outputs: Annotated[dict[Name, Files], Field(max_length=100)]
    seconds: Annotated[float, Field(ge=0)]
    device: Name
    peak_memory_bytes: Count
    frames: FrameCount
    warnings: Texts
    facts: Facts
    finished: Annotated[str, Field(max_length=40), AfterValidator(_utc)]
    software: Annotated[dict[Name, Name], Field(max_length=100)]


def write(path: Path, value: Manifest) -> None:
    """Write a manifest."""
    jsonfile.write_model(path, value, MAX_BYTES)


def read(path: Path) -> Manifest:
    """Read a manifest; raises ArtifactError."""
    return jsonfile.read_model(path, Manifest, MAX_BYTES)


def validate(path: Path) -> None:
    """Raise ArtifactError if the file is not a valid manifest."""
    read(path)
