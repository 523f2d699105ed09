"""Many scenes in flight: bounded, in threads, with the first failure raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from test_runner import Bench, Maker, make

from dynamicverse import stages
from dynamicverse.errors import AnswerError, ServiceError
from dynamicverse.runner import ledger, quarantine
from dynamicverse.runner.execute import TransientError
from dynamicverse.runner.flight import SharedTime, ahead, in_flight
from dynamicverse.runner.ledger import Outcome
from dynamicverse.scene import Scene
from dynamicverse.stages.base import StageContext

__all__ = ["make"]  # a fixture


class Pool:
    """Work that waits; counts how much of it is under way."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds, self.now, self.most, self.taken = seconds, 0, 0, 0
        self.lock = threading.Lock()

    def items(self, count: int):  # type: ignore[no-untyped-def]
        for i in range(count):
            self.taken += 1
            yield i

    def __call__(self, item: int) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        return item * item


@pytest.mark.parametrize("width", [1, 4, 100])
def test_every_item_is_done_once_and_no_more_than_width_at_a_time(width: int) -> None:
    pool, together = Pool(), threading.Barrier(min(width, 12), timeout=30)

    def compute(item: int) -> int:
        together.wait()  # broken, and an error, if fewer than that are under way at once
        return pool(item)

    assert sorted(in_flight(pool.items(12), compute, width)) == [i * i for i in range(12)]
    assert pool.most <= min(width, 12)


def test_items_are_taken_when_there_is_room() -> None:
    pool = Pool()
    for done, _ in enumerate(in_flight(pool.items(50), pool, 4)):
        assert pool.taken <= done + 4 + 1


def test_the_first_result_does_not_wait_for_the_slowest() -> None:
    slowest = threading.Event()

    def compute(item: int) -> int:
        if item == 0:
            slowest.wait(10)
        return item

    results = in_flight(iter(range(5)), compute, 2)
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    slowest.set()
    assert list(results) == [0]


@pytest.mark.parametrize("width", [1, 3])
def test_what_the_work_raises_is_raised_here(width: int) -> None:
    def compute(item: int) -> int:
        if item == 2:
            raise KeyError(item)
        return item

    with pytest.raises(KeyError):
        list(in_flight(range(9), compute, width))


def test_one_worker_is_this_thread() -> None:
    assert set(in_flight(range(3), lambda _: threading.get_ident(), 1)) == {threading.get_ident()}


def test_the_next_is_prepared_while_this_one_is_used() -> None:
    prepared: list[int] = []

    def prepare(item: int) -> int:
        prepared.append(item)
        return item

    with ThreadPoolExecutor(1) as executor:
        items = ahead(range(3), prepare, executor)
        assert next(items) == 0
        assert list(items) == [1, 2]
    assert prepared == [0, 1, 2]


@pytest.fixture(params=["local", "memory"])
def bench(request: pytest.FixtureRequest, make: Maker, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Three scenes that only go through a stage together."""
    bench = make(request.param)
    together = threading.Barrier(3, timeout=20)
    work: Callable[..., None] = bench.analysis

    def meet(scene: Scene, context: StageContext) -> None:
        together.wait()
        work(scene, context)

    stage = replace(bench.stage("analysis"), run=meet, concurrency=lambda _: 3)
    monkeypatch.setattr(stages, "get", lambda name: stage)
    monkeypatch.setattr("dynamicverse.runner.execute.ATTEMPTS", 1)
    return bench


def test_a_stage_works_on_as_many_scenes_as_it_says(bench: Bench) -> None:
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 3}
    assert len(bench.digests()) == 3
    assert bench.execute("analysis")["analysis"] == {Outcome.CACHED: 3}


def test_a_bad_answer_is_the_failure_of_its_scene(bench: Bench) -> None:
    bench.fail["b"] = AnswerError("nonsense")
    assert bench.execute("analysis")["analysis"] == {Outcome.DONE: 2, Outcome.QUARANTINED: 1}
    (record,) = quarantine.records(bench.store)
    assert (record.name, record.reason) == ("b", "bad_answer")


def test_a_dead_service_stops_the_shard_but_loses_nothing_that_is_under_way(bench: Bench) -> None:
    bench.fail["b"] = ServiceError("gone")
    with pytest.raises(TransientError, match="gone"):
        bench.execute("analysis")
    assert sorted(bench.digests()) == ["a analysis", "c analysis"]
    assert list(quarantine.records(bench.store)) == []


def test_shares_of_time_add_up_to_the_time() -> None:
    shared = SharedTime()
    start = time.perf_counter()
    first = shared.begin()
    time.sleep(0.1)
    others = [shared.begin() for _ in range(3)]
    time.sleep(0.1)
    shares = [shared.end(first), *(shared.end(one) for one in others)]
    assert sum(shares) == pytest.approx(time.perf_counter() - start, abs=0.01)
    assert shares[0] > shares[1] > 0
    time.sleep(0.05)  # nothing is under way
    assert shared.end(shared.begin()) < 0.01


def test_the_ledger_charges_the_pod_once_for_scenes_together(bench: Bench) -> None:
    work = stages.get("analysis").run

    def slow(scene: Scene, context: StageContext) -> None:
        work(scene, context)
        time.sleep(0.3)

    stage = replace(stages.get("analysis"), run=slow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "get", lambda name: stage)
        bench.execute("analysis")
    ended = list(ledger.read(bench.store, bench.run.folder))
    assert sum(e["seconds"] for e in ended) > 0.9
    assert 0.3 < sum(e["pod_seconds"] for e in ended) < 0.8 * sum(e["seconds"] for e in ended)
