"""One question, one answer, over HTTP: where the service is, and reading what it streams.

Answers are always streamed: QVQ knows no other way, a long answer keeps the connection
alive, and one that does not end is cut off here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicverse.config import VlmConfig
from dynamicverse.errors import AnswerError, DynamicVerseError, MissingModelError, ServiceError

if TYPE_CHECKING:
    import httpx2
    import openai

DASHSCOPE = "https://dashscope.aliyuncs.com/compatible-mode/v1"
CONNECT_S = 20.0
MAX_TEXT = 1 << 18  # characters of an answer
BYTES_BASE, BYTES_A_TOKEN = 1 << 20, 1 << 10  # of a streamed answer with its wrapping
AGAIN = frozenset({408, 409, 429})  # and 5xx
MAX_MESSAGE = 300


class BrokenError(ServiceError):
    """The service failed in a way that may pass; wait_s: how long it asks us to wait."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Received:
    """complete: False where the answer reached its limit of tokens."""

    text: str
    complete: bool
    prompt_tokens: int
    completion_tokens: int


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Delta(_Loose):
    content: str | None = None  # the thoughts of QVQ come in another field


class _Choice(_Loose):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Tokens(_Loose):
    prompt_tokens: int = Field(0, ge=0, lt=2**53)
    completion_tokens: int = Field(0, ge=0, lt=2**53)


class _Chunk(_Loose):
    choices: list[_Choice] = []
    usage: _Tokens | None = None


class Service:
    """An OpenAI-compatible API; safe to use from many threads.

    Raises MissingModelError when the package, the address, the key or the model is missing.
    """

    def __init__(self, settings: VlmConfig) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingModelError(
                "the VLM client is not installed: pip install 'dynamicverse[vlm]'"
            ) from error
        url, key = _address(settings)
        self._openai, self._settings, self.url = openai, settings, url
        self._most_bytes = BYTES_BASE + BYTES_A_TOKEN * settings.max_tokens
        self._client = openai.OpenAI(
            base_url=url,
            api_key=key,
            max_retries=0,  # `VlmClient` tries again, also where a stream breaks off
            timeout=openai.Timeout(settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s)),
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [self._bound]}),
        )
        if not settings.model:
            raise MissingModelError(f"no VLM is named: give --vlm-model{self._served()}")

    def stream(self, messages: list[Any], extra: dict[str, Any]) -> Received:
        """Ask once. Raises BrokenError where another try may help, AnswerError where the
        question is refused, MissingModelError where no question will be answered."""
        openai = self._openai
        try:
            chunks = self._client.chat.completions.create(
                model=self._settings.model,
                messages=messages,
                max_tokens=self._settings.max_tokens,
                temperature=0,
                seed=0,
                stream=True,
                stream_options={"include_usage": True},
                **extra,
            )
            with chunks:
                return _read(chunks)
        except openai.APIStatusError as error:
            raise self._failure(error) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if isinstance(cause, DynamicVerseError):  # from `_bound`
                raise cause from error
            raise BrokenError(f"{self.url}: {_line(error)} ({_line(cause)})") from error
        except openai.APIError as error:
            raise BrokenError(f"{self.url}: {_line(error)}") from error
        except ValueError as error:  # a chunk that is not JSON, or not text
            raise BrokenError(
                f"{self.url}: an answer that cannot be read: {_line(error)}"
            ) from error

    def _failure(self, error: openai.APIStatusError) -> DynamicVerseError:
        status, said = error.status_code, f"{self.url}: {_line(error)}"
        if status in (401, 403):
            return MissingModelError(f"{said}; is the API key right?")
        if status == 404:
            return MissingModelError(f"{said}; asked for '{self._settings.model}'{self._served()}")
        if status in AGAIN or status >= 500:
            return BrokenError(said, _retry_after(error.response.headers.get("retry-after")))
        return AnswerError(f"the VLM refused the question: {said}")

    def _served(self) -> str:
        """The models that the service lists, for a message."""
        try:
            listed = [str(model.id) for model in self._client.models.list().data[:10]]
        except (self._openai.OpenAIError, DynamicVerseError, ValueError, TypeError, AttributeError):
            return ""
        return f" ({self.url} serves: {', '.join(listed)})"[:MAX_MESSAGE] if listed else ""

    def _bound(self, response: httpx2.Response) -> None:
        """Hold every answer to a size and an end (a hook of the HTTP client)."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise BrokenError(f"{self.url}: a compressed answer was not asked for")
        response.stream = _bounded(response.stream, self._most_bytes, self._settings.timeout_s)


def _bounded(inner: Any, most: int, seconds: float) -> httpx2.SyncByteStream:
    """A response's bytes, at most so many in so many seconds."""
    from httpx2 import SyncByteStream

    class Bounded(SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return _limited(inner, most, seconds)

        def close(self) -> None:
            inner.close()

    return Bounded()


def _limited(inner: Iterable[bytes], most: int, seconds: float) -> Iterator[bytes]:
    end = time.monotonic() + seconds
    total = 0
    for data in inner:
        total += len(data)
        if total > most:
            raise AnswerError(f"the VLM's answer has more than {most} bytes")
        if time.monotonic() > end:
            raise BrokenError(f"the VLM's answer took longer than {seconds:.0f} s")
        yield data


def _address(settings: VlmConfig) -> tuple[str, str]:
    if settings.url is not None:
        return settings.url.rstrip("/"), os.environ.get("VLM_API_KEY") or "none"
    key = os.environ.get("DASHSCOPE_API_KEY")
    if not key:
        raise MissingModelError(
            "no VLM service: give --vlm-url (an OpenAI-compatible API), or set DASHSCOPE_API_KEY"
        )
    return DASHSCOPE, key


def _read(chunks: Any) -> Received:
    text: list[str] = []
    size = 0
    finish: str | None = None
    tokens = _Tokens()
    for raw in chunks:
        if not isinstance(raw, BaseModel):
            raise ValueError(f"a chunk that is a {type(raw).__name__}")
        try:
            chunk = _Chunk.model_validate(raw.model_dump(warnings=False))
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from error
        tokens = chunk.usage or tokens
        for choice in chunk.choices[:1]:
            part = choice.delta.content or ""
            text.append(part)
            size += len(part)
            finish = choice.finish_reason or finish
        if size > MAX_TEXT:
            raise AnswerError(f"the VLM's answer has more than {MAX_TEXT} characters")
    if finish is None:
        raise BrokenError("the VLM's answer broke off")
    if finish == "content_filter":
        raise AnswerError("the VLM's filter refused the question")
    return Received(
        "".join(text), finish != "length", tokens.prompt_tokens, tokens.completion_tokens
    )


def _retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header; a date is not understood and counts as absent."""
    try:
        seconds = float(header) if header else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _line(error: BaseException | None) -> str:
    text = " ".join(str(error).split()) if error is not None else ""
    return (text or type(error).__name__)[:MAX_MESSAGE]
