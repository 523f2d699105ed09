"""Kill -9 at random moments: the next run continues, and the outputs are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from program import ClipMaker, command, digests, dynamicverse

from dynamicverse.runner import ledger, plan
from dynamicverse.runner.store import Store

KILLS = 10


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path, clip: ClipMaker) -> None:
    source = str(clip("storm", frames=4, size=(160, 96)))
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    start = time.perf_counter()
    assert dynamicverse("run", source, "--out", str(calm)).code == 0
    undisturbed = time.perf_counter() - start

    def finished() -> int:
        return sum(1 for _ in stormy.glob("*/*/.dynamicverse/*.json"))

    rng = random.Random(0)
    arguments = command("run", source, "--out", str(stormy))
    killed = 0
    for _ in range(KILLS):
        due = finished() + rng.randrange(2)  # some die as they start, some in a later stage
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and finished() < due:
            time.sleep(0.01)
        try:
            process.wait(rng.uniform(0.0, 0.1) * undisturbed)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # the parent alone: children must follow
            process.wait()
            killed += 1
    assert killed >= 3
    last = dynamicverse("run", source, "--out", str(stormy), "--json")
    assert last.code == 0, last.err
    assert last.json()["failed"] == []
    assert digests(stormy) == digests(calm)
    # of the run's own files, what is younger than some minutes stays
    assert not [*stormy.glob("[!.]*/[!.]*/**/*.tmp")]

    store = Store(str(stormy))
    (run,) = plan.list_runs(store)
    opened = plan.open_named(store, run)
    done = Counter(
        (r["stage"], r["name"]) for r in ledger.read(store, opened.folder) if r["outcome"] == "done"
    )
    assert max(done.values()) == 1, "nothing that was finished is done again"
