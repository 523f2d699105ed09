"""Optical flow as 16-bit PNG, the encoding of the KITTI flow benchmark.

Red and green are u and v times 64 plus 2^15, blue is 1 where the flow is valid.
Geiger et al., "Are we ready for autonomous driving?", CVPR 2012, development kit.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats import png
from dynamicverse.formats.atomic import write_bytes
from dynamicverse.formats.bounded import invalid

STEP = 1 / 64  # pixels
ZERO = 1 << 15
MIN_FLOW, MAX_FLOW = -512.0, 511.984375
# run lengths after the difference to the left: four times faster than level 6, same size
ENCODING = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_SUB,
)


def write(path: Path, flow_HW2: NDArray[np.float32], valid_HW: NDArray[np.bool_]) -> None:
    """Write a flow field, rounded to 1/64 px.

    flow_HW2: (x, y) displacement in pixels. Where it is outside -512..511.98 or not finite it
    is stored as zero and not valid; elsewhere it is kept even where `valid_HW` is False.
    """
    if flow_HW2.shape != (*valid_HW.shape, 2) or valid_HW.ndim != 2 or not valid_HW.size:
        raise invalid(path, f"flow {flow_HW2.shape} with valid {valid_HW.shape}")
    flow_HW2 = np.ascontiguousarray(flow_HW2, np.float32)
    valid_HW = np.ascontiguousarray(valid_HW, np.bool_)
    low, high = flow_HW2.min(), flow_HW2.max()
    if not (low >= MIN_FLOW and high <= MAX_FLOW):  # also true for NaN
        inside_HW1 = np.all((flow_HW2 >= MIN_FLOW) & (flow_HW2 <= MAX_FLOW), axis=2, keepdims=True)
        flow_HW2 = np.where(inside_HW1, flow_HW2, np.float32(0))
        valid_HW = valid_HW & inside_HW1[..., 0]
    signed_HW2 = cv2.addWeighted(flow_HW2, 64.0, flow_HW2, 0.0, 0.0, dtype=cv2.CV_16S)
    # the offset is added to the integers: in float32 it would cost the last bits
    codes_HW2 = np.bitwise_xor(signed_HW2.view(np.uint16), np.uint16(ZERO))
    image_HW3 = np.empty((*valid_HW.shape, 3), np.uint16)
    image_HW3[..., 0] = valid_HW
    cv2.mixChannels([codes_HW2], [image_HW3], [0, 2, 1, 1])
    ok, encoded = cv2.imencode(".png", image_HW3, ENCODING)
    assert ok
    write_bytes(path, encoded.tobytes())


def read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a flow field: (H,W,2) pixels and (H,W) validity; raises ArtifactError.

    In files of others the flow of a pixel that is not valid has no meaning.
    """
    image_HW3, _ = png.decode(path, png.RGB, 16)
    codes_HW2 = np.empty((*image_HW3.shape[:2], 2), np.uint16)
    cv2.mixChannels([image_HW3], [codes_HW2], [2, 0, 1, 1])
    codes_HW2 ^= np.uint16(ZERO)
    return codes_HW2.view(np.int16) * np.float32(STEP), image_HW3[..., 0] != 0


def validate(path: Path, width: int, height: int, thorough: bool = False) -> None:
    """Raise ArtifactError if the file is not a flow field of this size."""
    header = png.read_header(path)
    if (header.colour, header.depth) != (png.RGB, 16):
        raise invalid(path, "not a 16-bit RGB PNG")
    if (header.width, header.height) != (width, height):
        raise invalid(path, f"{header.width}x{header.height}, the frames are {width}x{height}")
    if thorough:
        read(path)
