"""The frames of a clip as a network sees them, encoded in batches and read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]
Found = TypeVar("Found")


class Pictures(Generic[Found]):
    """What `encode` makes of frames; those to come are read in a thread; to be closed.

    encode: of some frames in order, in parts. batch: frames that it gets at a time. most: what
    of them is held, the oldest going first.
    """

    def __init__(
        self,
        read: Callable[[int], Rgb],
        count: int,
        encode: Callable[[list[Rgb]], Iterator[list[Found]]],
        batch: int,
        most: int,
    ) -> None:
        self._read, self._count, self._encode = read, count, encode
        self._batch, self._most = batch, max(most, batch)
        self._held: dict[int, Found] = {}
        self._reading: dict[int, Future[Rgb]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")

    def close(self) -> None:
        """Read no more."""
        self._reader.shutdown(cancel_futures=True)

    def __call__(self, frame: int, step: int) -> Found:
        """What was made of a frame; the next asked for is probably `step` (1 or -1) on."""
        if frame not in self._held:
            wanted = self._missing(frame, step)
            self._submit(wanted)
            rgb = [self._reading.pop(t).result() for t in wanted]
            self._submit(self._missing(frame + step * self._batch, step))
            made: list[Any] = [one for part in self._encode(rgb) for one in part]
            self._held.update(zip(wanted, made, strict=True))
            for old in list(self._held)[: -self._most]:
                del self._held[old]
        return self._held[frame]

    def _missing(self, frame: int, step: int) -> list[int]:
        there = range(self._count)
        ahead = range(frame, frame + step * self._batch, step)
        return [t for t in ahead if t in there and t not in self._held]

    def _submit(self, frames: list[int]) -> None:
        for t in frames:
            if t not in self._reading:
                self._reading[t] = self._reader.submit(self._read, t)
