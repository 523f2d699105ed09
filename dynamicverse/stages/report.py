"""report: one page that shows a scene and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamicverse.config import Config
from dynamicverse.formats import html
from dynamicverse.report import findings, page
from dynamicverse.scene import Scene
from dynamicverse.stages.base import Stage, StageContext


def _settings(config: Config) -> Mapping[str, Any]:
    return {"preset": config.preset, **config.report.model_dump(mode="json")}


def run(scene: Scene, context: StageContext) -> None:
    """Write report/index.html from whatever the other stages have written."""
    settings = context.config.report
    found = findings.read(scene, context.config.preset, settings.frames)
    text = page.build(found, settings.points)
    html.write(scene.report, text)
    context.frames = found.info.frame_count
    context.facts["bytes"] = len(text.encode())
    context.log(f"report of {len(found.frames)} shown frames, {len(text) / 1e6:.1f} MB")


STAGE = Stage(
    name="report",
    version=1,
    reads=("scene_json", "rgb"),
    optional=(
        "key_frames",
        "flow",
        "analysis",
        "masks",
        "segmentation",
        "tracks",
        "depth_prior",
        "cameras",
        "depth",
        "fused",
        "captions",
    ),
    writes=("report",),
    settings=_settings,
    run=run,
)
