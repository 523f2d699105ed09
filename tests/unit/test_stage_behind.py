"""Calls that are carried out behind the caller: order, bounds, errors."""

from __future__ import annotations

import threading

import pytest

from dynamicverse.stages.behind import Behind


def test_calls_are_carried_out_in_order_before_the_block_ends() -> None:
    done: list[int] = []
    with Behind(done.append, 3, "test") as behind:
        for i in range(20):
            behind(i)
    assert done == list(range(20))


def test_the_caller_waits_only_when_too_many_are_not_done() -> None:
    hold, called, waits = threading.Event(), threading.Event(), threading.Event()

    def slow(i: int) -> None:
        hold.wait(10)

    def caller() -> None:
        with Behind(slow, 2, "test") as behind:
            behind(0)
            behind(1)
            called.set()
            behind(2)
            waits.set()

    thread = threading.Thread(target=caller)
    thread.start()
    assert called.wait(5)  # two are not done, and the caller goes on
    assert not waits.wait(0.05)
    hold.set()
    assert waits.wait(5)
    thread.join()


def test_an_error_is_raised_at_the_end_of_the_block() -> None:
    def broken(i: int) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"), Behind(broken, 5, "test") as behind:
        behind(0)


def test_an_error_is_raised_by_a_later_call() -> None:
    failed, calls = threading.Event(), 0

    def broken(i: int) -> None:
        failed.set()
        raise OSError("the disk is full")

    def many() -> None:
        nonlocal calls
        with Behind(broken, 5, "test") as behind:
            for i in range(100):
                behind(i)
                calls += 1
                assert failed.wait(5)

    with pytest.raises(OSError, match="full"):
        many()
    assert calls < 7


def test_after_an_error_in_the_block_nothing_more_is_done_and_no_thread_stays() -> None:
    before = set(threading.enumerate())
    started, hold = threading.Event(), threading.Event()
    done: list[int] = []

    def slow(i: int) -> None:
        started.set()
        hold.wait(10)
        done.append(i)

    def interrupted() -> None:
        with Behind(slow, 9, "test") as behind:
            for i in range(5):
                behind(i)
            assert started.wait(5)
            threading.Timer(0.05, hold.set).start()
            raise ValueError("elsewhere")

    with pytest.raises(ValueError, match="elsewhere"):
        interrupted()
    assert done == [0]
    assert not [t for t in threading.enumerate() if t not in before and t.name.startswith("test")]
