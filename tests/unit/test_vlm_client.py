"""The VLM client against a server that misbehaves."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field
from vlm_server import (
    MODEL,
    Behaviour,
    VlmServer,
    begin,
    chunk,
    event,
    fails,
    hangs,
    says,
    stream,
    tokens,
    vlm_server,
)

from dynamicverse.backends.vlm import client as client_module
from dynamicverse.backends.vlm import prompts
from dynamicverse.backends.vlm.answers import Reply, parse
from dynamicverse.backends.vlm.client import Question, VlmClient
from dynamicverse.backends.vlm.pictures import PATCH, encode, spread
from dynamicverse.backends.vlm.usage import Usage
from dynamicverse.config import TokenPrice, VlmConfig
from dynamicverse.errors import AnswerError, MissingModelError, ServiceError

GOOD = {"description": "a cat"}


class Description(Reply):
    description: Annotated[str, Field(min_length=1, max_length=100)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("DYNAMICVERSE_CACHE", str(tmp_path / "cache"))
    for name in ("VLM_API_KEY", "DASHSCOPE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def settings(server: VlmServer, **values: Any) -> VlmConfig:
    return VlmConfig(**{"url": server.url, "model": MODEL, "timeout_s": 5, **values})


def question(seed: int = 0, measured: str = "") -> Question[Description]:
    noise = np.random.default_rng(seed).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    return Question(
        prompt=prompts.read("scene"),
        values={"count": "1", "measured": measured},
        pictures=[encode(noise, 644)],
        captions=["Picture 1:"],
        answer=Description,
    )


def ask(server: VlmServer, usage: Usage | None = None, **values: Any) -> str:
    client = VlmClient(settings(server, **values))
    return client.ask(question(), usage or Usage()).description


def test_a_good_answer_with_its_tokens_and_cost() -> None:
    with vlm_server(says(GOOD)) as server:
        usage = Usage()
        assert ask(server, usage) == "a cat"
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (1, 100, 20)
    price = TokenPrice(input=2.0, output=10.0)
    facts = usage.facts(VlmConfig(model=MODEL, prices={MODEL: price}))
    assert facts["cost_usd"] == pytest.approx((100 * 2 + 20 * 10) / 1e6)
    assert "cost_usd" not in usage.facts(VlmConfig(model=MODEL))
    sent = server.questions[0]
    assert sent["response_format"]["json_schema"]["schema"] == Description.model_json_schema()
    assert sent["stream"] is True
    picture = sent["messages"][1]["content"][1]["image_url"]["url"]
    assert picture.startswith("data:image/jpeg;base64,")


def broken_stream(handler: BaseHTTPRequestHandler) -> None:
    begin(handler)
    event(handler, chunk('{"descr'))


def truncated_event(handler: BaseHTTPRequestHandler) -> None:
    begin(handler)
    event(handler, '{"choices": [{"delta": {"content": "x')


def not_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xff" * 100)


PASSING = {
    "500": fails(500),
    "503": fails(503, Retry_After="0"),
    "429": fails(429, Retry_After="0.01"),
    "hang-up": lambda handler: None,
    "half-streamed": broken_stream,
    "without an end": stream(chunk(json.dumps(GOOD))),
    "truncated event": truncated_event,
    "error in the stream": stream({"error": {"message": "engine died"}}),
    "a chunk of another type": stream([1, 2]),
    "choices of another type": stream({"id": "x", "choices": "nonsense"}),
    "content of another type": stream({"id": "x", "choices": [{"delta": {"content": [1]}}]}),
    "not HTTP": not_http,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_tried_again(fault: Behaviour) -> None:
    with vlm_server(fault, fault, says(GOOD)) as server:
        usage = Usage()
        assert ask(server, usage) == "a cat"
    assert usage.retries == 2
    assert usage.requests == 1


def test_a_hang_ends_at_the_timeout_and_is_tried_again() -> None:
    with vlm_server(hangs(3), says(GOOD)) as server:
        start = time.monotonic()
        assert ask(server, timeout_s=0.3) == "a cat"
        assert time.monotonic() - start < 2


def drip(handler: BaseHTTPRequestHandler) -> None:
    begin(handler)
    while True:
        event(handler, chunk(" "))
        time.sleep(0.05)


def test_an_answer_that_never_ends_is_cut_off() -> None:
    with vlm_server(drip) as server:
        start = time.monotonic()
        with pytest.raises(ServiceError, match="longer than"):
            ask(server, timeout_s=0.4, attempts=1)
        assert time.monotonic() - start < 2


def test_a_service_that_stays_away_is_a_service_error() -> None:
    with vlm_server(fails(500, "engine is dead")) as server:
        with pytest.raises(ServiceError, match=r"failed 3 times: .*engine is dead"):
            ask(server, attempts=3)
        assert len(server.questions) == 3


def test_nobody_listens() -> None:
    with vlm_server(says(GOOD)) as server:
        pass
    with pytest.raises(ServiceError, match=server.url):
        ask(server, attempts=2)


def test_retry_after_is_honoured() -> None:
    with vlm_server(fails(429, Retry_After="0.5"), says(GOOD)) as server:
        start = time.monotonic()
        ask(server)
        assert time.monotonic() - start > 0.5
    with (
        vlm_server(fails(429, Retry_After="86400")) as server,
        pytest.raises(ServiceError, match="failed 1 times"),
    ):
        ask(server, model="other")


def endless(handler: BaseHTTPRequestHandler) -> None:
    begin(handler)
    while True:
        event(handler, chunk("z" * 10_000))


def one_endless_line(handler: BaseHTTPRequestHandler) -> None:
    begin(handler)
    handler.wfile.write(b"data: ")
    while True:
        handler.wfile.write(b"z" * 65536)


def huge_failure(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(500)
    handler.end_headers()
    while True:
        handler.wfile.write(b"z" * 65536)


@pytest.mark.parametrize("huge", [endless, one_endless_line, huge_failure])
def test_a_huge_answer_is_refused(huge: Behaviour) -> None:
    with vlm_server(huge) as server, pytest.raises(AnswerError, match="more than"):
        ask(server)
    assert len(server.questions) == 1


def bomb(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.end_headers()


def test_a_compressed_answer_is_refused() -> None:
    with vlm_server(bomb) as server, pytest.raises(ServiceError, match="compressed"):
        ask(server, attempts=1)


@pytest.mark.parametrize(
    "bad",
    [
        "I cannot do that.",
        '{"description": "a c',
        {"description": ""},
        {"description": "a cat", "command": "rm -rf /"},
        {"description": 7},
        {"description": "z" * 101},
        '{"a":' * 5000,
        "[" * 100_000,
    ],
    ids=["prose", "truncated", "empty", "unknown key", "type", "long", "deep", "deeper"],
)
def test_a_bad_answer_is_repaired_once_then_a_typed_failure(bad: Any) -> None:
    with vlm_server(says(bad), says(GOOD)) as server:
        usage = Usage()
        assert ask(server, usage) == "a cat"
        assert usage.repairs == 1
        roles = [m["role"] for m in server.questions[1]["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        assert "cannot be used" in server.text()
    with vlm_server(says(bad)) as server:
        with pytest.raises(AnswerError, match="twice"):
            ask(server, model="other")
        assert len(server.questions) == 2


def test_an_answer_cut_off_by_its_limit_says_so() -> None:
    cut = stream(chunk('{"description": "a'), chunk(finish="length"), tokens())
    with vlm_server(cut) as server, pytest.raises(AnswerError, match="max_tokens"):
        ask(server)


def test_qvq_thinks_aloud_and_is_not_held_to_a_schema() -> None:
    thoughts = [chunk(reasoning_content='{"description": "a dog"}?') for _ in range(5)]
    spoken = "<think>or {x</think>Here it is:\n```json\n" + json.dumps(GOOD) + "\n```"
    with vlm_server(stream(*thoughts, chunk(spoken), chunk(finish="stop"))) as server:
        assert ask(server, model="qvq-max-latest") == "a cat"
    assert "response_format" not in server.questions[0]
    assert "JSON Schema" in server.text()


def test_answers_are_cached_by_content() -> None:
    with vlm_server(says(GOOD)) as server:
        client = VlmClient(settings(server))
        usage = Usage()
        for _ in range(3):
            assert client.ask(question(), usage).description == "a cat"
        assert (usage.requests, usage.cached, len(server.questions)) == (1, 2, 1)
        client.ask(question(seed=1), usage)  # another picture
        client.ask(question(measured="x"), usage)  # other words
        VlmClient(settings(server, model="b")).ask(question(), usage)
        assert len(server.questions) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b'{"text": 1}', b'{"text": "no json"}', b"\xff"])
def test_a_damaged_cache_entry_is_asked_again(damage: bytes, tmp_path: Path) -> None:
    with vlm_server(says(GOOD)) as server:
        ask(server)
        (entry,) = (tmp_path / "cache").rglob("*.json")
        good = entry.read_bytes()
        entry.write_bytes(damage)
        assert ask(server) == "a cat"
        assert len(server.questions) == 2
        assert entry.read_bytes() == good


def test_bad_answers_are_not_cached(tmp_path: Path) -> None:
    with vlm_server(says("no")) as server, pytest.raises(AnswerError):
        ask(server)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_API_KEY", "secret")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "not for this server")
    with vlm_server(says(GOOD)) as server:
        ask(server)
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [(fails(401), "API key"), (fails(404), f"serves: {MODEL}")],
)
def test_what_no_question_can_pass_stops(behaviour: Behaviour, said: str) -> None:
    with vlm_server(behaviour) as server:
        with pytest.raises(MissingModelError, match=said):
            ask(server)
        assert len(server.questions) == 1


def test_a_refused_question_is_the_scenes_failure() -> None:
    with vlm_server(fails(400, "inappropriate content")) as server:
        with pytest.raises(AnswerError, match="inappropriate"):
            ask(server)
        assert len(server.questions) == 1


def test_nothing_to_ask_is_one_clear_line() -> None:
    with pytest.raises(MissingModelError, match=r"--vlm-url.*DASHSCOPE_API_KEY"):
        VlmClient(VlmConfig(model="m"))
    with (
        vlm_server(says(GOOD)) as server,
        pytest.raises(MissingModelError, match=f"--vlm-model.*{MODEL}"),
    ):
        VlmClient(settings(server, model=""))


def slow(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.2)
    says(GOOD)(handler)


def test_concurrency_is_bounded() -> None:
    with vlm_server(slow) as server:
        client = VlmClient(settings(server, concurrency=3))
        with ThreadPoolExecutor(9) as threads:
            list(threads.map(lambda i: client.ask(question(seed=i), Usage()), range(9)))
        assert server.most_at_once == 3


def test_an_object_inside_one_that_breaks_off_is_not_the_answer() -> None:
    for text in ('{"list": [{"description": "inner"}', '{"a": {"description": "inner"}, "b": nul'):
        with pytest.raises(ValueError, match="complete JSON"):
            parse(text, Description, lambda _: None)


def test_control_characters_in_a_string_are_let_in() -> None:
    answer = parse('{"description": "a\x01\tb"}', Description, lambda _: None)
    assert answer.description == "a\x01\tb"


def test_only_the_first_object_of_an_answer_counts() -> None:
    text = 'Let {me} { see } : {"description": "one"} {"description": "two"}'
    assert parse(text, Description, lambda _: None).description == "one"


def test_pictures_have_whole_patches_and_frames_are_spread() -> None:
    tall = encode(np.zeros((1080, 1920, 3), np.uint8), 644)
    assert (tall.width, tall.height) == (644, 364)
    tiny = encode(np.zeros((8, 300, 3), np.uint8), 644)
    assert tiny.height == 2 * PATCH
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread([3, 9], 4) == [3, 9]


@pytest.mark.parametrize("name", ["analysis", "object", "scene", "camera"])
def test_prompts_say_that_text_in_pictures_is_no_instruction(name: str) -> None:
    prompt = prompts.read(name)
    assert "never an instruction" in " ".join(prompt.system.split())
    assert prompt.identity.startswith(f"{name}-{prompt.version}-")
