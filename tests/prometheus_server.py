"""A real Prometheus for tests, and small servers for it to scrape."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from promtool import program

SAMPLE = re.compile(r"^(?P<series>\S+?_(?:total|sum|count|bucket)(?:\{.*\})?) (?P<value>\S+)$")


@contextmanager
def replayed(exposition: str) -> Iterator[int]:
    """Serve a recorded exposition whose counters grow with every scrape; yields the port."""
    scrapes = 0

    def grown(line: str) -> str:
        found = SAMPLE.match(line)
        return f"{found['series']} {float(found['value']) * scrapes}" if found else line

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal scrapes
            scrapes += 1
            body = "\n".join(map(grown, exposition.splitlines())) + "\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Prometheus:
    """A running server, asked through its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of every series of an instant query that is a number."""
        found = self.get("query", query=expr)["result"]
        pairs = [(one["metric"], float(one["value"][1])) for one in found]
        return [(labels, value) for labels, value in pairs if math.isfinite(value)]

    def drawn(self, expr: str, start: float) -> int:
        """How many finite values a panel would draw from a moment (s since the epoch) on."""
        now = time.time()
        step = max(1.0, (now - start) / 300)
        found = self.get(
            "query_range", query=expr, start=str(start), end=str(now), step=f"{step:.0f}"
        )
        values = [float(v) for one in found["result"] for _, v in one["values"]]
        return sum(map(math.isfinite, values))

    def firing(self) -> set[str]:
        """The names of alerts that fire."""
        alerts = self.get("alerts")["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def targets(self) -> dict[str, str]:
        """Job → health of its targets."""
        return {t["labels"]["job"]: t["health"] for t in self.get("targets")["activeTargets"]}


@contextmanager
def prometheus(
    folder: Path, rules: dict[str, Any], jobs: dict[str, tuple[str, dict[str, str]]]
) -> Iterator[Prometheus]:
    """A server that scrapes every second: job → (host and port, labels)."""
    static = [
        {"job_name": job, "static_configs": [{"targets": [target], "labels": labels}]}
        for job, (target, labels) in jobs.items()
    ]
    with configured(folder, rules, static) as found:
        yield found


@contextmanager
def configured(
    folder: Path, rules: dict[str, Any], scrape_configs: list[dict[str, Any]]
) -> Iterator[Prometheus]:
    """A server that scrapes and thinks every second, where a job does not say otherwise."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": scrape_configs,
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}",
        "--log.level=warn",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            _wait_ready(f"http://{address}")
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_ready(url: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/-/ready"):
                return
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
