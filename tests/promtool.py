"""Prometheus's own programs, for tests."""

from __future__ import annotations

import subprocess

import pytest
from charts import ROOT, find


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips the test where there is none."""
    found = find(name, ROOT / "build" / "tools" / name)
    if found is None:
        pytest.skip(f"no `{name}` program (`python tests/get_tools.py`, or set {name.upper()})")
    return found


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool; the caller looks at the exit code."""
    command = [program("promtool"), *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
