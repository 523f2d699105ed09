"""Shared fixtures. Real clips live beside the checkout and are never copied into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips: `$DYNAMICVERSE_TEST_DATA`, or `../shared/data`."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DYNAMICVERSE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder} is absent (set DYNAMICVERSE_TEST_DATA)")
    return folder
