"""What the JSON artifacts have in common: a strict base model and bounded field types."""

from __future__ import annotations

import math
from typing import Annotated, Any

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
MAX_FACTS = 1_000
MAX_FACT_DEPTH = 6


class Model(BaseModel):
    """Immutable; unknown keys, NaN and infinities are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=10_000
    )


def _printable(text: str) -> str:
    """Refuse what cannot be written as UTF-8 or would hide in a terminal or table."""
    if any((ord(c) < 32 and c not in "\n\t\r") or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds control characters or lone surrogates")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, Field(max_length=10_000), AfterValidator(_printable)]
Texts = Annotated[list[Text], Field(max_length=10_000), FailFast()]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Frame = Annotated[int, Field(ge=0, lt=MAX_FRAMES)]
Count = Annotated[int, Field(ge=0, le=2**53)]
InstanceId = Annotated[int, Field(ge=1, le=255)]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


def _ordered(box: list[float]) -> list[float]:
    if box[0] > box[2] or box[1] > box[3]:
        raise ValueError("a box is [x0, y0, x1, y1] with x0 <= x1 and y0 <= y1")
    return box


Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
Box = Annotated[list[Coordinate], Field(min_length=4, max_length=4), AfterValidator(_ordered)]


def _plain(value: Any, depth: int = 0) -> Any:
    """NumPy scalars as Python numbers; refuse depth, NaN and unprintable text."""
    if depth > MAX_FACT_DEPTH:
        raise ValueError(f"nested deeper than {MAX_FACT_DEPTH}")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinities are not allowed; leave out what is not known")
    if isinstance(value, int) and abs(value) > 2**63:
        raise ValueError("an integer beyond 64 bits")
    if isinstance(value, str):
        return _printable(str(value))
    if isinstance(value, dict):
        return {_printable(str(k)): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, depth + 1) for v in value]
    return value


Facts = Annotated[dict[str, JsonValue], BeforeValidator(_plain), Field(max_length=MAX_FACTS)]


def require_unique(ids: list[int], what: str) -> None:
    """Raise ValueError if two are equal."""
    if len(set(ids)) != len(ids):
        raise ValueError(f"{what} are not unique")
