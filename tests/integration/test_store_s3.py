"""What the runner relies on, asked of a real S3 server: fresh reads, fingerprints, records."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3_server import S3

from dynamicverse import config
from dynamicverse.curation import sources
from dynamicverse.curation.sources import Source
from dynamicverse.runner import plan, settled
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.settled import MERGE_EVERY, Settled
from dynamicverse.runner.store import Store

pytestmark = pytest.mark.s3
BUCKET = "store"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"), "127.0.0.1")
    server.start()
    server.fs().mkdir(BUCKET)
    yield server
    server.stop()


@pytest.fixture
def url(s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{request.node.name}"


def test_a_listing_never_answers_for_a_read(s3: S3, url: str) -> None:
    """A status lists ledgers and reads one that its pod has replaced in the meantime."""
    store, pod = Store(url), s3.fs()
    store.write("ledger/0.jsonl", b"one\n")
    assert store.sizes("ledger") == {"ledger/0.jsonl": 4}
    before = store.versions("ledger")
    pod.pipe_file(f"{store.base}/ledger/0.jsonl", b"one\ntwo\n")
    assert store.read("ledger/0.jsonl") == b"one\ntwo\n"
    assert store.versions("ledger") != before


def test_times_are_those_that_the_plain_client_reads(s3: S3, url: str) -> None:
    store, plain = Store(url), s3.fs()
    store.write("a", b"x")
    path = f"{store.base}/a"
    for ask in (lambda fs: fs.find(store.base, detail=True)[path], lambda fs: fs.info(path)):
        found = ask(store.fs)["LastModified"]
        assert found == ask(plain)["LastModified"]
        assert found.tzinfo is not None
    assert Store(url).fs is store.fs  # one client, one pool of connections


def test_an_empty_object_and_none(url: str) -> None:
    store = Store(url)
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.read("none") is None


def test_fingerprints_from_a_listing_are_those_of_each(url: str) -> None:
    store = Store(url)
    names = [f"{index:03d}.mp4" for index in range(sources.WORTH_LISTING)]
    for index, name in enumerate(names):
        store.write(f"clips/{name}", b"x" * index)
    store.write("clips/Y/rgb/1.png", b"one")
    found = [Source(f"{url}/clips/{name}", name, "video") for name in names]
    found.append(Source(f"{url}/clips/Y/rgb", "Y", "frames"))
    expected = {source.url: sources.fingerprint(source) for source in found}
    gone = Source(f"{url}/clips/gone.mp4", "gone", "video")
    assert sources.fingerprints([*found, gone]) == expected


def test_records_of_many_pods_at_once(url: str) -> None:
    shards = 3 * MERGE_EVERY
    members = [(Source(f"/v/{i}.mp4", f"s{i}", "video"), 9) for i in range(shards)]
    run = plan.create(
        Store(url), "clips", config.load(), members, stage_names=["report"], shard_scenes=1
    )

    def end(shard: int) -> None:
        pod = plan.open_named(Store(url), run.plan.run)
        with Ledger(pod.store, pod.folder, "report", shard) as ledger:
            ledger.add(name=f"s{shard}", outcome=Outcome.DONE, seconds=float(shard), frames=1)
        settled.record(pod, "report", shard)

    with ThreadPoolExecutor(8) as pods:
        list(pods.map(end, reversed(range(shards))))
        list(pods.map(end, range(0, shards, 7)))  # tried again
    found = settled.of_stage(run, "report")
    assert sorted(found) == list(range(shards))
    for shard, one in found.items():
        stored = run.store.read(settled.path(run, "report", shard))
        assert one == Settled.model_validate_json(stored or b"")
        assert one.tally.durations == [float(shard)] * (1 + (shard % 7 == 0))
