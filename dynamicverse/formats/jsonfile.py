"""JSON artifacts: strict UTF-8, sorted keys, no NaN, no duplicate keys, bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dynamicverse.errors import ArtifactError
from dynamicverse.formats.atomic import write_bytes
from dynamicverse.formats.bounded import invalid, read_bytes

MAX_BYTES = 64 << 20
MAX_KEYS = 10_000  # of one object: an unknown key costs an error record

M = TypeVar("M", bound=BaseModel)


def write_model(path: Path, model: BaseModel, max_bytes: int = MAX_BYTES) -> None:
    """Write a model; the same value gives the same bytes.

    The model is validated again, because lists in it may have been changed since it was made.
    Raises ArtifactError if it does not hold or would be too large to read back.
    """
    values = _validate(path, model.model_dump(), type(model)).model_dump(mode="json")
    data = _layout(values).encode()
    if len(data) > max_bytes:
        raise invalid(path, f"{len(data)} bytes of JSON, more than {max_bytes} allowed")
    write_bytes(path, data)


def read_model(path: Path, model: type[M], max_bytes: int = MAX_BYTES) -> M:
    """Read and validate a model; no type is coerced.

    Raises ArtifactError naming the file and the first thing that is wrong.
    """
    data = read_bytes(path, max_bytes)
    try:
        values = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
        )
    except RecursionError as error:
        raise invalid(path, "JSON nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise invalid(path, f"not valid JSON ({error})") from error
    return _validate(path, values, model, strict=True)


def _validate(path: Path, values: Any, model: type[M], strict: bool = False) -> M:
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        raise _explain(path, error) from error
    except RecursionError as error:
        raise invalid(path, "JSON nested too deeply") from error


def _explain(path: Path, error: ValidationError) -> ArtifactError:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(part)[:80] for part in problems[0]["loc"]) or "the whole"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return invalid(path, f"{where}: {problems[0]['msg']}{more}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"an object with {len(pairs)} keys")
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _layout(values: dict[str, Any]) -> str:
    """One line a top-level key, and one line an element of a list of objects."""
    lines = [f"{json.dumps(key)}: {_block(values[key])}" for key in sorted(values)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _block(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(_compact(item) for item in value) + "\n]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
