"""Clips are written aside and moved into the tree when they are whole.

A clip's frames are known only once its shot has ended, and its name only once the source has:
until then it lies below a hidden folder of the same file system. What a killed ingest leaves
there looks like nothing, and the next ingest of the source removes it.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynamicverse.curation.scores import ClipScores
from dynamicverse.formats import images
from dynamicverse.formats.atomic import write_bytes
from dynamicverse.media.source import Frame
from dynamicverse.media.writer import VideoWriter
from dynamicverse.scene import Scene

STAGING = ".ingest"
JPEG_THREADS = 2
MAX_PENDING = 8  # frames that wait for an encoder


class Encoders:
    """Threads beside the decoder: any number of JPEGs at once, one video frame after the other."""

    def __init__(self) -> None:
        self._jpeg = ThreadPoolExecutor(JPEG_THREADS, "jpeg")
        self._video = ThreadPoolExecutor(1, "video")
        self._pending: deque[Future[None]] = deque()

    def write(self, path: Path, frame: Frame, quality: int) -> None:
        if frame.jpeg is not None:
            self._add(self._jpeg.submit(write_bytes, path, frame.jpeg))
        else:
            self._add(self._jpeg.submit(images.write_jpeg, path, frame.rgb_HW3, quality))

    def encode(self, writer: VideoWriter, frame: Frame, time_s: float) -> None:
        self._add(self._video.submit(writer.write, frame.rgb_HW3, time_s))

    def drain(self) -> None:
        """Wait for everything; raises what a thread raised."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Drop what waits and stop the threads."""
        for pool in (self._jpeg, self._video):
            pool.shutdown(cancel_futures=True)
        self._pending.clear()

    def _add(self, future: Future[None]) -> None:
        self._pending.append(future)
        if len(self._pending) > MAX_PENDING:
            self._pending.popleft().result()


class StagedClip:
    """The frames, video and scores of one shot, lying aside.

    times_s: of the frames, seconds of the source. first, last: frame indices in the source.
    """

    def __init__(
        self, scene: Scene, first: Frame, rate: float, quality: int, encoders: Encoders
    ) -> None:
        self._scene, self._quality, self._encoders = scene, quality, encoders
        height, width = first.rgb_HW3.shape[:2]
        self.width, self.height = width, height
        self._writer = VideoWriter(scene.video, width, height, rate)
        self._scores = ClipScores()
        self.first = self.last = first.index
        self.times_s: list[float] = []

    def add(self, frame: Frame, small_HW3: NDArray[np.uint8]) -> None:
        index = len(self.times_s)
        self.times_s.append(frame.time_s)
        self.last = frame.index
        self._encoders.write(self._scene.rgb(index), frame, self._quality)
        self._encoders.encode(self._writer, frame, frame.time_s - self.times_s[0])
        self._scores.add(small_HW3)

    def finish(self) -> None:
        """Complete the files of the clip."""
        self._encoders.drain()
        self._writer.close()
        self.scores = self._scores.scores()

    def abort(self) -> None:
        self._writer.abort()

    def move_to(self, scene: Scene) -> None:
        """Move frames and video to their place, replacing what is there."""
        scene.scene_json.unlink(missing_ok=True)  # it says that the clip is whole
        target = scene.rgb(0).parent
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._scene.rgb(0).parent, target)
        scene.video.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._scene.video, scene.video)


@contextmanager
def staging(scene: Scene) -> Iterator[Path]:
    """An empty hidden root, on the file system of `scene`, that is removed afterwards."""
    base = scene.root / STAGING
    folder = base / scene.dataset / scene.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, base):
            try:
                parent.rmdir()
            except OSError:  # another source is being ingested
                break
