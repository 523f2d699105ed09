"""One raw deflate stream whose blocks are compressed on several threads.

Blocks do not refer to each other, as in pigz: the stream depends on the data alone, not on the
number of threads, and any inflater reads it.
"""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from dynamicverse.cores import workers

BLOCK = 1 << 19  # bytes; shorter ones compress worse
AHEAD = 10  # blocks in memory
RAW = -15  # window bits: no header, no checksum


class ParallelDeflate:
    """Compressor with the methods that `zipfile` calls."""

    def __init__(self, pool: ThreadPoolExecutor, level: int) -> None:
        self._pool, self._level = pool, level
        self._waiting = bytearray()  # less than a block: how data arrives makes no difference
        self._ahead: deque[Future[bytes]] = deque()

    def compress(self, data: bytes | memoryview) -> bytes:
        """Take data; what is compressed so far."""
        view, done, start = memoryview(data).cast("B"), [], 0
        while start < len(view):
            stop = start + BLOCK - len(self._waiting)
            self._waiting += view[start:stop]
            start = stop
            if len(self._waiting) == BLOCK:
                self._submit()
                if len(self._ahead) > AHEAD:
                    done.append(self._ahead.popleft().result())
        return b"".join(done)

    def flush(self) -> bytes:
        """The rest, and the end of the stream."""
        self._submit()
        done = [block.result() for block in self._ahead]
        self._ahead.clear()
        return b"".join(done) + zlib.compressobj(self._level, zlib.DEFLATED, RAW).flush()

    def _submit(self) -> None:
        block, self._waiting = self._waiting, bytearray()
        self._ahead.append(self._pool.submit(_block, block, self._level))


def compressors() -> ThreadPoolExecutor:
    """Threads for `ParallelDeflate`: one a core that this process may use."""
    return ThreadPoolExecutor(workers(), "deflate")


def _block(data: bytearray, level: int) -> bytes:
    """One block that ends on a whole byte and is not the last of its stream."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, RAW)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
