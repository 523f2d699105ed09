"""Parts of the cluster go away. Everything else on the cluster feels it: most tests wait."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from disturbed import Disturbed
from s3_server import S3

pytestmark = pytest.mark.disturbs


@pytest.fixture
def kubelet(stop_kubelet: list[str], start_kubelet: list[str]) -> Iterator[None]:
    """Ends with a kubelet that runs."""
    yield
    subprocess.run(start_kubelet, check=True)


@pytest.mark.usefixtures("kubelet")
def test_parts_of_the_cluster_go_away(
    disturbed: Disturbed,
    s3: S3,
    restart_controller: list[str],
    stop_kubelet: list[str],
    start_kubelet: list[str],
    reference: dict[str, str],
) -> None:
    """In one run: storage gone for 30 s; after half of it the kubelet too, for 60 s; and in
    these a new controller starts."""
    disturbed.running("keyframes")
    with s3.away(15):
        assert disturbed.phase() == "Running"
        subprocess.run(stop_kubelet, check=True)
        back = time.monotonic() + 60
        time.sleep(15)
    subprocess.run(restart_controller, check=True, timeout=120)
    time.sleep(max(0.0, back - time.monotonic()))
    assert disturbed.phase() == "Running"
    subprocess.run(start_kubelet, check=True)
    disturbed.completes(reference)
