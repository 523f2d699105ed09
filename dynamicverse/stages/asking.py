"""What stages with a backend have in common: what decides its outputs, and how many at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamicverse import backends
from dynamicverse.backends.vlm import prompts
from dynamicverse.config import Config, Section


def settings(kind: str, name: str, section: Section, config: Config) -> Mapping[str, Any]:
    """What decides a stage's outputs: its section, the revisions of the weights where there are
    any, and the model and prompts where it asks."""
    own = section.model_dump(mode="json")
    found = backends.find(kind, name)
    pinned = backends.revisions(kind, name)
    if pinned:
        own |= {"weights": pinned}
    if not found.info.service:
        return own
    asked = {prompt: prompts.read(prompt).identity for prompt in found.prompts}
    return own | {"vlm": config.vlm.decisive(), "prompts": asked}


def concurrency(kind: str, name: str, config: Config) -> int:
    """Scenes at a time: as many as requests where the backend asks a service."""
    return config.vlm.concurrency if backends.info(kind, name).service else 1
