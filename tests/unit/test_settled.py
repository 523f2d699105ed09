"""Settled records and their merged files: a cache may never change what the records say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicverse import config
from dynamicverse.curation.sources import Source
from dynamicverse.runner import plan, settled
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.settled import MERGE_EVERY
from dynamicverse.runner.store import Store

SHARDS = 2 * MERGE_EVERY + 3
STAGE = "report"
_roots = itertools.count()


def planned(root: str) -> Run:
    """A run of one stage with a source a shard."""
    sources = [(Source(f"/videos/{i:03d}.mp4", f"{i:03d}", "video"), 9) for i in range(SHARDS)]
    names = [STAGE]
    store = Store(root)
    return plan.create(store, "clips", config.load(), sources, stage_names=names, shard_scenes=1)


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return planned(str(tmp_path) if request.param == "local" else f"memory://s{next(_roots)}")


def end(run: Run, shard: int, seconds: float = 1.0) -> None:
    """The stage ends for a shard, as the executor does it."""
    with Ledger(run.store, run.folder, STAGE, shard) as ledger:
        ledger.add(name=f"{shard:03d}", outcome=Outcome.DONE, seconds=seconds, frames=1)
    settled.record(run, STAGE, shard)


def merged(run: Run) -> list[str]:
    files = run.store.sizes(f"{run.folder}/settled/{STAGE}")
    return sorted(f.rsplit("/", 1)[-1] for f in files if settled.MERGED in f)


def durations(run: Run) -> dict[int, list[float]]:
    return {shard: one.tally.durations for shard, one in settled.of_stage(run, STAGE).items()}


def reads(run: Run, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[str]:
    """The files that an action reads."""
    seen: list[str] = []
    read = run.store.read

    def counted(relative: str) -> bytes | None:
        seen.append(relative)
        return read(relative)

    with monkeypatch.context() as patch:
        patch.setattr(run.store, "read", counted)
        action()
    return seen


def test_what_is_merged_is_not_read_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(SHARDS):
        end(run, shard, float(shard))
    assert merged(run) == [f"merged-{2 * MERGE_EVERY - 1:05d}.json"]
    assert len(reads(run, monkeypatch, lambda: durations(run))) == 1 + 3
    assert durations(run) == {shard: [float(shard)] for shard in range(SHARDS)}


def test_the_newest_record_wins_over_the_merged_file(run: Run) -> None:
    for shard in range(MERGE_EVERY):
        end(run, shard)
    end(run, 3, 7.0)
    assert durations(run)[3] == [1.0, 7.0]
    assert durations(run)[4] == [1.0]


def test_a_removed_record_is_gone(run: Run) -> None:
    for shard in range(MERGE_EVERY):
        end(run, shard)
    run.store.delete([settled.path(run, STAGE, 5)])
    assert sorted(durations(run)) == [s for s in range(MERGE_EVERY) if s != 5]


@pytest.mark.parametrize("content", [b"", b'{"entries": [{"sha', b'{"entries": 3}'])
def test_a_torn_merged_file_costs_reads_only(run: Run, content: bytes) -> None:
    for shard in range(SHARDS):
        end(run, shard)
    expected = durations(run)
    (name,) = merged(run)
    run.store.write(f"{run.folder}/settled/{STAGE}/{name}", content)
    assert durations(run) == expected
    end(run, MERGE_EVERY - 1)  # the next merge replaces it
    assert merged(run) == [f"merged-{MERGE_EVERY - 1:05d}.json"]


def test_a_merge_killed_before_it_cleans_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(MERGE_EVERY):
        end(run, shard)
    with monkeypatch.context() as patch:
        patch.setattr(run.store, "delete", lambda files: None)
        for shard in range(MERGE_EVERY, 2 * MERGE_EVERY):
            end(run, shard)
    assert len(merged(run)) == 2
    assert len(durations(run)) == 2 * MERGE_EVERY
    end(run, MERGE_EVERY - 1)
    assert merged(run) == [f"merged-{MERGE_EVERY - 1:05d}.json"]


def test_a_merged_file_that_vanishes_under_a_reader(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(2 * MERGE_EVERY - 1):
        end(run, shard)
    read = run.store.read

    def late(relative: str) -> bytes | None:
        if settled.MERGED in relative:
            monkeypatch.setattr(run.store, "read", read)
            end(run, 2 * MERGE_EVERY - 1)  # merges, and removes the file that is being read
        return read(relative)

    monkeypatch.setattr(run.store, "read", late)
    assert len(durations(run)) == 2 * MERGE_EVERY


def test_a_record_written_while_others_merge_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merger lists, then another pod ends, then the merger writes what it knows."""
    for shard in range(MERGE_EVERY - 1):
        end(run, shard)
    versions = run.store.versions

    def then_another(folder: str) -> dict[str, str]:
        found = versions(folder)
        monkeypatch.setattr(run.store, "versions", versions)
        end(run, 3, 7.0)
        end(run, MERGE_EVERY + 5)
        return found

    monkeypatch.setattr(run.store, "versions", then_another)
    end(run, MERGE_EVERY - 1)
    assert durations(run)[3] == [1.0, 7.0]
    assert MERGE_EVERY + 5 in durations(run)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SHARDS - 1), st.integers(1, 9)), max_size=80))
def test_any_order_says_what_the_last_records_say(order: list[tuple[int, int]]) -> None:
    run = planned(f"memory://s{next(_roots)}")
    expected: dict[int, list[float]] = {}
    for shard, seconds in order:
        end(run, shard, float(seconds))
        expected.setdefault(shard, []).append(float(seconds))
    assert durations(run) == expected
    assert len(merged(run)) <= 1
