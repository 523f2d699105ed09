"""Parallel work over blocks without spinning threads.

PyTorch's own threads wait actively between operations: with another process on the same cores
a solve becomes ten times slower. Here each worker thread runs whole blocks with single-threaded
operations, and results come back in order, so that sums do not depend on timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from dynamicverse.cores import workers

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """Like the built-in `map`."""

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterable[R]: ...


@contextmanager
def worker_threads(device: torch.device, blocks: int) -> Iterator[Map]:
    """A `map` over the cores this process may use; on a GPU and for one block the plain `map`."""
    count = min(workers(), blocks)
    if device.type != "cpu":
        yield map
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if count <= 1:
            yield map
            return
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(before)
