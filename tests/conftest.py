"""Shared fixtures. Real clips live beside the checkout and are never copied into it."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# Workers of xdist and the processes of the tests share the cores: threads of OpenMP that wait
# actively take them from each other. Read when OpenMP starts, so before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Side by side, more threads than cores only cost; set before NumPy and torch are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    from textures import remember

    remember()


def pytest_collection_finish() -> None:
    """All modules are loaded and stay: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips: `$DYNAMICVERSE_TEST_DATA`, or `../shared/data`."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DYNAMICVERSE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder} is absent (set DYNAMICVERSE_TEST_DATA)")
    return folder
