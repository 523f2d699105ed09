"""The frames of a scene for the stages that read them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dynamicverse.cores import workers
from dynamicverse.errors import ArtifactError
from dynamicverse.formats import images, scene_info
from dynamicverse.scene import Scene

Rgb = npt.NDArray[np.uint8]
Read = TypeVar("Read")

READERS = min(4, workers())  # frames that are decoded at a time, ahead of the reader
AHEAD = 2 * READERS


def read_ahead(read: Callable[[int], Read], count: int) -> Generator[Read, None, None]:
    """read(0) … read(count - 1), several at a time in threads; at most AHEAD + 1 are held.

    To be closed, unless it is read to its end.
    """
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
        coming = deque(readers.submit(read, t) for t in range(min(AHEAD, count)))
        try:
            for following in range(AHEAD, AHEAD + count):
                found = coming.popleft().result()
                if following < count:
                    coming.append(readers.submit(read, following))
                yield found
        finally:
            readers.shutdown(cancel_futures=True)


class SceneFrames:
    """Random access to the frames of a scene; the next frames are decoded ahead.

    A context manager: leaving it stops the decoding threads. At most AHEAD + 1 frames are held.
    """

    def __init__(self, scene: Scene) -> None:
        info = scene_info.read(scene.scene_json)
        self._scene = scene
        self._count = info.frame_count
        self.size = (info.width, info.height)
        self._executor = ThreadPoolExecutor(READERS, thread_name_prefix="decode")
        self._ahead: dict[int, Future[Rgb]] = {}

    def __enter__(self) -> SceneFrames:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, frame: int) -> Rgb:
        """RGB (H,W,3) of the 0-based frame; raises ArtifactError, IndexError."""
        if not 0 <= frame < self._count:
            raise IndexError(frame)
        coming = self._ahead.pop(frame, None)
        image = self._read(frame) if coming is None else coming.result()
        following = range(frame + 1, min(frame + 1 + AHEAD, self._count))
        if coming is None:  # a jump: one frame, until it is known to go on from here
            following = following[:1]
        for passed in [t for t in self._ahead if t not in following]:
            self._ahead.pop(passed).cancel()
        for t in following:
            if t not in self._ahead:
                self._ahead[t] = self._executor.submit(self._read, t)
        return image

    def __iter__(self) -> Iterator[Rgb]:
        return (self[frame] for frame in range(self._count))

    def _read(self, frame: int) -> Rgb:
        path = self._scene.rgb(frame)
        image = images.read_rgb(path)
        if image.shape[1::-1] != self.size:
            raise ArtifactError(
                f"{path}: {image.shape[1]}x{image.shape[0]}, scene.json says "
                f"{self.size[0]}x{self.size[1]}"
            )
        return image
