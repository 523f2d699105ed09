"""Encoding a video file (PyAV, H.264): the same frames give the same bytes."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from dynamicverse.errors import MissingModelError
from dynamicverse.formats.atomic import temporary_beside

TIME_BASE = Fraction(1, 90_000)  # the usual clock of video: 24, 25, 30, 29.97 are whole ticks
BT709 = 1  # matrix, primaries and transfer (ITU-T H.273)
LIMITED = 1  # colour range
BITEXACT = 0x0400  # AVFMT_FLAG_BITEXACT: no date, no version in the file


class VideoWriter:
    """Write RGB frames with their times to an MP4 (H.264, yuv420p, BT.709, limited range).

    Use as a context manager: the file appears, whole, when the block ends without an error.
    Odd sizes are padded by one repeated row or column, which 4:2:0 needs. One encoder
    thread and no time stamps of today, so the bytes depend on the frames only.

    rate: frames a second, for frames written without a time and for the encoder's choices.
    crf: 0 (lossless) to 51; preset: of x264.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        rate: float = 24.0,
        crf: int = 20,
        preset: str = "veryfast",
    ) -> None:
        self.path = path
        self.width, self.height = width, height
        self._temporary = temporary_beside(path)
        self._interval = 1.0 / rate
        self._count = 0
        self._last_pts = -1
        self._reformatter = VideoReformatter()
        try:
            av.codec.Codec("libx264", "w")
        except av.codec.codec.UnknownCodecError as error:
            raise MissingModelError(
                "this PyAV has no H.264 encoder (libx264): install av from PyPI"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = av.open(
            str(self._temporary), "w", format="mp4", options={"movflags": "faststart"}
        )
        self._container.flags |= BITEXACT
        self._stream = self._container.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(1001)
        )
        self._configure(crf, preset)

    def _configure(self, crf: int, preset: str) -> None:
        codec = self._stream.codec_context
        codec.width, codec.height = self.width + self.width % 2, self.height + self.height % 2
        codec.pix_fmt = "yuv420p"
        codec.time_base = TIME_BASE
        codec.thread_count = 1
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED
        # no B-frames: the first frame is at 0 in every player; a key frame every 48 to seek by
        codec.options = {"crf": str(crf), "preset": preset, "bf": "0", "g": "48"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, rgb_HW3: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Add a frame at `time_s` (seconds, increasing; default: at the given rate)."""
        if rgb_HW3.shape != (self.height, self.width, 3) or rgb_HW3.dtype != np.uint8:
            raise ValueError(
                f"a frame is ({self.height},{self.width},3) uint8, "
                f"not {rgb_HW3.shape} {rgb_HW3.dtype}"
            )
        if self.width % 2 or self.height % 2:
            right, below = self.width % 2, self.height % 2
            rgb_HW3 = np.asarray(
                cv2.copyMakeBorder(rgb_HW3, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HW3), format="rgb24")
        picture = self._reformatter.reformat(
            picture,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )
        time_s = self._count * self._interval if time_s is None else time_s
        pts = max(round(time_s / TIME_BASE), self._last_pts + 1)
        picture.pts, picture.time_base = pts, TIME_BASE
        picture.duration = max(1, round(self._interval / TIME_BASE))
        self._last_pts = pts
        self._count += 1
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Finish the file. Raises ValueError if no frame was written."""
        if not self._count:
            self.abort()
            raise ValueError("a video needs a frame")
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._temporary, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Leave nothing behind."""
        try:
            self._container.close()  # on a full disk it raises, too
        finally:
            self._temporary.unlink(missing_ok=True)
