"""Several things at a time: the next prepared ahead, many waited for in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


class SharedTime:
    """Wall time shared out evenly among the work under way, so that the shares add up to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present, self._each, self._last = 0, 0.0, time.perf_counter()

    def begin(self) -> float:
        """Work begins; returns what `end` wants."""
        with self._lock:
            self._advance()
            self._present += 1
            return self._each

    def end(self, begun: float) -> float:
        """Work ends; its share, in seconds."""
        with self._lock:
            self._advance()
            self._present -= 1
            return self._each - begun

    def _advance(self) -> None:
        now = time.perf_counter()
        if self._present:
            self._each += (now - self._last) / self._present
        self._last = now


def ahead(
    items: Iterable[T], prepare: Callable[[T], T], executor: ThreadPoolExecutor
) -> Iterator[T]:
    """Yield prepared items while the next one is being prepared."""
    waiting: Future[T] | None = None
    for item in items:
        following = executor.submit(prepare, item)
        if waiting is not None:
            yield waiting.result()
        waiting = following
    if waiting is not None:
        yield waiting.result()


def in_flight(items: Iterable[T], compute: Callable[[T], U], width: int) -> Iterator[U]:
    """Results of `compute`, `width` at a time, in the order in which they come.

    An item is taken only when there is room for it, so memory does not grow with their number.
    With width 1 the work is done in this thread. The threads are daemons: a process that is
    told to end does not wait for services. What `compute` raises is raised here.
    """
    if width == 1:
        yield from map(compute, items)
        return
    ended: SimpleQueue[Future[U]] = SimpleQueue()
    running = 0
    for item in items:
        while running == width:
            yield ended.get().result()
            running -= 1
        threading.Thread(target=_work, args=(compute, item, ended), daemon=True).start()
        running += 1
    for _ in range(running):
        yield ended.get().result()


def _work(compute: Callable[[T], U], item: T, ended: SimpleQueue[Future[U]]) -> None:
    future: Future[U] = Future()
    try:
        future.set_result(compute(item))
    except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
        future.set_exception(error)
    ended.put(future)
