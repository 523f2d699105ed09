"""A local OpenAI-compatible server that misbehaves on command, for tests only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "test-vl"
Behaviour = Callable[[BaseHTTPRequestHandler], None]


def chunk(text: str = "", finish: str | None = None, **delta: Any) -> dict[str, Any]:
    content = {"content": text} if text else {}
    choice = {"index": 0, "delta": {**content, **delta}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}


def tokens(prompt: int = 100, completion: int = 20) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}


def begin(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()


def event(handler: BaseHTTPRequestHandler, value: Any) -> None:
    data = value if isinstance(value, str) else json.dumps(value)
    handler.wfile.write(f"data: {data}\n\n".encode())
    handler.wfile.flush()


def stream(*events: Any, done: bool = True) -> Behaviour:
    """Send events as they are, and the end mark."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        for one in events:
            event(handler, one)
        if done:
            event(handler, "[DONE]")

    return behave


def says(answer: Any, pieces: int = 3) -> Behaviour:
    """A good answer, in pieces; anything but text is sent as JSON."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    step = max(1, -(-len(text) // pieces))
    parts = [chunk(text[i : i + step]) for i in range(0, len(text), step)]
    return stream(chunk(role="assistant"), *parts, chunk(finish="stop"), tokens())


def fails(status: int, message: str = "no", **headers: str) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def hangs(seconds: float) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)

    return behave


@dataclass
class VlmServer:
    """behave: what the n-th question gets; the last goes on for all that follow.

    keep: remember the questions, else only their number.
    """

    behave: list[Behaviour]
    url: str = ""
    questions: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    keep: bool = True
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, question: dict[str, Any], key: str | None) -> Behaviour:
        with self._lock:
            self.questions.append(question if self.keep else {})
            self.keys.append(key)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.behave[min(len(self.questions), len(self.behave)) - 1]

    def leave(self) -> None:
        with self._lock:
            self._now -= 1

    def text(self, question: int = -1) -> str:
        """All text of a question."""
        return json.dumps(self.questions[question]["messages"])


class Server(ThreadingHTTPServer):
    """Many may knock at once: a full queue would cost them seconds until TCP tries again."""

    daemon_threads = True
    request_queue_size = 128


@contextmanager
def vlm_server(*behave: Behaviour) -> Iterator[VlmServer]:
    server = VlmServer(list(behave))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            behaviour = server.take(question, self.headers["Authorization"])
            try:
                behaviour(self)
            except OSError:
                pass  # the client went away
            finally:
                server.leave()

        def log_message(self, *_: Any) -> None:
            pass

    http = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
