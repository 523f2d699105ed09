"""The command line: help, errors in one line, JSON for programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from program import children_seconds, dynamicverse, within


def test_help_teaches_and_is_quick() -> None:
    start = children_seconds()
    result = dynamicverse("--help")
    seconds = children_seconds() - start
    assert "dynamicverse run clip.mp4 --out data" in result.out
    assert seconds < 1.0  # 0.3 s


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, dynamicverse.cli; "
        "heavy = ('torch', 'cv2', 'numpy', 'scipy', 'av', 'fsspec'); "
        "print(*(m for m in heavy if m in sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("command", ["run", "plan", "stage", "status", "validate", "report"])
def test_every_command_has_help(command: str) -> None:
    result = within(command, "--help")
    assert result.code == 0
    assert "Usage" in result.out


def test_schemas_are_listed_and_valid() -> None:
    names = within("schema").out.split()
    assert {"scene", "dynamic_objects", "captions", "manifest"} <= set(names)
    for name in names:
        schema = within("schema", name).json()
        jsonschema.Draft202012Validator.check_schema(schema)
    wrong = within("schema", "scne")
    assert wrong.code == 65
    assert "did you mean 'scene'?" in wrong.err


def test_doctor_names_every_backend() -> None:
    findings = within("doctor", "--json").json()
    usable = {(f["kind"], f["name"]) for f in findings if f["usable"]}
    for kind, name in (
        ("flow backend", "dis"),
        ("tracker backend", "klt"),
        ("segmenter backend", "motion"),
        ("captioner backend", "geometric"),
    ):
        assert (kind, name) in usable


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "{root}"),
        ("validate", "{root}"),
        ("report", "{root}"),
        ("quarantine", "show", "{root}", "x"),
        ("stage", "tracks", "--run", "{root}/.runs/x", "--shard", "0"),
    ],
)
def test_an_empty_root_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = within(*(a.replace("{root}", str(tmp_path)) for a in arguments))
    assert result.code == 65
    assert len(result.err.strip().splitlines()) == 1
    assert result.err.startswith("dynamicverse: error: ")


def test_an_empty_quarantine_is_no_error(tmp_path: Path) -> None:
    assert within("quarantine", "list", str(tmp_path), "--json").json() == []
