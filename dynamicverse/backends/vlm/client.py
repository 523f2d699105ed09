"""Questions to a vision-language model: cached, bounded, tried again, checked, repaired once."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from dynamicverse.backends.vlm import answers, cache
from dynamicverse.backends.vlm.cache import AnswerCache
from dynamicverse.backends.vlm.pictures import Picture
from dynamicverse.backends.vlm.prompts import Prompt
from dynamicverse.backends.vlm.service import BrokenError, Received, Service
from dynamicverse.backends.vlm.usage import Usage
from dynamicverse.config import VlmConfig
from dynamicverse.errors import AnswerError, ServiceError

FORMAT = 1  # of the cache's identities
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LONGEST_ASKED_S = 300.0  # of a Retry-After; a longer one ends the tries
MAX_BEGINNING = 100  # characters of a bad answer in the message
MAX_QUOTED = 4000  # characters of a bad answer that its repair shows
M = TypeVar("M", bound=BaseModel)


def _anything(_: Any) -> None:
    """No check beyond the schema."""


@dataclass(frozen=True)
class Question(Generic[M]):
    """answer: the model of the answer; schema: its JSON Schema, if narrower than the model's.

    captions: a line before each picture. check: raises ValueError where an answer that fits
    the schema does not fit the question.
    """

    prompt: Prompt
    values: Mapping[str, str]
    pictures: Sequence[Picture]
    answer: type[M]
    captions: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    check: Callable[[M], None] = field(default=_anything)


class VlmClient:
    """Asks a service. One client serves many threads; `concurrency` requests run at once."""

    def __init__(self, settings: VlmConfig) -> None:
        self.settings = settings
        self._service = Service(settings)
        self._cache = AnswerCache(cache.folder())
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        asks_only = settings.structured == "auto" and settings.model.lower().startswith("qvq")
        self._by_schema = settings.structured != "prompt" and not asks_only

    def ask(self, question: Question[M], usage: Usage) -> M:
        """The checked answer. `usage` is counted up.

        Raises AnswerError where the model refuses or fails the schema twice, ServiceError
        where the service stays away, MissingModelError where it cannot be used at all.
        """
        schema = question.schema or question.answer.model_json_schema()
        text = self._text(question, schema)
        name = cache.key(self._identity(question, schema, text))
        known = self._cache.get(name)
        if known is not None:
            try:
                answer = answers.parse(known, question.answer, question.check)
            except ValueError:
                pass  # written by another version of the package
            else:
                usage.cached += 1
                return answer
        received, answer = self._converse(question, schema, text, usage)
        self._cache.put(name, received.text)
        return answer

    def _converse(
        self, question: Question[M], schema: Mapping[str, Any], text: str, usage: Usage
    ) -> tuple[Received, M]:
        messages = _messages(question, text)
        extra = _format(question, schema) if self._by_schema else {}
        received = self._persist(messages, extra, usage)
        try:
            return received, _parsed(received, question)
        except ValueError as error:
            usage.repairs += 1
            messages += _repair(received, error)
        received = self._persist(messages, extra, usage)
        try:
            return received, _parsed(received, question)
        except ValueError as error:
            asked = f"{self.settings.model} failed the schema of '{question.prompt.name}' twice"
            began = received.text[:MAX_BEGINNING]
            raise AnswerError(f"{asked}: {error} (it begins {began!r})") from error

    def _persist(self, messages: list[Any], extra: dict[str, Any], usage: Usage) -> Received:
        """One answer, in several tries with growing, random waits where the service fails."""
        for attempt in range(1, self.settings.attempts + 1):
            try:
                with self._slots:
                    received = self._service.stream(messages, extra)
            except BrokenError as error:
                asked = error.wait_s or 0.0
                out_of_tries = attempt == self.settings.attempts or asked > LONGEST_ASKED_S
                if out_of_tries:
                    raise ServiceError(
                        f"the VLM service failed {attempt} times: {error}"
                    ) from error
                usage.retries += 1
                growing = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
                time.sleep(asked + growing * random.uniform(0.5, 1))  # noqa: S311
                continue
            usage.requests += 1
            usage.prompt_tokens += received.prompt_tokens
            usage.completion_tokens += received.completion_tokens
            return received
        raise AssertionError("unreachable")

    def _text(self, question: Question[M], schema: Mapping[str, Any]) -> str:
        text = question.prompt.filled(question.values)
        if self._by_schema:
            return text
        told = json.dumps(schema, sort_keys=True)
        return f"{text}\nAnswer with one JSON object that fits this JSON Schema:\n{told}"

    def _identity(self, question: Question[M], schema: Mapping[str, Any], text: str) -> list[Any]:
        """Everything that decides the answer."""
        settings, prompt = self.settings, question.prompt
        asked = [prompt.identity, prompt.system, text, schema, list(question.captions)]
        how = [settings.model, settings.max_tokens, self._by_schema]
        return [FORMAT, *how, *asked, [picture.digest for picture in question.pictures]]


def _messages(question: Question[Any], text: str) -> list[Any]:
    parts: list[Any] = []
    for i, picture in enumerate(question.pictures):
        if question.captions:
            parts.append({"type": "text", "text": question.captions[i]})
        data = base64.b64encode(picture.jpeg).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    parts.append({"type": "text", "text": text})
    system = {"role": "system", "content": question.prompt.system}
    return [system, {"role": "user", "content": parts}]


def _format(question: Question[Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": question.prompt.name, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _parsed(received: Received, question: Question[M]) -> M:
    try:
        return answers.parse(received.text, question.answer, question.check)
    except ValueError as error:
        if received.complete:
            raise
        raise ValueError(f"the answer was cut off at vlm.max_tokens; {error}") from error


def _repair(received: Received, error: ValueError) -> list[Any]:
    """What is said after a bad answer."""
    said = (
        f"That answer cannot be used: {error}. Answer again, with one complete JSON object of "
        "the form that was asked for and nothing else, shorter if need be."
    )
    return [
        {"role": "assistant", "content": received.text[:MAX_QUOTED]},
        {"role": "user", "content": said},
    ]
