"""Running the program as a user does, and looking at the tree it leaves."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from dynamicverse import cli, stages
from dynamicverse.formats.manifest import Manifest
from dynamicverse.scene import ARTIFACTS


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dynamicverse", *arguments]


def dynamicverse(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    """Run the command line program in a process of its own."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, **(env or {})},
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def within(*arguments: str) -> Result:
    """Run the command line program inside this process, which saves the start of another.

    For what does not depend on the process; `run` and `replay` then take `--workers 0` as well.
    """
    out, err = StringIO(), StringIO()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["dynamicverse", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
    assert isinstance(code, int | None), code
    return Result(code or 0, out.getvalue(), err.getvalue())


def children_seconds() -> float:
    """CPU time of the processes that have ended: does not depend on what else runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def digests(root: Path, dataset: str = "clips") -> dict[str, str]:
    """Path → sha256 of every reproducible output, as the manifests list them."""
    found = {}
    for path in (root / dataset).glob("*/.dynamicverse/*.json"):
        manifest = Manifest.model_validate_json(path.read_bytes())
        for artifact, files in manifest.outputs.items():
            if ARTIFACTS[artifact].reproducible:
                found.update({f.path: f.sha256 for f in files})
    return found


def finished(root: Path, scene: str, dataset: str = "clips") -> set[str]:
    """The stages that have a manifest."""
    return {p.stem for p in (root / dataset / scene / ".dynamicverse").glob("*.json")} & set(
        stages.NAMES
    )


ClipMaker = Callable[..., Path]
