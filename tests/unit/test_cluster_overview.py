"""Progress, pace and cost: added up from settled shards and from ledgers still written."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from threading import Barrier

import pytest

from dynamicverse import config
from dynamicverse.cluster import overview
from dynamicverse.cluster.overview import PoolCost
from dynamicverse.curation.sources import Source
from dynamicverse.runner import ledger, plan, settled, tally
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.store import Store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Four scenes in two shards; ingest is through, keyframes has failed for one."""
    sources = []
    for name in "abcd":
        (tmp_path / f"{name}.mp4").write_bytes(b"video")
        sources.append((Source(str(tmp_path / f"{name}.mp4"), name, "video"), 10))
    store = Store(str(tmp_path / "out"))
    made = plan.create(store, "clips", config.load(), sources, shard_scenes=2)
    add(made, "ingest", 0, a=Outcome.DONE, b=Outcome.DONE)
    add(made, "ingest", 1, c=Outcome.DONE, d=Outcome.DONE)
    add(made, "keyframes", 0, a=Outcome.DONE, b=Outcome.QUARANTINED)
    return made


def add(run: Run, stage: str, shard: int, **outcomes: Outcome) -> None:
    with Ledger(run.store, run.folder, stage, shard) as ledger:
        for name, outcome in outcomes.items():
            reason = {"reason": "internal"} if outcome is Outcome.QUARANTINED else {}
            ledger.add(name=name, outcome=outcome, seconds=3.0, load_seconds=0.6, frames=10,
                       pool="any", **reason)  # fmt: skip


def read_plainly(run: Run) -> dict[str, dict[str, str]]:
    """Stage → scene → its last outcome, from every line of every ledger: the oracle."""
    last: dict[str, dict[str, str]] = {name: {} for name in run.plan.stages}
    for event in ledger.read(run.store, run.folder):
        last[event["stage"]][event["name"]] = event["outcome"]
    return last


def test_it_says_what_the_ledger_says(run: Run) -> None:
    expected = read_plainly(run)
    for settle in (lambda: None, lambda: settled.record(run, "ingest", 1)):
        settle()
        found = overview.of_run(run, {}).status
        for stage in found.stages:
            assert stage.outcomes == Counter(expected[stage.stage].values())
        ingest, keyframes = found.stages[:2]
        assert (ingest.expected, ingest.frames, ingest.seconds) == (4, 40, 12.0)
        assert (keyframes.expected, keyframes.frames, keyframes.durations) == (4, 10, [3.0])
        assert found.failures == {"internal": 1}
        assert not found.complete
        times = [event["time"] for event in ledger.read(run.store, run.folder)]
        assert (found.scenes, found.updated) == (2, max(times))
        spent = datetime.fromisoformat(max(times)) - datetime.fromisoformat(min(times))
        assert found.elapsed_seconds == spent.total_seconds()


def test_hours_and_money_by_pool(run: Run) -> None:
    found = overview.of_run(run, {"any": 1000.0})
    assert found.costs == [PoolCost("any", 0.006, 6.0)]
    assert overview.of_run(run, {}).costs == [PoolCost("any", 0.006, None)]


def test_settled_files_stand_for_their_ledgers(run: Run) -> None:
    settled.record(run, "ingest", 0)
    Path(f"{run.store.local}/{run.folder}/ledger/ingest/00000.jsonl").unlink()
    (ingest, *_) = overview.of_run(run, {}).status.stages
    assert ingest.outcomes == {"done": 4}


def test_it_asks_a_store_for_everything_once_and_for_many_things_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards, stages = settled.MERGE_EVERY + 4, ["ingest", "keyframes"]
    members = [(Source(f"/{k}.mp4", f"{k}", "video"), 9) for k in range(shards)]
    store = Store("memory://asked")
    made = plan.create(store, "clips", config.load(), members, stage_names=stages, shard_scenes=1)
    for stage in stages:
        for shard in range(shards):
            add(made, stage, shard, **{f"{shard}": Outcome.DONE})
            if shard < shards - 2:  # two are at work
                settled.record(made, stage, shard)
    asked: Counter[str] = Counter()
    together = {  # each waits for the others, so one after the other would not end
        "versions": Barrier(len(stages)),
        f"/ledger/{stages[0]}/": Barrier(2),
        f"/ledger/{stages[1]}/": Barrier(2),
    }

    def counted(name: str) -> None:
        method = getattr(Store, name)

        def ask(self: Store, relative: str = "") -> object:
            asked[name] += 1
            for part, barrier in together.items():
                if part == name or (name == "read" and part in relative):
                    barrier.wait(20)
            return method(self, relative)

        monkeypatch.setattr(Store, name, ask)

    for name in ("read", "versions", "sizes", "folders"):
        counted(name)
    (found,) = [overview.of_run(run, {}).status for run in plan.open_all(store)]
    assert [stage.outcomes for stage in found.stages] == [{"done": shards}] * 2
    # the plan; of a stage the merged file, two records after it and the two at work
    reads = 1 + len(stages) * (1 + 2 + 2)
    assert asked == {"folders": 1, "read": reads, "versions": 2, "sizes": 2}


def test_a_second_try_counts_once_and_costs_twice() -> None:
    events = [
        {"name": "a", "outcome": "done", "seconds": 2.0, "frames": 5, "time": "2026-01-02"},
        {"name": "a", "outcome": "cached", "time": "2026-01-03"},
        {"name": "b", "outcome": "quarantined", "seconds": 1.0, "reason": "empty", "time": "2026"},
    ]
    found = tally.of_events(events)
    assert found.outcomes == {"cached": 1, "quarantined": 1}
    assert found.reasons == {"empty": 1}
    assert (found.frames, found.durations, found.pool_seconds) == (5, [2.0], {"cpu": 3.0})
    assert (found.first, found.last) == ("2026", "2026-01-03")


def test_nothing_begun(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    source = Source(str(tmp_path / "a.mp4"), "a", "video")
    made = plan.create(Store(str(tmp_path / "out")), "clips", config.load(), [(source, 10)])
    found = overview.of_run(made, {})
    assert (found.scenes_per_hour, found.costs, found.status.complete) == (None, [], False)
