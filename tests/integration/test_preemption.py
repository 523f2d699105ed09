"""SIGTERM in a pod: what is done stays, exit 75, and the next try goes on from there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

from program import ClipMaker, command, digests, within

from dynamicverse.runner import ledger, plan
from dynamicverse.runner.store import Store

SCENES = 12
STAGE = "ingest"


def manifests(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in root.glob(f"clips/*/.dynamicverse/{STAGE}.json")}


def done_in_ledger(root: Path, run: str) -> int:
    store = Store(str(root))
    folder = plan.open_named(store, run.rsplit("/", 1)[-1]).folder
    return sum(r["outcome"] == "done" for r in ledger.read(store, folder))


def test_a_preempted_pod_resumes_inside_its_shard(tmp_path: Path, clip: ClipMaker) -> None:
    clips, calm, root = (tmp_path / name for name in ("clips", "calm", "root"))
    for number in range(SCENES):
        shutil.copytree(clip("room"), clips / f"scene-{number}")
    arguments = ("--dataset", "clips", "--stages", STAGE)
    calmly = within("run", str(clips), "--out", str(calm), "--workers", "0", *arguments)
    assert calmly.code == 0, calmly.err

    planned = within("plan", str(clips), "--root", str(root), *arguments)
    assert planned.code == 0, planned.err
    pod = ("stage", STAGE, "--run", planned.out.strip(), "--shard", "0", "--json")
    process = subprocess.Popen(command(*pod), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not manifests(root) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, (out, err)
    before = manifests(root)
    assert 0 < len(before) < SCENES, "not in the middle"
    assert done_in_ledger(root, planned.out.strip()) == len(before), "the ledger was not flushed"

    again = within(*pod)
    assert again.code == 0, again.err
    assert again.json()["counts"] == {"cached": len(before), "done": SCENES - len(before)}
    after = manifests(root)
    assert {path: after[path] for path in before} == before
    assert digests(root) == digests(calm)
