"""A deflate stream of independent blocks: any inflater reads it, and threads do not change it."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dynamicverse.formats.parallel_deflate import BLOCK, ParallelDeflate


def deflated(parts: list[bytes], threads: int) -> bytes:
    with ThreadPoolExecutor(threads) as pool:
        stream = ParallelDeflate(pool, 1)
        return b"".join(stream.compress(part) for part in parts) + stream.flush()


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 25 * BLOCK + 7])
def test_it_is_read_back(size: int) -> None:
    data = np.random.default_rng(0).integers(0, 9, size, np.uint8).tobytes()
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(deflated([data], 3)) == data
    assert inflater.eof
    assert not inflater.unused_data


def test_threads_do_not_change_it() -> None:
    parts = [bytes(range(256)) * n for n in (1, 9000, 3, 20_000)]
    assert deflated(parts, 1) == deflated(parts, 5) == deflated([b"".join(parts)], 2)
    assert len(deflated(parts, 2)) < sum(map(len, parts)) / 10
