"""Batches: order, reading ahead, and what happens when memory runs out."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dynamicverse.backends.accelerator import Batches, Coming, ahead, package, upload
from dynamicverse.errors import MissingModelError


def test_results_come_in_order_and_in_batches() -> None:
    sizes: list[int] = []

    def square(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [i * i for i in items]

    assert list(Batches(4, []).run(range(10), square)) == [i * i for i in range(10)]
    assert sizes == [4, 4, 2]


def test_results_are_waited_for_while_the_next_are_computed() -> None:
    begun = [threading.Event() for _ in range(3)]

    def compute(items: list[int]) -> Iterator[int]:
        begun[items[0]].set()
        return arriving(items[0])

    def arriving(i: int) -> Iterator[int]:
        assert begun[min(i + 1, 2)].wait(5)
        yield i

    assert list(Batches(1, []).run(range(3), compute)) == [0, 1, 2]


def test_rows_of_several_tensors_come_together() -> None:
    first, second = torch.arange(4).view(2, 2), torch.tensor([True, False])
    rows = list(Coming(first, second).rows())
    assert [(a.tolist(), bool(b)) for a, b in rows] == [([0, 1], True), ([2, 3], False)]
    assert rows[0][0].dtype == np.float32


def test_labels_come_as_bytes() -> None:
    (label,) = Coming(torch.tensor([7, 255], dtype=torch.uint8)).arrived()
    assert (label.dtype, label.tolist()) == (np.uint8, [7, 255])


def test_out_of_memory_halves_the_batch_for_good_and_says_so() -> None:
    notes: list[str] = []
    tried: list[int] = []

    def fits_three(items: list[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("no")
        return items

    batches = Batches(8, notes)
    assert list(batches.run(range(20), fits_three)) == list(range(20))
    assert tried[:3] == [8, 4, 2]
    assert max(tried[2:]) == 2 == batches.size
    assert notes == [
        "out of memory with a batch of 8: now 4",
        "out of memory with a batch of 4: now 2",
    ]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    def never(items: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError):
        list(Batches(2, []).run([1, 2], never))


def test_an_error_leaves_no_thread_to_the_garbage_collector() -> None:
    """It would end them in whichever thread it runs, and may wait there for ever."""
    before = set(threading.enumerate())

    def never(items: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("no")

    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError) as held:  # holds the frames
            list(Batches(1, []).run(range(9), never))
        assert not [t for t in threading.enumerate() if t not in before and t.is_alive()]
        del held
    finally:
        gc.enable()


def test_ahead_makes_the_next_item_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> itertools.chain[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    stream = ahead(items())
    assert next(stream) == 0
    assert made[1].wait(5)  # without being asked for
    assert list(stream) == [1, 2]


def test_ahead_hands_errors_on() -> None:
    def broken() -> itertools.chain[int]:
        yield 1
        raise ValueError("broken")

    stream = ahead(broken())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_upload_keeps_channels_and_values() -> None:
    frames = [np.arange(24, dtype=np.uint8).reshape(2, 4, 3) + i for i in range(2)]
    batch = upload(frames, torch.device("cpu"))
    assert batch.shape == (2, 3, 2, 4)
    assert batch.dtype == torch.uint8
    assert batch[1, 2, 1, 3] == frames[1][1, 3, 2]


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(MissingModelError, match="pip install it-from-there"):
        package("no_such_package_here", "unidepth", "pip install it-from-there")
