"""A small web server: /metrics for Prometheus, /-/healthy and /-/ready for the kubelet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dynamicverse.errors import ConfigError


def always() -> bool:
    """Ready from the first moment."""
    return True


@contextmanager
def serve(
    registry: CollectorRegistry, address: str, port: int, ready: Callable[[], bool] = always
) -> Iterator[int]:
    """Answer requests in the background; yields the port (a free one for port 0).

    Raises ConfigError when the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(registry), content_type)
            elif path == "/-/healthy":
                self._answer(200, b"healthy\n")
            elif path == "/-/ready":
                self._answer(200 if ready() else 503, b"ready\n" if ready() else b"reading\n")
            else:
                self._answer(404, b"see /metrics\n")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return  # a line a scrape says nothing

    try:
        server = ThreadingHTTPServer((address, port), Handler)
    except OSError as error:
        raise ConfigError(f"{address}:{port}: {error.strerror}; choose another --port") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
