"""Decoding a video file, one frame at a time (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from dynamicverse.cores import available
from dynamicverse.errors import InputError, Reason
from dynamicverse.media.files import ends_early, require_readable
from dynamicverse.media.refused import refused_size
from dynamicverse.media.source import (
    Frame,
    Limits,
    MediaInfo,
    Orientation,
    on_black,
    scaled,
)

# Containers that hold their own frames: no playlist, script or image pattern among them,
# since those open other files.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,mxf,"
    "ivf,h264,hevc,m4v,mjpeg,dv,yuv4mpegpipe,nut,obu"
)
PROBE_BYTES = 5_000_000
PROBE_MICROSECONDS = 5_000_000
MAX_IDLE_PACKETS = 2_000  # without a frame: nothing will come any more
DECODE_THREADS = 4
NOMINAL_RATE = 25.0  # where the container gives none
ATTACHED_PICTURE = 0x0400
RESIZED = "the size of its frames changes; all are scaled to the first"
PQ, HLG = 16, 18  # transfer characteristics of HDR (ITU-T H.273)


def probe(path: Path, limits: Limits | None = None) -> MediaInfo:
    """What a video holds, from its header and first frame.

    Raises InputError with the reason why the file cannot be used.
    """
    with VideoReader(path, limits) as reader:
        return reader.info


@dataclass(frozen=True)
class _Layout:
    """How a decoded picture becomes an upright frame."""

    width: int
    height: int
    orientation: Orientation


class VideoReader:
    """The frames of a video, in order of presentation, with their true times.

    Iterating yields `Frame`s: RGB uint8 (H,W,3), upright (display matrix applied), square
    pixels, at most `max_side` on the longer side, alpha over black, full range, converted
    with the colour matrix that the file names (BT.601 where it names none, as ffmpeg does).
    Times start at 0 and increase. Memory does not depend on the number of frames.

    Damaged frames are left out; `warnings` says so once iteration has ended. Iterate once.
    Raises InputError: UNREADABLE, EMPTY, NOT_VIDEO, UNSUPPORTED, TOO_LARGE, TRUNCATED.
    """

    def __init__(
        self, path: Path, limits: Limits | None = None, max_side: int | None = None
    ) -> None:
        self.path = path.absolute()  # a name such as `concat:a` is a file here, not a protocol
        self.limits = limits or Limits()
        self.max_side = max_side
        self.warnings: list[str] = []
        self._damaged = 0
        self._options = {
            "protocol_whitelist": "file",
            "format_whitelist": FORMATS,
            "probesize": str(PROBE_BYTES),
            "analyzeduration": str(PROBE_MICROSECONDS),
            "max_pixels": str(self.limits.max_pixels),
        }
        self._cut = ends_early(self.path, require_readable(self.path))
        if self._cut:
            self._reject_truncated()
        self._container = self._open()
        try:
            self._stream = self._video_stream()
            self._reformatter = VideoReformatter()
            self._pictures = self._decode()
            self._first = next(self._pictures, None)
            if self._first is None:
                raise self._nothing_decoded()
            self._layout = self._lay_out(self._first)
            self.info = self._describe(self._first)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; twice does no harm."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        clock = _Clock(self.info.rate or NOMINAL_RATE, self._container.format.name == "avi")
        picture, index = self._first, 0
        self._first = None
        while picture is not None:
            time_s = clock.time(picture)
            yield Frame(self._to_rgb(picture), time_s, index)
            picture, index = next(self._pictures, None), index + 1
        if clock.restarts:
            self.warnings.append(
                f"{clock.restarts} times were missing or ran backwards; "
                "set one frame after the one before"
            )
        if self._damaged:
            self.warnings.append(f"damaged frames left out: {self._damaged}")
        if self._cut:
            self._reject_truncated()
            self.warnings.append(f"the file ends early; {index} whole frames were used")

    def _open(self) -> Any:
        try:
            return av.open(str(self.path), options=self._options, metadata_errors="replace")
        except av.error.MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            if self._cut:
                raise InputError(
                    f"{self.path}: ends early and its index is missing; nothing can be decoded",
                    Reason.TRUNCATED,
                ) from error
            problem = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{self.path}: not a video that can be read ({problem})", Reason.NOT_VIDEO
            ) from error

    def _video_stream(self) -> Any:
        pictures = [
            s for s in self._container.streams.video if not int(s.disposition) & ATTACHED_PICTURE
        ]
        if not pictures:
            raise InputError(f"{self.path}: no video in it, only sound or data", Reason.NOT_VIDEO)
        best = self._container.streams.best("video")
        stream = best if best in pictures else pictures[0]
        codec = stream.codec_context
        if codec is None:
            raise InputError(f"{self.path}: no decoder for its codec", Reason.UNSUPPORTED)
        if codec.width and codec.height:
            self.limits.check_size(self.path, codec.width, codec.height)
        codec.options = {"max_pixels": str(self.limits.max_pixels)}
        codec.thread_type = "AUTO"
        codec.thread_count = min(DECODE_THREADS, available())
        return stream

    def _decode(self) -> Iterator[Any]:
        """Whole pictures; damaged ones are counted, an unreadable rest ends the stream."""
        idle = 0
        packets = self._container.demux(self._stream)
        while idle < MAX_IDLE_PACKETS:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError:
                self._cut = True
                return
            if packet is None:
                return
            idle += 1
            self._cut = self._cut or (packet.is_corrupt and bool(packet.size))
            for picture in self._pictures_of(packet):
                idle = 0
                yield picture
        self._cut = True

    def _pictures_of(self, packet: Any) -> list[Any]:
        if packet.is_corrupt and packet.size:
            self._damaged += 1
            return []
        try:
            found = packet.decode()
        except av.error.MemoryError:
            raise
        except av.FFmpegError:
            self._damaged += 1
            return []
        whole = [picture for picture in found if not picture.is_corrupt]
        self._damaged += len(found) - len(whole)
        return whole

    def _lay_out(self, picture: Any) -> _Layout:
        """Sizes and orientation, fixed by the first picture."""
        orientation = Orientation()
        matrix = picture.side_data.get(SideDataType.DISPLAYMATRIX)
        if matrix is not None:
            orientation = Orientation.from_display_matrix(bytes(matrix))
            if picture.rotation % 90:
                self.warnings.append("its rotation is no quarter turn; the nearest was applied")
        width, height = self._square(picture.width, picture.height)
        self.limits.check_size(self.path, width, height)
        width, height = scaled(width, height, self.max_side)
        if picture.interlaced_frame:
            self.warnings.append("interlaced; the fields are not separated")
        if picture.color_trc in (PQ, HLG):
            self.warnings.append("HDR: its tones are converted plainly, not tone-mapped")
        return _Layout(width, height, orientation)

    def _square(self, width: int, height: int) -> tuple[int, int]:
        """The size with square pixels: the squeezed side is stretched."""
        ratio = self._stream.sample_aspect_ratio or Fraction(1)
        if ratio <= 0 or abs(ratio - 1) < Fraction(1, 200):
            return width, height
        if not Fraction(1, 4) <= ratio <= 4:
            self.warnings.append(f"its pixel shape {ratio} is implausible; taken as square")
            return width, height
        if ratio > 1:
            return round(width * ratio), height
        return width, round(height / ratio)

    def _describe(self, picture: Any) -> MediaInfo:
        stream, layout = self._stream, self._layout
        rate = float(stream.average_rate or stream.guessed_rate or 0) or None
        frames = int(stream.frames)
        if not frames and rate and self._container.duration:
            frames = round(self._container.duration / av.time_base * rate)
        width, height = layout.width, layout.height
        if layout.orientation.transpose:
            width, height = height, width
        return MediaInfo(
            kind="video",
            codec=stream.codec_context.name,
            width=width,
            height=height,
            stored_width=picture.width,
            stored_height=picture.height,
            rotation=layout.orientation.rotation,
            rate=rate,
            frames=frames or None,
        )

    def _to_rgb(self, picture: Any) -> NDArray[np.uint8]:
        layout, info = self._layout, self.info
        changed = (picture.width, picture.height) != (info.stored_width, info.stored_height)
        if changed and RESIZED not in self.warnings:
            self.warnings.append(RESIZED)
        shrinks = layout.width * layout.height < picture.width * picture.height
        transparent = picture.format.name == "pal8" or any(
            component.is_alpha for component in picture.format.components
        )
        converted = self._reformatter.reformat(
            picture,
            width=layout.width,
            height=layout.height,
            format="rgba" if transparent else "rgb24",
            interpolation=Interpolation.AREA if shrinks else Interpolation.BICUBIC,
            dst_color_range="JPEG",
            threads=1,
        )
        pixels = np.asarray(converted.to_ndarray(), np.uint8)
        if transparent:
            pixels = on_black(pixels)
        return layout.orientation.apply(pixels)

    def _nothing_decoded(self) -> InputError:
        if self._cut:
            return InputError(f"{self.path}: ends before its first whole frame", Reason.TRUNCATED)
        size = refused_size(self.path, self._options)
        if size is not None:
            return InputError(
                f"{self.path}: {size[0]}x{size[1]} pixels, more than ingest.max_pixels = "
                f"{self.limits.max_pixels}",
                Reason.TOO_LARGE,
            )
        if self._damaged:
            name = self._stream.codec_context.name
            return InputError(
                f"{self.path}: no frame can be decoded (codec {name})", Reason.UNSUPPORTED
            )
        return InputError(f"{self.path}: a video without frames", Reason.EMPTY)

    def _reject_truncated(self) -> None:
        if self.limits.truncated == "reject":
            raise InputError(
                f"{self.path}: ends early (ingest.truncated = keep would use the good part)",
                Reason.TRUNCATED,
            )


class _Clock:
    """Presentation times from 0 that increase.

    A time that is missing or does not increase restarts the clock one frame interval (the
    last one, or the nominal one) after the frame before; later times follow from there.
    """

    def __init__(self, rate: float, decode_times: bool) -> None:
        self.restarts = 0
        self._decode_times = decode_times  # AVI has no others
        self._interval = 1.0 / rate
        self._offset = 0.0
        self._last: float | None = None

    def time(self, picture: Any) -> float:
        ticks = picture.dts if self._decode_times else picture.pts
        stamp = None if ticks is None else float(ticks * picture.time_base)
        if self._last is None:
            self._offset = -(stamp or 0.0)
            self._last = 0.0
            return 0.0
        if stamp is None or stamp + self._offset <= self._last:
            time_s = self._last + self._interval
            if stamp is not None:
                self._offset = time_s - stamp
            self.restarts += not self._decode_times  # the last frames of an AVI have none
        else:
            time_s = stamp + self._offset
            self._interval = time_s - self._last
        self._last = time_s
        return time_s
