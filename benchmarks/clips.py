"""Run the embedded pipeline on real clips and compare with what is known of them.

Prints one row a clip: frames, seconds, objects, registered cameras; where there is truth, the
absolute trajectory error (Sim(3)-aligned RMSE over the length of the true path) and the
focal error; where there are masks, the mean intersection over union of what moves (all
instances together, first and last frame left out).

    python benchmarks/clips.py ../shared/data --out build/clips
    python benchmarks/clips.py ../shared/data --out build/clips --only hololens,kitti
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamicverse.evaluation import files
from dynamicverse.evaluation.cameras import focal_scores, pose_scores
from dynamicverse.evaluation.regions import mask_scores
from dynamicverse.formats import poses, reconstruction_info
from dynamicverse.scene import Scene


@dataclass(frozen=True)
class Clip:
    """A real clip and what is known of it."""

    dataset: str
    source: Path
    poses: Path | None = None
    focal: float | None = None
    masks: Path | None = None


def clips(data: Path) -> Iterator[Clip]:
    """The clips in the folder of real data."""
    for video in sorted((data / "videos").glob("*.mp4")):
        yield Clip("videos", video)
    for folder in sorted((data / "davis").glob("*")):
        yield Clip("davis", folder, masks=folder / "masks")
    yield Clip("frames", data / "frames" / "demo")
    hololens = data / "hololens"
    focal = float(np.loadtxt(hololens / "K.txt")[0, 0])
    yield Clip("hololens", hololens, hololens / "poses.txt", focal)
    kitti = data / "kitti" / "sequence_1"
    focal = float(np.loadtxt(kitti / "calib.txt").reshape(-1)[0])
    yield Clip("kitti", kitti / "image_l", kitti / "poses.txt", focal)


def pose_error(scene: Scene, clip: Clip) -> tuple[float | None, float | None]:
    """ATE over path length, and relative focal error; both in per cent."""
    if clip.poses is None or clip.focal is None:
        return None, None
    found = poses.read(scene.poses)
    if found.registered_F.sum() < 3:
        return None, None
    truth_F44 = files.read_cameras(clip.poses).c2w_F44
    error = pose_scores("monst3r-pose", found.c2w_F44, truth_F44)
    focal = reconstruction_info.read(scene.reconstruction_json).focal_px
    wrong = None if focal is None else 100 * focal_scores([focal], [clip.focal]).rfe
    return None if error.ate_of_path is None else 100 * error.ate_of_path, wrong


def mask_overlap(scene: Scene, clip: Clip) -> float | None:
    """Mean intersection over union (J) of all instances together."""
    if clip.masks is None:
        return None
    truth = files.read_masks(clip.masks)
    return mask_scores("davis2016", files.read_masks(scene.folder), truth).j


def run(clip: Clip, out: Path, workers: int) -> list[dict[str, object]]:
    """Run one clip through the program; one row for each scene that it gave."""
    command = [sys.executable, "-m", "dynamicverse", "run", str(clip.source), "--json"]
    command += ["--out", str(out), "--dataset", clip.dataset, "--workers", str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        return [{"clip": clip.source.name, "status": f"exit {done.returncode}"}]
    summary = json.loads(done.stdout)
    rows: list[dict[str, object]] = []
    for found in summary["scenes"]:
        scene = Scene(out, clip.dataset, found["name"])
        row = {
            "clip": f"{clip.dataset}/{found['name']}",
            "frames": found["frames"],
            "seconds": round(found["seconds"], 1),
            "frames/s": round(found["frames_per_second"], 2),
            "objects": found["objects"],
            "registered": found["registered"],
            "status": "rejected" if found["rejected"] else found["status"] or "failed",
        }
        if found["registered"]:
            row["ATE %"], row["focal %"] = pose_error(scene, clip)
        if found["objects"] is not None:
            row["J"] = mask_overlap(scene, clip)
        rows.append(row)
    for failed in summary["failed"]:
        rows.append({"clip": failed["name"], "status": f"{failed['stage']}: {failed['reason']}"})
    return rows


def show(rows: list[dict[str, object]]) -> None:
    """Print the rows as a table."""
    columns = ["clip", "frames", "seconds", "frames/s", "objects", "registered", "status"]
    columns += ["ATE %", "focal %", "J"]
    widths = [34, 6, 8, 8, 7, 10, 16, 7, 7, 6]
    print("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)))
    for row in rows:
        cells = [row.get(c) for c in columns]
        texts = [
            "–" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells
        ]
        print("  ".join(t.ljust(w) for t, w in zip(texts, widths, strict=True)))
    overlaps = [float(str(r["J"])) for r in rows if r.get("J") is not None]
    if overlaps:
        print(f"mean J over {len(overlaps)} clips: {np.mean(overlaps):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with the real clips")
    parser.add_argument("--out", type=Path, required=True, help="output root")
    parser.add_argument("--only", help="datasets or clip names, separated by commas")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) if arguments.only else None
    rows: list[dict[str, object]] = []
    for clip in clips(arguments.data):
        if only is None or only & {clip.dataset, clip.source.name, clip.source.stem}:
            rows += run(clip, arguments.out, arguments.workers)
            show(rows[-1:])
    print()
    show(rows)


if __name__ == "__main__":
    main()
