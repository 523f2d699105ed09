"""Memory and time of the ledger exporter on a large synthetic ledger.

Writes the ledger of 100,000 scenes at nine stages (1,563 shards of 64; every 50th scene fails
at one stage), starts `dynamicverse exporter` on it in a process of its own and measures:

- first: seconds until everything has been read once;
- scrape: seconds of GET /metrics, median and longest of some (target 2), the exporter reading
  beside it all the time;
- refresh: seconds to notice the growth of 500 ledger files, as many as pods may write at once;
- memory: the most resident bytes of the process (target 200 MB).

    python benchmarks/exporter.py
    python benchmarks/exporter.py --scenes 1000000      ten times the target
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from dynamicverse import config, stages
from dynamicverse.errors import Reason
from dynamicverse.runner import ledger
from dynamicverse.runner.plan import Plan, Run
from dynamicverse.runner.store import Store, dump_json

SHARD = 64
WRITERS = 500  # ledger files that grow at once
SCRAPES = 20
TARGET_BYTES, TARGET_SECONDS = 200e6, 2.0
START = 1_795_000_000  # s since the epoch


def make_run(root: Path, scenes: int) -> Run:
    """A planned run; the plan alone, since the exporter reads no shard."""
    made = Plan(
        run="large-0123456789", dataset="large", config=config.load().model_dump(mode="json"),
        stages=list(stages.NAMES), shards=-(-scenes // SHARD), sources=scenes, frames=90 * scenes,
        software="benchmark",
    )  # fmt: skip
    run = Run(Store(str(root)), made, config.load())
    run.store.write(f"{run.folder}/plan.json", dump_json(made.model_dump()))
    return run


def event(stage: str, number: int, outcome: str = "done", reason: str = "") -> str:
    """A line as the worker writes it."""
    value = {
        "bytes_in": 12_345_678, "bytes_out": 2_345_678, "device": "cuda", "frames": 90,
        "key": "0123456789abcdef" * 4, "load_seconds": 21.5 if number % SHARD == 0 else 0.0,
        "name": f"street-clip-{number:08d}", "outcome": outcome, "peak_memory": 1_234_567_890,
        "pool": "NVIDIA-H100-80GB-HBM3", "seconds": 0.4 + number % 97, "shard": number // SHARD,
        "source": f"street-clip-{number:08d}", "stage": stage, "tries": 1 + (number % 40 == 0),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime(START + number)),
        "worker": "street-x7k2p-tracks-0123456789:1",
    }  # fmt: skip
    if reason:
        value["reason"] = reason
    if stage == "ingest":
        value["scenes"] = [value["name"]]
    return json.dumps(value, sort_keys=True) + "\n"


def write_ledger(run: Run, scenes: int) -> int:
    """Every scene at every stage; returns the bytes."""
    reasons = [reason.value for reason in Reason]
    total = 0
    for position, stage in enumerate(run.plan.stages):
        for shard in range(run.plan.shards):
            lines = [
                event(stage, n, "quarantined", reasons[n // 50 % len(reasons)])
                if n % 50 == position
                else event(stage, n)
                for n in range(shard * SHARD, min((shard + 1) * SHARD, scenes))
            ]
            data = "".join(lines).encode()
            run.store.write(ledger.path(run.folder, stage, shard), data)
            total += len(data)
    return total


def get(url: str) -> tuple[float, str]:
    """Seconds, and the body."""
    start = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        body = answer.read().decode()
    return time.perf_counter() - start, body


def wait_ready(url: str, deadline: float = 600.0) -> None:
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            get(f"{url}/-/ready")
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(f"{url} is not ready after {deadline} s")


def value(body: str, name: str, *labels: str) -> float:
    """The sum of a metric's values whose labels contain all of the given ones."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in body.splitlines()
        if line.split("{")[0].split(" ")[0] == name and all(label in line for label in labels)
    )


def high_water(pid: int) -> int:
    """The most resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def grow(run: Run) -> None:
    """One more event in many files."""
    for shard in range(min(WRITERS, run.plan.shards)):
        path = ledger.path(run.folder, "report", shard)
        run.store.append(path, event("report", shard * SHARD).encode(), b"")


def measure(root: Path, scenes: int) -> dict[str, float]:
    run = make_run(root, scenes)
    written = write_ledger(run, scenes)
    command = [sys.executable, "-m", "dynamicverse", "exporter", "--root", str(root)]
    command += ["--port", "0", "--address", "127.0.0.1", "--interval", "0.5"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1].removesuffix("/metrics")
            wait_ready(url)
            first = time.perf_counter() - start
            _, body = get(f"{url}/metrics")
            found = value(body, "dynamicverse_scenes")
            assert found == scenes * len(run.plan.stages), f"{found} scenes"
            before = value(body, "dynamicverse_scenes_processed_total", 'stage="report"')
            grow(run)
            grown = time.perf_counter()
            scrapes = []
            while True:
                seconds, body = get(f"{url}/metrics")
                scrapes.append(seconds)
                now = value(body, "dynamicverse_scenes_processed_total", 'stage="report"')
                if now == before + min(WRITERS, run.plan.shards):
                    break
            refresh = time.perf_counter() - grown
            scrapes += [get(f"{url}/metrics")[0] for _ in range(SCRAPES)]
            return {
                "scenes": scenes,
                "ledger_megabytes": round(written / 1e6, 1),
                "series": sum(not line.startswith("#") for line in body.splitlines()),
                "first_seconds": round(first, 1),
                "refresh_seconds": round(refresh, 2),
                "scrape_seconds_median": round(sorted(scrapes)[len(scrapes) // 2], 4),
                "scrape_seconds_longest": round(max(scrapes), 4),
                "memory_megabytes": round(high_water(process.pid) / 1e6, 1),
            }
        finally:
            process.terminate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.scenes)
    print(json.dumps(found, indent=2))
    met = found["memory_megabytes"] * 1e6 <= TARGET_BYTES
    return 0 if met and found["scrape_seconds_longest"] <= TARGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
