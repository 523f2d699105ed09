"""Work that is done behind a network, so that the network need not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Behind:
    """A function whose calls are carried out in a thread of their own, in order.

    A context manager: leaving it waits for the last call, after an error only for the one under
    way. A call waits only while more than `most`, itself among them, are not done; what it was
    given must not be changed afterwards. What the function raises, a later call raises, or the
    end of the block.
    """

    def __init__(self, function: Callable[..., None], most: int, name: str) -> None:
        """name: of the thread."""
        self._function, self._most = function, most
        self._pending: deque[Future[None]] = deque()
        self._worker = ThreadPoolExecutor(1, name)

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while self._pending and error is None:
                self._pending.popleft().result()
        finally:
            self._worker.shutdown(cancel_futures=True)

    def __call__(self, *arguments: Any) -> None:
        self._pending.append(self._worker.submit(self._function, *arguments))
        while len(self._pending) > self._most or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
