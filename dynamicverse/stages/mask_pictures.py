"""Pictures and videos of masks, for people to look at."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.formats import images, masks
from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.scene_info import SceneInfo
from dynamicverse.media import VideoWriter
from dynamicverse.scene import Scene

Rgb = npt.NDArray[np.uint8]
KINDS = ("original", "masks", "overlay", "segmented")
DEFAULT_RATE = 24.0  # frames a second, of clips without times
OPACITY = 0.5
PALETTE_256_3 = np.array([masks.colour(i) for i in range(masks.MAX_ID + 1)], np.uint8)


class MaskPictures:
    """Writes the four visual copies of a scene's frames, each in its thread; a context manager.

    original: the frame. masks: the ids' colours. overlay: both. segmented: the objects on
    black.
    """

    def __init__(self, scene: Scene, info: SceneInfo) -> None:
        self._scene = scene
        # without a rate the times are frame numbers or unknown
        self._times = info.times_s if info.rate else None
        size, rate = (info.width, info.height), info.rate or DEFAULT_RATE
        with ExitStack() as stack:
            self._videos = {
                kind: stack.enter_context(VideoWriter(scene.segmentation_video(kind), *size, rate))
                for kind in KINDS
            }
            self._writers = stack.enter_context(ThreadPoolExecutor(len(KINDS), "mask-pictures"))
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

    def add(self, frame: int) -> None:
        """Write the next frame, from its picture and its mask on disk."""
        rgb_HW3 = images.read_rgb(self._scene.rgb(frame))
        pictures = draw(rgb_HW3, masks.read(self._scene.mask(frame)))
        writing = [
            self._writers.submit(self._write, kind, frame, picture_HW3)
            for kind, picture_HW3 in pictures.items()
        ]
        for one in writing:
            one.result()

    def _write(self, kind: str, frame: int, picture_HW3: Rgb) -> None:
        path = self._scene.segmentation_frame(kind, frame)
        if kind == "original":
            with atomic_path(path) as target:
                shutil.copyfile(self._scene.rgb(frame), target)
        elif path.suffix == ".jpg":
            images.write_jpeg(path, picture_HW3)
        else:
            images.write_png(path, picture_HW3)
        time_s = None if self._times is None else self._times[frame]
        self._videos[kind].write(picture_HW3, time_s)


def draw(rgb_HW3: Rgb, ids_HW: npt.NDArray[np.uint8]) -> dict[str, Rgb]:
    """Kind → picture (H,W,3) of a frame and its mask."""
    colours_HW3 = PALETTE_256_3[ids_HW]
    mixed_HW3 = cv2.addWeighted(rgb_HW3, 1 - OPACITY, colours_HW3, OPACITY, 0)
    inside_HW1 = (ids_HW > 0)[..., None]
    return {
        "original": rgb_HW3,
        "masks": colours_HW3,
        "overlay": np.where(inside_HW1, np.asarray(mixed_HW3, np.uint8), rgb_HW3),
        "segmented": np.where(inside_HW1, rgb_HW3, np.uint8(0)),
    }
