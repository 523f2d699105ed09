"""Prompts as files: `prompts/<name>.yaml` with a version and the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Template

import yaml
from pydantic import BaseModel, ConfigDict, Field


class Prompt(BaseModel):
    """system and user: what is said; `$name` in `user` is filled in.

    version: raised with every change of meaning; digest: of the file, so that a change which
    forgot the version is noticed too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = Field(ge=1)
    system: str
    user: str
    digest: str

    @property
    def identity(self) -> str:
        """What a stage's key and the cache know the prompt by."""
        return f"{self.name}-{self.version}-{self.digest[:12]}"

    def filled(self, values: Mapping[str, str]) -> str:
        """The user's text; raises KeyError for a value that is not given."""
        return Template(self.user).substitute(values)


@cache
def read(name: str) -> Prompt:
    """A prompt of the package."""
    data = files(__package__).joinpath(f"prompts/{name}.yaml").read_bytes()
    values = yaml.safe_load(data)
    return Prompt(name=name, digest=hashlib.sha256(data).hexdigest(), **values)
