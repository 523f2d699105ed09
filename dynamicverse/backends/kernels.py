"""What PyTorch does in several passes over memory, in one: kernels of Triton.

They need a GPU, the package `triton` (which PyTorch for CUDA brings), and a C compiler and Python's
headers, with which Triton builds its launcher on first use. `usable` says whether those are here;
what PyTorch itself computes is the same up to rounding, and a test holds the two together.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

LINE = 1024  # values that a program handles at a time
WARP = 256  # values of a row that one warp of threads handles


@cache
def usable() -> bool:
    """Whether the kernels can run: a GPU, and what Triton compiles with; or its interpreter."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    found = compiler is not None and shutil.which(compiler) is not None and headers.is_file()
    return torch.cuda.is_available() and found


def blended(corners_NyxK: Tensor, right_N: Tensor, down_N: Tensor) -> Tensor:
    """Bilinear means of neighbours: (N,s,s,K) gives (N,(s-1)²·K); right, down: 0..1 of a step."""
    count, side, _, depth = corners_NyxK.shape
    found = corners_NyxK.new_empty(count, (side - 1) ** 2 * depth)
    _blend[(count,)](
        corners_NyxK.contiguous(), right_N.contiguous(), down_N.contiguous(), found, side, depth,
        found.shape[1], LINE,
    )  # fmt: skip
    return found


def windows(volume_NM: Tensor, there_N2: Tensor, width: int, radius: int, stored: int) -> Tensor:
    """Values (N,stored) of N maps in windows of (2r+1)² px round a point each, bilinear.

    volume_NM: maps `width` wide, row by row; there_N2: x and y. Outside a map, and beyond the
    window, are zeros. The result is as precise as the maps.
    """
    count, size = volume_NM.shape
    found = volume_NM.new_empty(count, stored)
    block = 16
    _window[(triton.cdiv(count, block),)](
        volume_NM, there_N2.contiguous(), found, count, size // width, width, radius,
        2 * radius + 1, stored, triton.next_power_of_2(stored), block,
    )  # fmt: skip
    return found


def normalised(
    values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kind: torch.dtype
) -> Tensor:
    """Layer norm over the last axis, computed in single precision, given in `kind`."""
    rows = values.contiguous().view(-1, values.shape[-1])
    found = torch.empty_like(rows, dtype=kind)
    padded = triton.next_power_of_2(rows.shape[1])
    _normalise[(len(rows),)](
        rows, rows if weight is None else weight, rows if bias is None else bias, found,
        rows.shape[1], eps, weight is not None, bias is not None, padded,
        num_warps=1 if padded <= WARP else 4,
    )  # fmt: skip
    return found.view(values.shape)


@triton.jit  # type: ignore[untyped-decorator]
def _blend(corners, right, down, found, side: tl.constexpr,  # type: ignore[no-untyped-def]
           depth: tl.constexpr, size: tl.constexpr, line: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x = tl.load(right + row).to(tl.float32)
    y = tl.load(down + row).to(tl.float32)
    first = corners + row * side * side * depth
    for start in tl.static_range(0, size, line):
        place = start + tl.arange(0, line)
        inside = place < size
        cell = place // depth
        at = ((cell // (side - 1)) * side + cell % (side - 1)) * depth + place % depth
        here = tl.load(first + at, mask=inside, other=0.0).to(tl.float32)
        beside = tl.load(first + at + depth, mask=inside, other=0.0).to(tl.float32)
        below = tl.load(first + at + side * depth, mask=inside, other=0.0).to(tl.float32)
        across = tl.load(first + at + side * depth + depth, mask=inside, other=0.0).to(tl.float32)
        upper = here + (beside - here) * x
        lower = below + (across - below) * x
        mean = upper + (lower - upper) * y
        tl.store(found + row * size + place, mean.to(found.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _window(volume, there, found, count, height, width,  # type: ignore[no-untyped-def]
            radius: tl.constexpr, side: tl.constexpr, stored: tl.constexpr,
            padded: tl.constexpr, block: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    real = row < count
    x = tl.load(there + 2 * row, mask=real, other=0.0)
    y = tl.load(there + 2 * row + 1, mask=real, other=0.0)
    left = tl.floor(x)
    top = tl.floor(y)
    right = (x - left)[:, None]
    down = (y - top)[:, None]
    place = tl.arange(0, padded)
    column = left.to(tl.int32)[:, None] + (place % side - radius)[None, :]
    line = top.to(tl.int32)[:, None] + (place // side - radius)[None, :]
    wanted = real[:, None] & (place < side * side)[None, :]
    first = volume + row[:, None] * (height * width)
    west = wanted & (column >= 0) & (column < width)
    east = wanted & (column >= -1) & (column < width - 1)
    north = (line >= 0) & (line < height)
    south = (line >= -1) & (line < height - 1)
    at = line * width + column
    here = tl.load(first + at, mask=west & north, other=0.0).to(tl.float32)
    beside = tl.load(first + at + 1, mask=east & north, other=0.0).to(tl.float32)
    below = tl.load(first + at + width, mask=west & south, other=0.0).to(tl.float32)
    across = tl.load(first + at + width + 1, mask=east & south, other=0.0).to(tl.float32)
    upper = here + (beside - here) * right
    lower = below + (across - below) * right
    mean = upper + (lower - upper) * down
    keep = real[:, None] & (place < stored)[None, :]
    at = row[:, None] * stored + place[None, :]
    tl.store(found + at, mean.to(found.dtype.element_ty), mask=keep)


@triton.jit  # type: ignore[untyped-decorator]
def _normalise(values, weight, bias, found, size: tl.constexpr,  # type: ignore[no-untyped-def]
               eps, scale: tl.constexpr, shift: tl.constexpr, padded: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, padded)
    inside = place < size
    value = tl.load(values + row * size + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=0) / size
    apart = tl.where(inside, value - mean, 0.0)
    scaled = apart / tl.sqrt(tl.sum(apart * apart, axis=0) / size + eps)
    if scale:
        scaled = scaled * tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    if shift:
        scaled = scaled + tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(found + row * size + place, scaled.to(found.dtype.element_ty), mask=inside)
