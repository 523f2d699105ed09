"""The file formats of the output tree: one module an artifact.

`SCHEMAS` maps public names to the models of the JSON artifacts; `validate_artifact` checks
all files of one artifact of a scene. Both import what they need when they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dynamicverse.scene import Scene

_MODELS = {
    "captions": ("captions", "Captions"),
    "dynamic_objects": ("objects", "DynamicObjects"),
    "instance_labels": ("labels", "InstanceLabels"),
    "intrinsics": ("intrinsics", "PriorIntrinsics"),
    "keyframe_info": ("keyframe_info", "KeyframeInfo"),
    "manifest": ("manifest", "Manifest"),
    "reconstruction": ("reconstruction_info", "ReconstructionInfo"),
    "result_summary": ("labels", "SegmentationSummary"),
    "scene": ("scene_info", "SceneInfo"),
}


class _Schemas(Mapping[str, "type[BaseModel]"]):
    """Public name to model; a module is imported when its model is asked for."""

    def __getitem__(self, name: str) -> type[BaseModel]:
        module, model = _MODELS[name]
        found: type[BaseModel] = getattr(import_module(f"{__name__}.{module}"), model)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_MODELS)

    def __len__(self) -> int:
        return len(_MODELS)


SCHEMAS: Mapping[str, type[BaseModel]] = _Schemas()


def validate_artifact(scene: Scene, artifact: str, thorough: bool = False) -> None:
    """Check all files of an artifact: their number, headers, dimensions and cross-references.

    With `thorough` every file is decoded as well. Raises ArtifactError.
    """
    checks = import_module(f"{__name__}.checks")
    checks.validate_artifact(scene, artifact, thorough)
