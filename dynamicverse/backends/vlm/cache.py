"""Answers that were accepted before, by the content of the question."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicverse.formats.atomic import write_bytes

MAX_BYTES = 1 << 20


class Stored(BaseModel):
    """An accepted answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: str = Field(max_length=MAX_BYTES)


def folder() -> Path:
    """`$DYNAMICVERSE_CACHE`, else inside `$DYNAMICVERSE_SCRATCH`, else the user's cache folder.

    It may be deleted at any time.
    """
    chosen = os.environ.get("DYNAMICVERSE_CACHE")
    if chosen:
        return Path(chosen) / "vlm"
    scratch = os.environ.get("DYNAMICVERSE_SCRATCH")
    if scratch:
        return Path(scratch) / ".vlm-cache"
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "dynamicverse" / "vlm"


def key(identity: Any) -> str:
    """The name of an answer: a digest of everything that decides it (plain JSON values)."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """One small file an answer, written atomically; a damaged one counts as absent."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str) -> str | None:
        path = self._path(name)
        try:
            if path.stat().st_size > MAX_BYTES:
                return None
            return Stored.model_validate_json(path.read_bytes()).text
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, name: str, text: str) -> None:
        write_bytes(self._path(name), Stored(text=text).model_dump_json().encode())

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / f"{name}.json"
