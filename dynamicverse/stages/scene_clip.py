"""A scene's frames, keyframes and flow for the backends that read them in order."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import numpy.typing as npt

from dynamicverse.errors import ArtifactError
from dynamicverse.formats import flow_png, keyframe_info
from dynamicverse.scene import Scene
from dynamicverse.stages.frames import Rgb, SceneFrames

Field = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


class SceneClip:
    """Implements `ClipReader`; frames and flow are decoded ahead. A context manager."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._frames = SceneFrames(scene)
        self.size = self._frames.size
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="decode-flow")
        self._ahead: dict[int, tuple[int, Future[Field]]] = {}

    @property
    def keyframes(self) -> Sequence[int]:
        return keyframe_info.read(self._scene.keyframe_info).keyframes

    def __enter__(self) -> SceneClip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._frames.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._frames)

    def rgb(self, frame: int) -> Rgb:
        """RGB (H,W,3) of the 0-based frame; raises ArtifactError, IndexError."""
        return self._frames[frame]

    def flow(self, source: int, target: int) -> Field:
        """Flow (H,W,2) px between neighbours and its consistency (H,W); raises ArtifactError."""
        step = target - source
        at, future = self._ahead.pop(step, (-1, None))
        if future is not None and at == source:
            field = future.result()
        else:
            field = self._read(source, target)
        if max(source, target) + 1 < len(self):
            following = self._executor.submit(self._read, source + 1, target + 1)
            self._ahead[step] = (source + 1, following)
        return field

    def _read(self, source: int, target: int) -> Field:
        path = self._scene.flow(source, target)
        flow_HW2, valid_HW = flow_png.read(path)
        if valid_HW.shape[::-1] != self.size:
            raise ArtifactError(
                f"{path}: {valid_HW.shape[1]}x{valid_HW.shape[0]}, the frames are "
                f"{self.size[0]}x{self.size[1]}"
            )
        return flow_HW2, valid_HW
