"""What this machine can run."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from dynamicverse import __version__, backends
from dynamicverse.backends import weights
from dynamicverse.cores import available
from dynamicverse.errors import MissingModelError

PACKAGES = {  # distribution → module, of what the core needs
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "opencv-python-headless": "cv2",
    "av": "av",
    "OpenEXR": "OpenEXR",
    "scenedetect-headless": "scenedetect",
    "fsspec": "fsspec",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. required: nothing runs without it."""

    kind: str
    name: str
    usable: bool
    detail: str
    required: bool = False

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at the interpreter, the packages, the processors and every registered backend."""
    found = [Finding("program", "dynamicverse", True, __version__)]
    found.append(Finding("program", "python", True, platform.python_version()))
    found.extend(_packages())
    found.append(Finding("machine", "processors", True, str(available())))
    found.append(_gpu())
    free = shutil.disk_usage(".").free
    found.append(Finding("machine", "disk", free > 1 << 30, f"{free / 1e9:.1f} GB free here"))
    found.append(_vlm())
    found.extend(_backends())
    return found


def _packages() -> Iterator[Finding]:
    for distribution, module in PACKAGES.items():
        try:
            import_module(module)
            yield Finding("package", distribution, True, version(distribution), required=True)
        except ImportError as error:
            yield Finding("package", distribution, False, str(error), required=True)


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("machine", "gpu", False, "torch is missing")
    if not torch.cuda.is_available():
        return Finding("machine", "gpu", False, "no CUDA device; the embedded preset needs none")
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 1e9
    count = torch.cuda.device_count()
    return Finding("machine", "gpu", True, f"{count} × {properties.name}, {memory:.0f} GB")


def _vlm() -> Finding:
    """Whether a VLM service could be asked; none is."""
    try:
        client = f"openai {version('openai')}"
    except PackageNotFoundError:
        return Finding("service", "vlm", False, "no client: pip install 'dynamicverse[vlm]'")
    if os.environ.get("DASHSCOPE_API_KEY"):
        return Finding("service", "vlm", True, f"{client}; DashScope by DASHSCOPE_API_KEY")
    return Finding("service", "vlm", True, f"{client}; no DASHSCOPE_API_KEY: give --vlm-url")


def _backends() -> Iterator[Finding]:
    for kind in backends.KINDS:
        for name in backends.names(kind):
            try:
                info = backends.info(kind, name)
            except MissingModelError as error:
                yield Finding(f"{kind} backend", name, False, str(error))
                continue
            yield _backend(kind, info)


def _backend(kind: str, info: backends.BackendInfo) -> Finding:
    """Usable when its packages and weights are here; what it lacks is listed."""
    if info.service:
        return Finding(f"{kind} backend", info.name, True, f"{info.licence}; asks a VLM service")
    if not info.weights:
        return Finding(f"{kind} backend", info.name, True, f"{info.licence}, no weights")
    detail = f"{info.licence}, weights {info.weights}@{info.revision[:12]}"
    lacks = [f"the package {name}" for name in info.packages if find_spec(name) is None]
    registered = [one for one in weights.REGISTRY.values() if one.backend == info.name]
    try:
        for one in registered[:1]:
            weights.paths(one)
    except MissingModelError as error:
        lacks.append(str(error))
    if lacks:
        return Finding(f"{kind} backend", info.name, False, f"lacks {'; '.join(lacks)}")
    return Finding(f"{kind} backend", info.name, True, detail)
