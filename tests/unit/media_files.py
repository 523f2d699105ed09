"""Small videos and pictures with known content, made with PyAV and OpenCV."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def texture(seed: int, width: int, height: int) -> Image:
    """Coloured noise of several octaves, as in pictures: fine detail and large shapes."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((height, width, 3), np.float32)
    for octave in range(5):
        size = (width // 2**octave + 2, height // 2**octave + 2)
        layer = rng.normal(size=(size[1], size[0], 3)).astype(np.float32)
        layer = 0.7 * layer.mean(2, keepdims=True) + 0.3 * layer
        layer = cv2.GaussianBlur(layer, (0, 0), 1.0)
        noise += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) * (octave + 1)
    tint = rng.uniform(70, 180, 3)
    return np.clip(tint + 40 * noise / noise.std(), 0, 255).astype(np.uint8)


def pan(image: Image, count: int, width: int, height: int, step: float = 2.0) -> list[Image]:
    """A camera that moves right over a large picture, `step` pixels a frame."""
    frames = []
    for i in range(count):
        centre = (width / 2 - 0.5 + 8 + i * step, height / 2 - 0.5 + 8)
        frames.append(cv2.getRectSubPix(image, (width, height), centre))
    return frames


def shot(
    seed: int, count: int, width: int = 160, height: int = 96, step: float = 2.0
) -> list[Image]:
    picture = texture(seed, int(width + count * abs(step) + 32), height + 32)
    return pan(picture, count, width, height, step)


def corners(width: int, height: int) -> Image:
    """Black with red, green, blue and white quarters: top left, top right, bottom left, right."""
    image = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2, width // 2
    image[:y, :x], image[:y, x:] = CORNERS["red"], CORNERS["green"]
    image[y:, :x], image[y:, x:] = CORNERS["blue"], CORNERS["white"]
    return image


def quarters(image: Image) -> list[str]:
    """The colours of the quarters of a picture, in the order of `corners`."""
    height, width = image.shape[:2]
    found = []
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            pixel = image[y, x].astype(int)
            found.append(min(CORNERS, key=lambda c: int(np.abs(pixel - CORNERS[c]).sum())))
    return found


def write_video(
    path: Path,
    frames: Sequence[NDArray[Any]],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    given: str = "rgb24",
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    rate: int = 25,
    rotation: float = 0,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    colour: tuple[int, int, int] | None = None,
) -> Path:
    """Encode frames; times are in units of `time_base`. colour: matrix, range, transfer."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        planar = given.startswith("yuv444p")
        stream.height, stream.width = frames[0].shape[1:] if planar else frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.thread_count = 1
        if codec == "libx264":
            context.options = {"preset": "ultrafast", "crf": "10", **(options or {})}
        elif options:
            context.options = options
        if times is not None:
            context.time_base = time_base
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if colour is not None:
            context.colorspace, context.color_range, context.color_trc = colour
        if rotation:
            stream.set_display_rotation(rotation)
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=given)
            if colour is not None:
                picture.colorspace, picture.color_range = colour[0], colour[1]
            if times is not None:
                picture.pts, picture.time_base = times[index], time_base
            else:
                picture.pts, picture.time_base = index, Fraction(1, rate)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Two seconds of sound without a picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        samples = np.zeros((1, 32000), np.float32)
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    return path


def cut(source: Path, target: Path, share: float = 0.6) -> Path:
    """The first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def claim_size(path: Path, kind: bytes, width: int, height: int) -> None:
    """Rewrite the size in the sample entry `kind` of an MP4 or MOV."""
    data = bytearray(path.read_bytes())
    at = data.index(kind, data.index(b"stsd")) + 4 + 24
    struct.pack_into(">HH", data, at, width, height)
    path.write_bytes(data)


def exif_jpeg(image: Image, orientation: int) -> bytes:
    """A JPEG whose EXIF says how the camera was held."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    data = encoded.tobytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 274, 3, 1, orientation, 0) + b"\0\0\0\0"
    payload = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def write_frames(folder: Path, frames: Sequence[NDArray[Any]], suffix: str = ".png") -> Path:
    """Number the frames from 1; RGB or RGBA in, OpenCV's order out."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(frames, start=1):
        if image.ndim == 3:
            code = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
            image = cv2.cvtColor(image, code)
        assert cv2.imwrite(str(folder / f"{index}{suffix}"), image)
    return folder
