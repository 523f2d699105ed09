"""Models and methods behind the stages, found by entry point.

A backend is a class registered in the group `dynamicverse.backends.<kind>`; another package
adds its own without a fork. The class attribute `info` declares what it needs; the
constructor takes the stage's configuration section and loads the weights. A backend may have a
list `notes` of what the user should know of its work (a batch that did not fit memory): after
every scene the runner moves them to the scene's warnings.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from dynamicverse.errors import ConfigError, MissingModelError

KINDS = ("flow", "analysis", "segmenter", "tracker", "depth", "captioner")


@dataclass(frozen=True)
class BackendInfo:
    """What a backend is and needs.

    weights: hub repository, empty for a method without weights; revision pins it.
    memory_gb: device memory at the default batch size. packages: modules that it imports on
    loading, beyond the core's. service: "vlm" for a backend that asks
    a VLM service; its constructor takes the configuration's `vlm` section besides, and it has
    `prompts`, the names of those it uses.
    """

    name: str
    licence: str
    weights: str = ""
    revision: str = ""
    device: str = "cpu"
    memory_gb: float = 0.0
    batch_size: int = 1
    service: str = ""
    packages: tuple[str, ...] = ()


def names(kind: str) -> list[str]:
    """The registered backends of a kind."""
    return sorted(ep.name for ep in entry_points(group=f"dynamicverse.backends.{kind}"))


def find(kind: str, name: str) -> type[Any]:
    """The class of a backend.

    Raises ConfigError for an unknown name, MissingModelError when its packages are missing.
    """
    for ep in entry_points(group=f"dynamicverse.backends.{kind}"):
        if ep.name == name:
            try:
                return ep.load()  # type: ignore[no-any-return]
            except ImportError as error:
                raise MissingModelError(
                    f"{kind} backend '{name}' needs a package that is not installed: {error}"
                ) from error
    known = names(kind)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"no {kind} backend '{name}'{hint} (known: {', '.join(known)})")


def info(kind: str, name: str) -> BackendInfo:
    """What a backend declares; its class is imported, its weights are not loaded."""
    return find(kind, name).info  # type: ignore[no-any-return]


def revisions(kind: str, name: str) -> dict[str, str]:
    """The pretrained weights of a backend and their revisions, which decide its outputs.

    Empty for a method without weights. Raises ConfigError, MissingModelError.
    """
    from dynamicverse.backends import weights

    declared = info(kind, name)
    registered = {
        one.name: weights.revision(one)
        for one in weights.REGISTRY.values()
        if one.backend == name and declared.weights
    }
    return registered or ({declared.weights: declared.revision} if declared.weights else {})


def noted(backend: Any) -> list[str]:
    """What a backend noted since it was last asked."""
    notes: list[str] = getattr(backend, "notes", [])
    found = [f"{backend.info.name}: {note}" for note in notes]
    notes.clear()
    return found


def load(kind: str, name: str, settings: Any, vlm: Any = None) -> Any:
    """Load a backend with its stage's configuration section, and `vlm` if it asks a service."""
    found = find(kind, name)
    return found(settings, vlm) if found.info.service else found(settings)
