"""A folder of pictures as a clip (OpenCV)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.errors import InputError, Reason
from dynamicverse.media.files import picture_names, require_readable
from dynamicverse.media.picture import PictureHeader, read_header
from dynamicverse.media.source import (
    Frame,
    Limits,
    MediaInfo,
    on_black,
    scaled,
)

NOMINAL_RATE = 24.0  # frames a second, for times where the rate is unknown
MAX_BYTES_PER_PIXEL = 16  # of an uncompressed picture with four 16-bit channels, and some
HEADER_BYTES = 1 << 20


class FrameFolder:
    """The pictures of a folder as `Frame`s, in natural order of their names.

    RGB uint8 (H,W,3), upright (EXIF applied), at most `max_side` on the longer side; grey is
    repeated, 16 bits become 8, alpha lies over black. Times count at `rate`, or at
    NOMINAL_RATE when the rate is not known.

    A damaged picture is left out with a warning, or is an error (`limits.truncated`); its time
    stays empty. Raises InputError: UNREADABLE, EMPTY, UNSUPPORTED (a second size, no picture
    that decodes), TOO_LARGE, TRUNCATED.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        max_side: int | None = None,
        rate: float | None = None,
    ) -> None:
        self.path = path
        self.limits = limits or Limits()
        self.max_side = max_side
        self.rate = rate
        self.warnings: list[str] = []
        self._damaged: list[str] = []
        self.names = picture_names(path)
        if not self.names:
            raise InputError(f"{path}: a folder without pictures", Reason.EMPTY)
        self._size: tuple[int, int] | None = None
        self._pictures = self._decode()
        self._first = next(self._pictures, None)
        if self._first is None:
            raise InputError(
                f"{path}: none of its {len(self.names)} pictures can be decoded",
                Reason.UNSUPPORTED,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pictures.close()

    def __iter__(self) -> Iterator[Frame]:
        frame = self._first
        self._first = None
        while frame is not None:
            yield frame
            frame = next(self._pictures, None)
        if self._damaged:
            self.warnings.append(
                f"{len(self._damaged)} damaged pictures were left out, {self._damaged[0]} first"
            )

    def _decode(self) -> Generator[Frame, None, None]:
        start: float | None = None
        for index, name in enumerate(self.names):
            path = self.path / name
            found = self._read(path)
            if found is None:
                self._damaged.append(name)
                continue
            header, data = found
            self._check(path, header)
            pixels = decode_picture(path, header, data)
            if pixels is None:
                self._damage(path)
                self._damaged.append(name)
                continue
            pixels = self._shrink(pixels)
            scale = pixels.shape[:2] != (header.height, header.width)
            time_s = index / (self.rate or NOMINAL_RATE)
            start = time_s if start is None else start
            yield Frame(pixels, time_s - start, index, data if header.plain and not scale else None)

    def _read(self, path: Path) -> tuple[PictureHeader, bytes] | None:
        """Header and bytes; None for a damaged picture."""
        size = require_readable(path)
        most = self.limits.max_pixels * MAX_BYTES_PER_PIXEL + HEADER_BYTES
        if size > most:
            raise InputError(f"{path}: {size} bytes, more than {most}", Reason.TOO_LARGE)
        data = path.read_bytes()
        try:
            header = read_header(data)
        except ValueError:
            self._damage(path)
            return None
        if not header.whole:
            self._damage(path)
            return None
        return header, data

    def _check(self, path: Path, header: PictureHeader) -> None:
        width, height = header.width, header.height
        if header.orientation.transpose:
            width, height = height, width
        self.limits.check_size(path, width, height)
        if self._size is None:
            self.info = self._describe(header, width, height)
            self._size = (width, height)
        if (width, height) != self._size:
            raise InputError(
                f"{path}: {width}x{height}, but the pictures before are "
                f"{self._size[0]}x{self._size[1]}; a clip has one size",
                Reason.UNSUPPORTED,
            )

    def _describe(self, header: PictureHeader, width: int, height: int) -> MediaInfo:
        final = scaled(width, height, self.max_side)
        return MediaInfo(
            kind="frames",
            codec=header.kind,
            width=final[0],
            height=final[1],
            stored_width=header.width,
            stored_height=header.height,
            rotation=header.orientation.rotation,
            rate=self.rate,
            frames=len(self.names),
        )

    def _shrink(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (self.info.width, self.info.height)
        if size == (pixels.shape[1], pixels.shape[0]):
            return pixels
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _damage(self, path: Path) -> None:
        if self.limits.truncated == "reject":
            raise InputError(
                f"{path}: a damaged picture (ingest.truncated = keep would leave it out)",
                Reason.TRUNCATED,
            )


def decode_picture(path: Path, header: PictureHeader, data: bytes) -> NDArray[np.uint8] | None:
    """Decode to upright RGB uint8 (H,W,3); None if the data are damaged."""
    jpeg = header.kind == "jpeg"
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if image is None or image.shape[:2] != (header.height, header.width):
        return None
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    if image.dtype != np.uint8:
        raise InputError(
            f"{path}: pixels of type {image.dtype}; 8 or 16 bits are needed", Reason.UNSUPPORTED
        )
    if image.ndim == 2:
        rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    elif image.shape[2] == 4 and header.kind != "bmp":  # the fourth byte of a BMP is padding
        rgb = cv2.cvtColor(on_black(np.asarray(image, np.uint8)), cv2.COLOR_BGR2RGB)
    else:
        rgb = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    return header.orientation.apply(np.asarray(rgb, np.uint8))
