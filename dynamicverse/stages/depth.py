"""A monocular depth prior for every frame, or none."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dynamicverse import backends
from dynamicverse.backends.depth import DepthBackend
from dynamicverse.config import Config
from dynamicverse.errors import DynamicVerseError
from dynamicverse.formats import depth_exr, intrinsics
from dynamicverse.scene import Scene
from dynamicverse.stages import asking
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.frames import SceneFrames

WRITERS = 4  # frames that are compressed while the next are computed


def run(scene: Scene, context: StageContext) -> None:
    """Write the depth prior and the camera it assumes; reads rgb."""
    backend: DepthBackend = context.backend
    with SceneFrames(scene) as frames:
        count = context.frames = len(frames)
        camera = backend.intrinsics(iter(frames))
        context.facts["prior"] = camera is not None
        if camera is None:
            context.log("no depth prior")
            return
        written = 0
        pending: deque[Future[None]] = deque()

        def collect() -> None:
            nonlocal written
            pending.popleft().result()
            written += 1
            context.progress(written, count)

        with ThreadPoolExecutor(WRITERS, thread_name_prefix="depth-exr") as writers:
            for t, (depth_HW, confidence_HW) in enumerate(backend.stream(iter(frames), camera)):
                path = scene.depth_prior(t)
                pending.append(writers.submit(depth_exr.write, path, depth_HW, confidence_HW))
                if len(pending) > WRITERS:
                    collect()
            while pending:
                collect()
    if written != count:
        raise DynamicVerseError(f"{backend.info.name} gave depth for {written} of {count} frames")
    intrinsics.write(scene.prior_intrinsics, camera)


def settings(config: Config) -> Mapping[str, Any]:
    return asking.settings("depth", config.depth.backend, config.depth, config)


def load(config: Config) -> Any:
    return backends.load("depth", config.depth.backend, config.depth)


STAGE = Stage(
    name="depth",
    version=1,
    reads=("scene_json", "rgb"),
    writes=("depth_prior",),
    settings=settings,
    run=run,
    load=load,
)
