"""What the benchmarks on rendered clips share: rendering, running, and tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from dynamicverse.formats.manifest import Manifest
from dynamicverse.scene import Scene
from dynamicverse.synthetic.scenes import Recipe
from dynamicverse.synthetic.writer import DATASET, Layout, clip_name, read_recipe, write_clip

Row = dict[str, Any]


def render(out: Path, recipe: Recipe) -> Layout:
    """The clip and its truth, rendered unless they are there."""
    layout = Layout(out, clip_name(recipe))
    if layout.recipe.exists() and read_recipe(layout.recipe) == recipe:
        return layout
    with one_thread():
        return write_clip(out, recipe)


def run(source: Path, out: Path, *options: str, dataset: str = DATASET) -> Row:
    """Run a clip through the program; the summary's entry of its only scene.

    A clip that failed gives {"status": stage and reason}.
    """
    command = [sys.executable, "-m", "dynamicverse", "run", str(source), "--out", str(out)]
    command += ["--dataset", dataset, "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        return {"status": f"exit {done.returncode}"}
    summary = json.loads(done.stdout)
    for failed in summary["failed"]:
        return {"status": f"{failed['stage']}: {failed['reason']}"}
    (scene,) = summary["scenes"]
    return dict(scene)


def seconds(scene: Scene, *stages: str) -> float:
    """How long stages took, by their manifests."""
    manifests = (scene.manifest(stage) for stage in stages)
    return sum(Manifest.model_validate_json(m.read_bytes()).seconds for m in manifests)


def show(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print rows as a table; – where a row has nothing."""
    texts = [[_text(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(t) for t in column) for column in zip(columns, *texts, strict=True)]
    for line in (columns, *texts):
        print("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip())


def save(path: Path, value: Any) -> None:
    """Write the results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"written: {path}")


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: small pictures gain nothing from more."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
