"""End-to-end tests on the cluster that KUBECONFIG names. See docs/cluster.md."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import build_images as images
import pytest
from clips import make_clips, real_data
from disturbed import STAGES, Disturbed
from harness import Kube, install, run, wait_for
from program import digests, dynamicverse
from s3_server import S3

POOLS = {"cpu": "100", "any": "2", "pool-a": "1", "pool-b": "2"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dynamicverse cluster")
    group.addoption(
        "--image-prefix", default=images.PREFIX, help="name of the images before /TARGET"
    )
    group.addoption("--image-tag", default="e2e")
    group.addoption("--image-push", action="store_true", help="push the images to --image-prefix")
    group.addoption("--kind-load", metavar="CLUSTER", help="`kind load` the images into CLUSTER")
    group.addoption(
        "--image-load-command",
        metavar="COMMAND",
        help="a command that takes an archive of the images; {archive} is its path",
    )
    group.addoption("--image-archive", type=Path, help="an archive that is there already")
    group.addoption(
        "--s3-host",
        default=os.environ.get("NODE_IP"),
        help="an address of this machine that pods reach; the S3 server listens there",
    )
    group.addoption(
        "--node-folder",
        metavar="FOLDER",
        type=Path,
        help="a folder that this machine and the (one) node share, for the shared-volume test",
    )
    group.addoption(
        "--vllm-image",
        metavar="NAME:TAG",
        help="the image of images/vllm-cpu, in the cluster already, for the charts' tests",
    )
    group.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")
    group.addoption("--restart-controller-command", metavar="COMMAND")
    group.addoption("--stop-kubelet-command", metavar="COMMAND")
    group.addoption("--start-kubelet-command", metavar="COMMAND")


MEASURED: list[str] = []


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Takes a figure, which is shown at the end of the run."""
    return MEASURED.append


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Figures of all workers of xdist, whose output is not shown."""
    for report in terminalreporter.stats.get("passed", []):
        for name, text in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"measured: {text}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call":
        report.user_properties += [("measured", text) for text in MEASURED]
        MEASURED.clear()
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and --no-skips was given: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def kube(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kube]:
    """A namespace with Pod Security `restricted` and argo/ installed."""
    for program in ("kubectl", "argo"):
        if shutil.which(program) is None:
            pytest.skip(f"no `{program}` on the PATH")
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set: it names the cluster to test on")
    tag = request.config.getoption("--image-tag")
    prefix = request.config.getoption("--image-prefix")
    found = new_namespace("dynamicverse-e2e")
    install(found, tmp_path_factory.mktemp("overlay"), prefix, tag, POOLS)
    yield found
    if request.session.testsfailed == 0:
        run("kubectl", "delete", "namespace", found.namespace, "--wait=false")


def new_namespace(prefix: str) -> Kube:
    """A namespace of its own, with Pod Security `restricted`."""
    found = Kube(f"{prefix}-{secrets.token_hex(3)}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": found.namespace, "labels": labels}
    found.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    return found


def pytest_sessionstart(session: pytest.Session) -> None:
    """The images are delivered once, and not by every worker."""
    if not hasattr(session.config, "workerinput"):
        _deliver(session.config)


def _deliver(config: pytest.Config) -> None:
    tag, prefix = config.getoption("--image-tag"), config.getoption("--image-prefix")
    names = images.names(tag, prefix)
    if config.getoption("--image-push"):
        for name, built in zip(names, images.names(tag), strict=True):
            run(images.builder(), "tag", built, name)
            run(images.builder(), "push", name, timeout=1800)
    if cluster := config.getoption("--kind-load"):
        run("kind", "load", "docker-image", "--name", cluster, *names, timeout=1800)
    if command := config.getoption("--image-load-command"):
        archive = config.getoption("--image-archive")
        if archive is None:
            pytest.fail("--image-load-command needs --image-archive (see images/build_images.py)")
        subprocess.run(
            [part.replace("{archive}", str(archive)) for part in shlex.split(command)], check=True
        )


@pytest.fixture(scope="session")
def s3(
    request: pytest.FixtureRequest, kube: Kube, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3]:
    """A running S3 server; its credentials are in the namespace and in this process."""
    host = request.config.getoption("--s3-host")
    if host is None:
        pytest.skip("no --s3-host (nor NODE_IP): pods need an address of the S3 server")
    server = S3(tmp_path_factory.mktemp("s3"), host)
    server.start()
    before = dict(os.environ)
    os.environ.update(server.environment)
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "dynamicverse-storage"},
            "stringData": server.environment,
        }
    )
    yield server
    os.environ.clear()
    os.environ.update(before)
    server.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what disturbs the whole cluster, then what may run beside it (see `calm`)."""

    def order(item: pytest.Item) -> int:
        return 0 if item.get_closest_marker("disturbs") else 2 - _is_unshaken(item)

    items.sort(key=order)


def _is_unshaken(item: pytest.Item) -> bool:
    return item.get_closest_marker("unshaken") is not None


@pytest.fixture(scope="module", autouse=True)
def calm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """What disturbs the whole cluster runs first, and the other workers of xdist wait for its end.

    Fixtures of the session come before this one: what they make is made in the meantime.
    """
    over = _shared(tmp_path_factory) / "nothing-disturbs"
    first = next((i for i in request.session.items if i.get_closest_marker("disturbs")), None)
    if first is not None and first.path == request.path:
        yield
        over.touch()
        return
    if first is not None and not _is_unshaken(request.node):
        wait_for("an end of what disturbs the cluster", over.exists, 900)
    yield


def _command(request: pytest.FixtureRequest, option: str) -> list[str]:
    command = request.config.getoption(option)
    if not command:
        pytest.skip(f"no {option}: this cluster's parts cannot be stopped from here")
    return shlex.split(command)


@pytest.fixture
def restart_controller(request: pytest.FixtureRequest) -> list[str]:
    return _command(request, "--restart-controller-command")


@pytest.fixture
def stop_kubelet(request: pytest.FixtureRequest) -> list[str]:
    return _command(request, "--stop-kubelet-command")


@pytest.fixture
def start_kubelet(request: pytest.FixtureRequest) -> list[str]:
    return _command(request, "--start-kubelet-command")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six short videos: three real ones where they are at hand, else rendered."""
    return _once(tmp_path_factory, "clips", lambda folder: make_clips(folder, real_data()))


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all workers of xdist see."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def _once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """A folder that the first worker that asks has made; the others wait for it."""
    found = _shared(tmp_path_factory) / name
    with found.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            unfinished = found.with_suffix(".unfinished")
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(found)
    return found


@pytest.fixture(scope="session")
def source(s3: S3, clips: Path) -> str:
    """The same six videos on S3."""
    fs = s3.fs()
    for bucket in ("clips", "scenes"):
        fs.mkdir(bucket)
    for path in sorted(clips.iterdir()):
        fs.put_file(str(path), f"clips/six/{path.name}")
    return "s3://clips/six"


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    """A place for the outputs of one test."""
    return f"s3://scenes/{re.sub('[^a-z]+', '-', request.node.name)}"


@pytest.fixture
def disturbed(kube: Kube, s3: S3, source: str, root: str) -> Disturbed:
    return Disturbed(kube, s3, source, root)


@pytest.fixture(scope="session")
def reference(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Path → digest of the outputs that every disturbed run must reach in the end."""

    def make(root: Path) -> None:
        done = dynamicverse("run", str(clips), "--out", str(root), "--stages", ",".join(STAGES))
        assert done.code == 0, done.err

    return digests(_once(tmp_path_factory, "reference", make))
