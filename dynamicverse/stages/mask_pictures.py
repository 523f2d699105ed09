"""Pictures and videos of masks, for people to look at."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.cores import workers
from dynamicverse.formats import images, masks
from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.scene_info import SceneInfo
from dynamicverse.media import VideoWriter
from dynamicverse.scene import Scene
from dynamicverse.stages.behind import Behind

Rgb = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint8]
Pictures = dict[str, Rgb]
KINDS = ("original", "masks", "overlay", "segmented")
DEFAULT_RATE = 24.0  # frames a second, of clips without times
OPACITY = 0.5
PALETTE_1_256_3 = np.array([[masks.colour(i) for i in range(masks.MAX_ID + 1)]], np.uint8)
PAINTERS = min(4, workers())  # frames that are painted at a time
AHEAD = 2 * PAINTERS  # painted frames that a video may lag


class MaskPictures:
    """Writes the four visual copies of a scene's frames; a context manager.

    original: the frame. masks: the ids' colours. overlay: both. segmented: the objects on
    black. Several frames are painted at a time; each video takes them in order, in a thread.
    """

    def __init__(self, scene: Scene, info: SceneInfo) -> None:
        self._scene = scene
        # without a rate the times are frame numbers or unknown
        self._times = info.times_s if info.rate else None
        size, rate = (info.width, info.height), info.rate or DEFAULT_RATE
        with ExitStack() as stack:
            videos = {
                kind: stack.enter_context(VideoWriter(scene.segmentation_video(kind), *size, rate))
                for kind in KINDS
            }
            self._painters = stack.enter_context(ThreadPoolExecutor(PAINTERS, "paint"))
            self._encoders = [
                stack.enter_context(Behind(partial(self._encode, kind, video), AHEAD, "encode"))
                for kind, video in videos.items()
            ]
            self._stack = stack.pop_all()

    def __enter__(self) -> MaskPictures:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, frame: int, ids_HW: Ids) -> None:
        """Write the next frame's pictures; waits only while the videos lag too far.

        Raises what failed for this frame or one before it; so does leaving the block.
        """
        painted = self._painters.submit(self._paint, frame, ids_HW)
        for encode in self._encoders:
            encode(frame, painted)

    def _paint(self, frame: int, ids_HW: Ids) -> Pictures:
        pictures = draw(images.read_rgb(self._scene.rgb(frame)), ids_HW)
        for kind, picture_HW3 in pictures.items():
            path = self._scene.segmentation_frame(kind, frame)
            if kind == "original":
                with atomic_path(path) as target:
                    shutil.copyfile(self._scene.rgb(frame), target)
            elif path.suffix == ".jpg":
                images.write_jpeg(path, picture_HW3)
            else:
                images.write_png(path, picture_HW3)
        return pictures

    def _encode(self, kind: str, video: VideoWriter, frame: int, painted: Future[Pictures]) -> None:
        time_s = None if self._times is None else self._times[frame]
        video.write(painted.result()[kind], time_s)


def draw(rgb_HW3: Rgb, ids_HW: Ids) -> Pictures:
    """Kind → picture (H,W,3) of a frame and its mask."""
    colours_HW3 = np.asarray(cv2.LUT(cv2.merge([ids_HW] * 3), PALETTE_1_256_3), np.uint8)
    mixed_HW3 = cv2.addWeighted(rgb_HW3, 1 - OPACITY, colours_HW3, OPACITY, 0)
    return {
        "original": rgb_HW3,
        "masks": colours_HW3,
        "overlay": np.asarray(cv2.copyTo(mixed_HW3, ids_HW, rgb_HW3.copy()), np.uint8),
        "segmented": np.asarray(cv2.bitwise_and(rgb_HW3, rgb_HW3, mask=ids_HW), np.uint8),
    }
