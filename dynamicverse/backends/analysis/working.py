"""A small copy of a clip and its flow on disk: memory stays flat in the clip's length."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import ClipReader, Flow, Rgb, Valid

Map = npt.NDArray[np.float32]
WORKING_SIDE = 216  # px, longer side; a quarter of 854x480
KEPT_FIELDS = 40  # decoded flow fields held; the longest gap, both ways, needs 16
VALID_SHARE = 0.5  # a working pixel is valid if so much of its area is


class FrameStore:
    """Arrays of one shape and type, one a frame, in a file."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bytes = int(np.prod(shape)) * self._dtype.itemsize
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def __setitem__(self, frame: int, array: npt.NDArray[Any]) -> None:
        if array.shape != self._shape:
            raise ValueError(f"{array.shape} stored where {self._shape} belongs")
        data = memoryview(np.ascontiguousarray(array, self._dtype)).cast("B")
        written = 0
        while written < self._bytes:
            written += os.pwrite(self._file, data[written:], frame * self._bytes + written)

    def __getitem__(self, frame: int) -> npt.NDArray[Any]:
        data = os.pread(self._file, self._bytes, frame * self._bytes)
        if len(data) != self._bytes:
            raise IndexError(f"frame {frame} was never stored")
        return np.frombuffer(bytearray(data), self._dtype).reshape(self._shape)

    def close(self) -> None:
        os.close(self._file)


class Scratch:
    """A temporary folder of frame stores; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="motion-")
        self._stores: list[FrameStore] = []

    def store(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> FrameStore:
        path = Path(self._folder.name) / f"{len(self._stores)}.bin"
        self._stores.append(FrameStore(path, shape, dtype))
        return self._stores[-1]

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for store in self._stores:
            store.close()
        self._folder.cleanup()


class WorkingClip:
    """Frames and flow of a clip, scaled down to WORKING_SIDE (never up).

    All lengths are working pixels; `scale` is full pixels per working pixel, (x, y).
    """

    def __init__(self, clip: ClipReader, scratch: Scratch, progress: Callable[[int], None]) -> None:
        width, height = clip.size
        shrink = min(1.0, WORKING_SIDE / max(width, height))
        self.width = max(1, round(width * shrink))
        self.height = max(1, round(height * shrink))
        self.scale = (width / self.width, height / self.height)
        self.frame_count = len(clip)
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.float32)
        self.x_HW, self.y_HW = columns, rows
        shape = (self.height, self.width)
        self._rgb = scratch.store((*shape, 3), np.uint8)
        self._flow = {s: scratch.store((*shape, 2), np.float16) for s in (1, -1)}
        self._valid = {s: scratch.store(shape, np.bool_) for s in (1, -1)}
        self._fields: OrderedDict[tuple[int, int], tuple[Flow, Valid]] = OrderedDict()
        for frame in range(self.frame_count):
            self._rgb[frame] = _shrink(clip.rgb(frame), shape)
            for step in (1, -1):
                if 0 <= frame + step < self.frame_count:
                    self._store_flow(frame, step, *clip.flow(frame, frame + step))
            progress(frame + 1)

    def _store_flow(self, frame: int, step: int, flow_HW2: Flow, valid_HW: Valid) -> None:
        shape = (self.height, self.width)
        scaled_HW2 = _shrink(flow_HW2, shape) / np.float32(self.scale)
        self._flow[step][frame] = np.clip(scaled_HW2, -6e4, 6e4)
        self._valid[step][frame] = _shrink(valid_HW.astype(np.float32), shape) > VALID_SHARE

    def rgb(self, frame: int) -> Rgb:
        return self._rgb[frame]

    def flow(self, frame: int, step: int) -> tuple[Flow, Valid]:
        """Flow to the next (step 1) or previous (step -1) frame, and its validity."""
        key = (frame, step)
        if key in self._fields:
            self._fields.move_to_end(key)
        else:
            field = self._flow[step][frame].astype(np.float32), self._valid[step][frame]
            self._fields[key] = field
            if len(self._fields) > KEPT_FIELDS:
                self._fields.popitem(last=False)
        return self._fields[key]

    def chains(self, frame: int, gaps: tuple[int, ...], sign: int) -> dict[int, tuple[Flow, Valid]]:
        """Flow over several gaps (ascending), by following the flow from frame to frame.

        Returns signed gap → flow and where every step was consistent; gaps that leave the
        clip are absent.
        """
        found: dict[int, tuple[Flow, Valid]] = {}
        total_HW2 = np.zeros((self.height, self.width, 2), np.float32)
        valid_HW = np.ones((self.height, self.width), np.bool_)
        for step in range(1, gaps[-1] + 1):
            at = frame + sign * (step - 1)
            if not 0 <= at + sign < self.frame_count:
                break
            flow_HW2, ok_HW = self.flow(at, sign)
            if step == 1:
                total_HW2, valid_HW = flow_HW2, ok_HW
            else:
                here_HW = self.warp(ok_HW.astype(np.float32), total_HW2, outside=0.0) > 0.7
                total_HW2 = total_HW2 + self.warp(flow_HW2, total_HW2)
                valid_HW = valid_HW & here_HW
            if step in gaps:
                found[sign * step] = (total_HW2, valid_HW)
        return found

    def warp(self, image: Map, flow_HW2: Flow, outside: float | None = None) -> Map:
        """`image` at the ends of the flow, bilinear; outside the picture: the nearest border
        pixel, or the value `outside`."""
        border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
        return np.asarray(
            cv2.remap(
                image,
                self.x_HW + flow_HW2[..., 0],
                self.y_HW + flow_HW2[..., 1],
                cv2.INTER_LINEAR,
                borderMode=border,
                borderValue=0.0 if outside is None else outside,
            )
        )


def _shrink(image: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    if image.shape[:2] == shape:
        return image
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA))
