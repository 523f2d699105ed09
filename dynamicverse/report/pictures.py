"""Pictures for a page: chosen frames, small, colour-mapped, and never above a size in bytes."""

from __future__ import annotations

import base64
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.uint8, np.float32)

QUALITIES = (82, 70, 55, 40, 25)
SMALLEST = 16  # pixels
UNKNOWN_GREY = 70


def sample(count: int, at_most: int) -> list[int]:
    """At most so many of 0 … count-1, evenly spread, with the first and the last."""
    if count <= at_most:
        return list(range(count))
    if at_most == 1:
        return [count // 2]
    return [round(k * (count - 1) / (at_most - 1)) for k in range(at_most)]


def fit(image: NDArray[Pixel], side: int, nearest: bool = False) -> NDArray[Pixel]:
    """The picture with its longer side at most `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=how), image.dtype)


def photo(rgb_HW3: Rgb, max_bytes: int) -> str:
    """A JPEG data URI of at most `max_bytes` picture bytes: less quality, then less size."""
    picture = rgb_HW3
    while True:
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for quality in QUALITIES:
            data = _encoded(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if len(data) <= max_bytes:
                return _uri("jpeg", data)
        if max(picture.shape[:2]) <= SMALLEST:
            return _uri("jpeg", data)
        picture = fit(picture, max(SMALLEST, int(max(picture.shape[:2]) * 0.7)))


def overlay(rgba_HW4: NDArray[np.uint8], max_bytes: int) -> str:
    """A PNG data URI with transparency, made smaller until it fits."""
    picture = rgba_HW4
    while True:
        bgra = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
        data = _encoded(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 6])
        if len(data) <= max_bytes or max(picture.shape[:2]) <= SMALLEST:
            return _uri("png", data)
        picture = fit(picture, max(SMALLEST, max(picture.shape[:2]) // 2), nearest=True)


def _encoded(suffix: str, image: NDArray[Any], options: list[int]) -> bytes:
    ok, data = cv2.imencode(suffix, image, options)
    assert ok
    return bytes(data.tobytes())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def mask_rgba(ids_HW: NDArray[np.uint8], colours: dict[int, tuple[int, int, int]]) -> Rgb:
    """Instance ids as colours with an opaque outline; the background is transparent."""
    table = np.zeros((256, 4), np.uint8)
    for i, colour in colours.items():
        table[i] = (*colour, 120)
    rgba_HW4 = table[ids_HW]
    border_HW = cv2.morphologyEx(ids_HW, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    rgba_HW4[border_HW & (ids_HW > 0), 3] = 255
    return rgba_HW4


def blend(rgb_HW3: Rgb, rgba_HW4: NDArray[np.uint8], dim: float = 1.0) -> Rgb:
    """A picture under an overlay of the same size; `dim` darkens what is not covered."""
    alpha = rgba_HW4[..., 3:].astype(np.float32) / 255
    under = rgb_HW3.astype(np.float32) * np.where(alpha > 0, 1.0, dim)
    return np.rint(under * (1 - alpha) + rgba_HW4[..., :3] * alpha).astype(np.uint8)


def depth_colours(depth_HW: NDArray[np.float32], near: float, far: float) -> Rgb:
    """Inverse depth in viridis, near is bright; unknown (0) is grey."""
    known_HW = depth_HW > 0
    inverse_HW = 1 / np.where(known_HW, depth_HW, far)
    share_HW = (inverse_HW - 1 / far) / max(1 / near - 1 / far, 1e-12)
    levels_HW = np.rint(255 * np.clip(share_HW, 0, 1)).astype(np.uint8)
    rgb_HW3 = cv2.cvtColor(cv2.applyColorMap(levels_HW, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    rgb_HW3[~known_HW] = UNKNOWN_GREY
    return np.asarray(rgb_HW3, np.uint8)


def viridis(steps: int) -> list[tuple[int, int, int]]:
    """Colours of the map from far to near."""
    levels = np.linspace(0, 255, steps).astype(np.uint8)[None]
    bgr = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[0]
    return [(int(r), int(g), int(b)) for b, g, r in bgr]


def flow_colours(flow_HW2: NDArray[np.float32], valid_HW: NDArray[np.bool_], full: float) -> Rgb:
    """Direction as hue, length as saturation up to `full` pixels; not valid is grey."""
    length_HW = np.hypot(flow_HW2[..., 0], flow_HW2[..., 1])
    angle_HW = np.arctan2(flow_HW2[..., 1], flow_HW2[..., 0])
    hue_HW = np.rint((angle_HW / (2 * np.pi) % 1.0) * 179).astype(np.uint8)
    share_HW = np.rint(255 * np.clip(length_HW / max(full, 1e-6), 0, 1)).astype(np.uint8)
    hsv_HW3 = np.stack([hue_HW, share_HW, np.full_like(hue_HW, 245)], axis=2)
    rgb_HW3 = cv2.cvtColor(hsv_HW3, cv2.COLOR_HSV2RGB)
    rgb_HW3[~valid_HW] = UNKNOWN_GREY
    return np.asarray(rgb_HW3, np.uint8)


def legible(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The hue of an instance colour, bright enough to be seen on dark and light."""
    hsv = cv2.cvtColor(np.array([[colour]], np.uint8), cv2.COLOR_RGB2HSV)[0, 0]
    hsv[1] = min(int(hsv[1]), 190)
    hsv[2] = max(int(hsv[2]), 240)
    r, g, b = cv2.cvtColor(hsv[None, None], cv2.COLOR_HSV2RGB)[0, 0]
    return int(r), int(g), int(b)


def hex_colour(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
