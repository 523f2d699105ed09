"""From what a model wrote to a checked value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_STARTS = 20  # opening braces that may begin the answer, of a model that also talks
MAX_COMPLAINT = 400
M = TypeVar("M", bound=BaseModel)


class Reply(BaseModel):
    """Base of what models answer: unknown keys are errors, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse(text: str, model: type[M], check: Callable[[M], None]) -> M:
    """The one JSON object in a text, as `model`.

    Thoughts in `<think>` and a fence or sentence round the object are passed over.
    check: raises ValueError where the value does not fit the question.
    Raises ValueError with one line that the model can be told.
    """
    value = _object(text.rpartition("</think>")[2])
    try:
        answer = model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}"[:MAX_COMPLAINT]) from error
    check(answer)
    return answer


def _object(text: str) -> dict[str, Any]:
    """The first whole object; never one from inside another that is cut off or malformed."""
    # held to a schema, servers still let control characters into strings
    decoder = json.JSONDecoder(strict=False)
    at = text.find("{")
    for _ in range(MAX_STARTS):
        if at < 0:
            break
        try:
            value, _ = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if text[at + 1 : error.pos].strip():  # not a brace in prose: it broke off
                raise ValueError(f"not a complete JSON object: {error}"[:MAX_COMPLAINT]) from error
            at = text.find("{", at + 1)
            continue
        except RecursionError as error:
            raise ValueError("nested too deep") from error
        return dict(value)
    raise ValueError("the answer has no JSON object")
