"""What the JSON artifacts have in common: a strict base model and bounded field types."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
)

MAX_FRAMES = 2_000_000  # ten hours at 55 frames/s
MAX_SIDE = 65_535  # pixels
MAX_ITEMS = 100_000  # objects, warnings, segments
MAX_TEXT = 10_000
MAX_FACTS = 1_000
MAX_FACT_DEPTH = 6


class Model(BaseModel):
    """Immutable; unknown keys, NaN and infinities are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _printable(value: Any) -> Any:
    """Text with control characters and lone surrogates written out, as in `\\x1b`.

    They come from foreign file names, cannot be stored as UTF-8 and would act on a terminal.
    """
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(_written_out(c) for c in value)


def _written_out(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t" or not (code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000):
        return character
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


Printable = BeforeValidator(_printable)
Name = Annotated[str, Printable, Field(min_length=1, max_length=200)]
Text = Annotated[str, Printable, Field(max_length=MAX_TEXT)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Frame = Annotated[int, Field(ge=0, lt=MAX_FRAMES)]
FrameCount = Annotated[int, Field(ge=0, le=MAX_FRAMES)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
InstanceId = Annotated[int, Field(ge=1, le=255)]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]

T = TypeVar("T")
# without FailFast a hostile list would collect an error for each of its items
PerFrame = Annotated[list[T], Field(max_length=MAX_FRAMES), FailFast()]
Items = Annotated[list[T], Field(max_length=MAX_ITEMS), FailFast()]
PerInstance = Annotated[list[T], Field(max_length=255), FailFast()]
Texts = Items[Text]


def _ordered(box: list[float]) -> list[float]:
    if box[0] > box[2] or box[1] > box[3]:
        raise ValueError("a box is [x0, y0, x1, y1] with x0 <= x1 and y0 <= y1")
    return box


Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
Box = Annotated[
    list[Coordinate], Field(min_length=4, max_length=4), FailFast(), AfterValidator(_ordered)
]


def _plain(value: Any, depth: int = 0) -> Any:
    """NumPy scalars as Python numbers; refuse depth, NaN and unbounded values."""
    if depth > MAX_FACT_DEPTH:
        raise ValueError(f"nested deeper than {MAX_FACT_DEPTH}")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinities are not allowed; leave out what is not known")
    if isinstance(value, int) and abs(value) > 2**63:
        raise ValueError("an integer beyond 64 bits")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ValueError(f"a text of more than {MAX_TEXT} characters")
    if isinstance(value, dict):
        return {_printable(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, depth + 1) for v in value]
    return _printable(value)


Facts = Annotated[dict[str, JsonValue], BeforeValidator(_plain), Field(max_length=MAX_FACTS)]


def require_unique(ids: list[int], what: str) -> None:
    """Raise ValueError if two are equal."""
    if len(set(ids)) != len(ids):
        raise ValueError(f"{what} are not unique")
