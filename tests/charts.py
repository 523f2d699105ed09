"""Render the Helm charts as the tests see them, and keep the renders beside the values.

python tests/charts.py      writes every output-NAME.yaml anew; needs a helm program
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHARTS = {
    "vllm-qwen": ROOT / "helm" / "vllm-qwen",
    "dynamicverse-monitoring": ROOT / "helm" / "dynamicverse-monitoring",
}
KUBERNETES = "1.34"
OFFLINE = ("--kube-version", KUBERNETES)  # what helm would else ask a cluster for
CUSTOM_GROUPS = ("monitoring.coreos.com", "keda.sh")  # kinds that Kubernetes itself has not
HELM_PLACES = (
    ROOT / "build" / "tools" / "helm",
    Path.home() / ".cache" / "dynamicverse-cluster" / "tools" / "helm" / "helm",
)
Manifest = dict[str, Any]


def find(name: str, *places: Path) -> str | None:
    """A program: named by an environment variable, on the PATH, or in one of the places."""
    found = os.environ.get(name.upper()) or shutil.which(name)
    return found or next((str(place) for place in places if place.is_file()), None)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm; the caller looks at the exit code. Raises FileNotFoundError without helm."""
    program = find("helm", *HELM_PLACES)
    if program is None:
        raise FileNotFoundError("no `helm` program (`python tests/get_tools.py`, or set HELM)")
    command = [program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def template(
    chart: str, values: Path | None = None, settings: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`helm template` of a chart with a values file and `--set` settings."""
    return _template(CHARTS[chart], values, settings)


def _template(
    folder: Path, values: Path | None, settings: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    arguments = ["template", "test", str(folder), "--namespace", "vision"]
    arguments += [*OFFLINE]
    arguments += ["--values", str(values)] if values else []
    for setting in settings:
        arguments += ["--set-json" if "=[" in setting or "={" in setting else "--set", setting]
    return helm(*arguments)


def render(chart: str, values: Path | None = None, settings: Sequence[str] = ()) -> list[Manifest]:
    """The manifests that a chart makes."""
    done = template(chart, values, settings)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def documents(text: str) -> list[Manifest]:
    """The manifests in a text, without empty ones, in order of kind and name.

    Dashboards, long and kept in files of their own, are named instead of repeated.
    """
    found = [d for d in yaml.safe_load_all(_without_dashboards(text)) if d]
    return sorted(found, key=lambda d: (d["kind"], d["metadata"]["name"]))


def _without_dashboards(text: str) -> str:
    """A text in which a dashboard that equals its file is replaced by the file's name."""

    def shorten(block: re.Match[str]) -> str:
        name = block["name"]
        file = CHARTS["dynamicverse-monitoring"] / "dashboards" / name
        same = file.is_file() and textwrap.dedent(block["body"]).strip() == file.read_text().strip()
        return f"  dynamicverse-{name}: as in dashboards/{name}\n" if same else block[0]

    return re.sub(
        r"^  dynamicverse-(?P<name>\w+\.json): \|\n(?P<body>(?:    .*\n|\n)+)",
        shorten,
        text,
        flags=re.M,
    )


def one(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The only manifest of a kind (and name)."""
    found = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} manifests of kind {kind}"
    return found[0]


def notes(chart: str, folder: Path, settings: Sequence[str] = ()) -> str:
    """What NOTES.txt says; `helm template` leaves it out, so a copy has it in a manifest."""
    copy = Path(shutil.copytree(CHARTS[chart], folder / chart))
    text = (copy / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}")
    manifest = (
        "kind: Notes\nmetadata: {name: notes}\ntext: |\n  {{ include `notes` . | nindent 2 }}"
    )
    (copy / "templates" / "notes.yaml").write_text(manifest)
    return str(one(documents(_template(copy, None, settings).stdout), "Notes")["text"])


def values_files(chart: str) -> list[Path]:
    """Every values file that has its render beside it."""
    return sorted(CHARTS[chart].glob("*/values-*.yaml"))


def output(values: Path) -> Path:
    """Where the render of a values file lies."""
    return values.with_name(values.name.replace("values-", "output-", 1))


def main() -> int:
    for chart in CHARTS:
        for values in values_files(chart):
            done = template(chart, values)
            if done.returncode != 0:
                print(f"{values}: {done.stderr}", file=sys.stderr)
                return 1
            header = f"# What {values.name} makes; written by `python tests/charts.py`.\n"
            shown = _without_dashboards(done.stdout)
            body = "\n".join(line.rstrip() for line in shown.splitlines())
            output(values).write_text(header + body + "\n", "utf-8")
            print(output(values).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
