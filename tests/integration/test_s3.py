"""The tree of a scene on a real S3 server equals the one on the local disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from program import ClipMaker, digests, dynamicverse, within
from s3_server import S3, throttled

from dynamicverse.formats.manifest import Manifest
from dynamicverse.runner.store import Store
from dynamicverse.scene import ARTIFACTS

pytestmark = pytest.mark.s3
BUCKET = "scenes"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"), "127.0.0.1")
    server.start()
    server.fs().mkdir(BUCKET)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _credentials(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


def test_local_and_s3_trees_are_equal(tmp_path: Path, clip: ClipMaker) -> None:
    source = str(clip("small", frames=6, size=(160, 96)))
    url = f"s3://{BUCKET}/data"
    local = within("run", source, "--out", str(tmp_path), "--workers", "0")
    assert local.code == 0, local.err
    remote = dynamicverse("run", source, "--out", url, "--json")
    assert remote.code == 0, remote.err

    store = Store(url)
    stored = {}
    for relative in store.sizes("clips/small/.dynamicverse"):
        manifest = Manifest.model_validate_json(store.read(relative) or b"")
        for artifact, files in manifest.outputs.items():
            if ARTIFACTS[artifact].reproducible:
                stored.update({f.path: f.sha256 for f in files})
    assert stored == digests(tmp_path)
    assert len(stored) >= 60

    again = dynamicverse("run", source, "--out", url, "--json")
    assert set(again.json()["counts"]) == {"cached"}
    checked = within("validate", url)
    assert checked.code == 0, checked.out
    (run,) = within("status", url, "--json").json()
    assert run["complete"]


def test_sources_are_read_from_s3(tmp_path: Path, clip: ClipMaker) -> None:
    small = clip("small", frames=6, size=(160, 96))
    frames = small / "rgb"
    store = Store(f"s3://{BUCKET}/inputs")
    for path in frames.iterdir():
        store.push(path, f"small/rgb/{path.name}")
    remote = dynamicverse(
        "run", f"s3://{BUCKET}/inputs/small", "--out", str(tmp_path / "a"), "--stages",
        "ingest,keyframes", "--json",
    )  # fmt: skip
    assert remote.code == 0, remote.err
    local = within(
        "run", str(small), "--out", str(tmp_path / "b"), "--stages", "ingest,keyframes",
        "--workers", "0",
    )  # fmt: skip
    assert local.code == 0, local.err
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_throttling_store_is_asked_again(
    tmp_path: Path, clip: ClipMaker, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(clip("throttled", frames=16, size=(160, 96)))
    stages = ("--stages", "ingest,keyframes")
    with throttled(s3, every=12) as (endpoint, refused):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        done = dynamicverse("run", source, "--out", f"s3://{BUCKET}/slow", *stages, "--json")
        assert done.code == 0, done.err
    assert len(refused) > 5
    assert any(request.startswith("PUT") for request in refused)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    checked = within("validate", f"s3://{BUCKET}/slow")
    assert checked.code == 0, checked.out
