"""Where work is done: frames on several threads with flat memory, large sums on a GPU."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

from dynamicverse.cores import workers

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def compute_device(wanted: str) -> str:
    """The device's name, cpu or cuda; auto takes a GPU where there is one."""
    if wanted != "auto":
        return wanted
    # torch takes seconds to import: only when there is work
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def in_order(work: Callable[[Key], Value], items: Iterable[Key]) -> Iterator[Value]:
    """The results of `work`, in the order of the items; only a few are made ahead."""
    count = workers()
    with ThreadPoolExecutor(count, thread_name_prefix="frame") as pool:
        ahead: deque[Future[Value]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


class Kept(Generic[Key, Value]):
    """The last `count` values of a function; several threads may ask, one of them computes."""

    def __init__(self, load: Callable[[Key], Value], count: int) -> None:
        self._load, self._count = load, count
        self._lock = Lock()
        self._values: OrderedDict[Key, Future[Value]] = OrderedDict()

    def __call__(self, key: Key) -> Value:
        with self._lock:
            future, mine = self._values.get(key), False
            if future is None:
                future, mine = Future(), True
                self._values[key] = future
                if len(self._values) > self._count:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(self._load(key))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()
