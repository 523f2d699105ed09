"""The stages of the pipeline, in order; each module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from dynamicverse.errors import ConfigError
from dynamicverse.stages.base import Stage

NAMES = (
    "ingest",
    "keyframes",
    "analysis",
    "segmentation",
    "tracks",
    "depth",
    "reconstruction",
    "captions",
    "report",
)


def get(name: str) -> Stage:
    """The stage called `name` (not `ingest`, which makes scenes out of sources)."""
    if name not in NAMES:
        raise ConfigError(f"no stage '{name}' (known: {', '.join(NAMES)})")
    stage: Stage = import_module(f"dynamicverse.stages.{name}").STAGE
    return stage
