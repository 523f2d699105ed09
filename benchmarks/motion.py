"""What moves, and tracks, in the embedded preset: real clips and rendered ones, focal unknown.

Five tables:

- DAVIS: J and F of all instances together (`davis2016`); targets: mean J 0.65, no sequence
  under 0.30, mean F 0.60;
- several objects, rendered: J and F of matched instances (`davis2017-unsupervised`), targets
  0.75 for J and 0.1 id switches an object and clip;
- nothing moves: per cent of the pixels that are foreground; targets 0.5 for a rendered static
  scene and a camera that turns, 1 for `hololens`;
- tracks: TAP-Vid (`first`) at the tracker's own points on rendered clips of every kind, targets
  δ_avg 0.80 and occlusion accuracy 0.85; on `hololens` the distance to where depth and poses say
  after 8 frames, targets 1.5 px (median) and 80 % survival. The poses given there are wrong by
  more than that (`given px` is what perfect tracks would be off), so the target is for `median
  px`, by poses refined by SIFT matches and depth; `raw px` is by the poses as given;
- speed: frames a second of analysis + segmentation + tracks, target 2, and of keyframes (flow
  both ways), target 12, on two cores and 854×480.

A last table says which of the targets are met.

    python benchmarks/motion.py ../shared/data --out build/bench-motion
    python benchmarks/motion.py ../shared/data --out build/bench-motion --only dog,orbit-0
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rendered_clips import Row, render, run, save, seconds, show

from dynamicverse.evaluation import files
from dynamicverse.evaluation.reference_cameras import disagreement, refined_cameras
from dynamicverse.evaluation.regions import mask_scores
from dynamicverse.evaluation.reprojection import reprojection_scores
from dynamicverse.evaluation.tracking import held, track_scores
from dynamicverse.formats import images, tracks
from dynamicverse.scene import Scene
from dynamicverse.synthetic.scenes import Recipe, make_world
from dynamicverse.synthetic.truth import Truth
from dynamicverse.synthetic.writer import clip_name, read_recipe

STAGES = "ingest,keyframes,analysis,segmentation,tracks"
SIZE = (854, 480)
FRAMES = 60
SEVERAL = (
    Recipe("orbit", 0, FRAMES, SIZE),
    Recipe("orbit", 1, FRAMES, SIZE),
    Recipe("walk", 0, FRAMES, SIZE),
    Recipe("walk", 1, FRAMES, SIZE, objects=3),
    Recipe("fast", 0, FRAMES, SIZE),
    Recipe("static", 0, FRAMES, SIZE),
)
TRACKED = tuple(
    Recipe(kind, 0, FRAMES, SIZE) for kind in ("dolly", "articulated", "deforming", "plain", "zoom")
)
NOTHING = (
    Recipe("walk", 0, FRAMES, SIZE, objects=0),
    Recipe("dolly", 0, FRAMES, SIZE, objects=0),
    Recipe("rotation", 0, FRAMES, SIZE, objects=0),
    Recipe("static", 0, FRAMES, SIZE, objects=0),
)
TABLES = {
    "davis": ("clip", "J", "F", "objects"),
    "several objects": ("clip", "J", "F", "true", "found", "switches"),
    "nothing moves": ("clip", "foreground %", "objects"),
    "tracks": (
        "clip", "delta_avg", "AJ", "OA", "tracks", "median px", "survival", "raw px", "given px",
    ),
    "speed": ("clip", "frames", "frames/s", "keyframes/s"),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What a column should be: the mean, least or largest of its clips at least or at most
    `limit`. hololens: of that clip alone, of all but it, or (None) of all."""

    table: str
    column: str
    of: str
    limit: float
    least: bool = True
    hololens: bool | None = None


OF = {"mean": np.mean, "least": np.min, "largest": np.max}
TARGETS = (
    Target("davis", "J", "mean", 0.65),
    Target("davis", "J", "least", 0.30),
    Target("davis", "F", "mean", 0.60),
    Target("several objects", "J", "mean", 0.75),
    Target("several objects", "switches", "mean", 0.1, least=False),
    Target("nothing moves", "foreground %", "largest", 0.5, least=False, hololens=False),
    Target("nothing moves", "foreground %", "largest", 1.0, least=False, hololens=True),
    Target("tracks", "delta_avg", "mean", 0.80),
    Target("tracks", "OA", "mean", 0.85),
    Target("tracks", "median px", "mean", 1.5, least=False),
    Target("tracks", "survival", "mean", 0.80),
    Target("speed", "frames/s", "mean", 2.0),
    Target("speed", "keyframes/s", "mean", 12.0),
)


@dataclass(frozen=True)
class Clip:
    """A clip, and which tables it has a row in."""

    name: str
    dataset: str
    source: Callable[[], Path]
    rows: Callable[[Scene], Iterator[tuple[str, Row]]]


def clips(data: Path, out: Path) -> Iterator[Clip]:
    """Every clip of the benchmark; a rendered one is rendered when its source is asked for."""
    for folder in sorted((data / "davis").glob("*")):
        yield Clip(folder.name, "davis", lambda f=folder: f, lambda s, f=folder: _davis(s, f))
    for recipe in (*SEVERAL, *NOTHING):
        yield Clip(
            clip_name(recipe),
            "clips",
            lambda r=recipe: render(out, r).clip,
            lambda s, r=recipe: _rendered(s, out, r),
        )
    for recipe in TRACKED:
        yield Clip(
            clip_name(recipe),
            "clips",
            lambda r=recipe: render(out, r).clip,
            lambda s, r=recipe: iter([("tracks", _tap_vid(s, r))]),
        )
    hololens = data / "hololens"
    if hololens.is_dir():
        yield Clip("hololens", "hololens", lambda: hololens, lambda s: _hololens(s, hololens))


def _davis(scene: Scene, folder: Path) -> Iterator[tuple[str, Row]]:
    found, truth = files.read_masks(scene.folder), files.read_masks(folder / "masks")
    scores = mask_scores("davis2016", found, truth)
    objects = len({int(i) for m in found for i in np.unique(m)} - {0})
    yield "davis", {"J": scores.j, "F": scores.f, "objects": objects}


def _rendered(scene: Scene, out: Path, recipe: Recipe) -> Iterator[tuple[str, Row]]:
    layout = render(out, recipe)
    found, truth = (files.read_masks(s.folder) for s in (scene, layout.scene))
    if recipe in NOTHING:
        yield "nothing moves", _foreground(found)
    else:
        scores = mask_scores("davis2017-unsupervised", found, truth)
        assert scores.id_switches is not None
        yield (
            "several objects",
            {
                "J": scores.j,
                "F": scores.f,
                "true": scores.instances,
                "found": scores.estimated,
                "switches": scores.id_switches / scores.instances,
            },
        )
    yield "tracks", _tap_vid(scene, read_recipe(layout.recipe))


def _tap_vid(scene: Scene, recipe: Recipe) -> Row:
    ours = tracks.read(scene.tracks)
    query_N = ours.query_frame_N
    starts_N2 = ours.tracks_FN2[query_N, np.arange(len(query_N))]
    exact = Truth(make_world(recipe)).follow(starts_N2, query_N)
    scores = track_scores(
        "first",
        held(ours.tracks_FN2, ours.visibility_FN),
        ours.visibility_FN,
        exact.tracks_FN2,
        exact.visibility_FN,
        query_N,
        ours.size,
    )
    return {
        "delta_avg": scores.delta_avg,
        "AJ": scores.average_jaccard,
        "OA": scores.occlusion_accuracy,
        "tracks": scores.tracks,
    }


def _hololens(scene: Scene, folder: Path) -> Iterator[tuple[str, Row]]:
    yield "nothing moves", _foreground(files.read_masks(scene.folder))
    ours, K = tracks.read(scene.tracks), np.loadtxt(folder / "K.txt")
    cameras = files.read_cameras(folder / "poses.txt")
    depth = [d for d in files.read_depth(folder / "depth") if d is not None]
    refined = refined_cameras(_picture(folder), depth.__getitem__, cameras.c2w_F44, K)
    seen, given = (ours.tracks_FN2, ours.visibility_FN), cameras.c2w_F44
    scores = reprojection_scores(*seen, refined, K, depth.__getitem__)
    raw = reprojection_scores(*seen, given, K, depth.__getitem__)
    yield (
        "tracks",
        {
            "median px": scores.median_px,
            "survival": scores.survival,
            "raw px": raw.median_px,
            "given px": disagreement(*seen, given, refined, K, depth.__getitem__),
        },
    )


def _picture(folder: Path) -> Callable[[int], npt.NDArray[np.uint8]]:
    """Grey frames of a folder with rgb/."""
    paths = sorted((folder / "rgb").iterdir())
    return lambda frame: np.asarray(
        cv2.cvtColor(images.read_rgb(paths[frame]), cv2.COLOR_RGB2GRAY), np.uint8
    )


def _foreground(found: list[files.Ids]) -> Row:
    objects = {int(i) for m in found for i in np.unique(m)} - {0}
    share = float(np.mean([np.mean(m > 0) for m in found]))
    return {"foreground %": 100 * share, "objects": len(objects)}


def measure(clip: Clip, out: Path) -> dict[str, Row]:
    """Run a clip; its row in each of the tables that it belongs to."""
    options = ("--stages", STAGES, "--set", "segmentation.visuals=false")
    found = run(clip.source(), out, *options, dataset=clip.dataset)
    if "frames" not in found:
        return {"failed": {"clip": clip.name, "status": found["status"]}}
    scene = Scene(out, clip.dataset, found["name"])
    rows = {table: {"clip": clip.name, **row} for table, row in clip.rows(scene)}
    frames = found["frames"]
    rows["speed"] = {
        "clip": clip.name,
        "frames": frames,
        "frames/s": frames / seconds(scene, "analysis", "segmentation", "tracks"),
        "keyframes/s": frames / seconds(scene, "keyframes"),
    }
    return rows


def mean(rows: list[Row]) -> Row:
    """Means over the clips that have a value."""
    found: Row = {"clip": "mean"}
    for key in {k for row in rows for k in row} - {"clip"}:
        found[key] = float(np.mean([row[key] for row in rows if key in row]))
    return found


def verdicts(tables: dict[str, list[Row]]) -> list[Row]:
    """Every target that something was measured for, and whether it is met."""
    found = []
    for target in TARGETS:
        values = [
            row[target.column]
            for row in tables[target.table]
            if target.column in row and target.hololens in (None, row["clip"] == "hololens")
        ]
        if not values:
            continue
        value = float(OF[target.of](values))
        met = value >= target.limit if target.least else value <= target.limit
        where = {None: "", True: ", hololens", False: ", rendered"}[target.hololens]
        found.append(
            {
                "table": target.table + where,
                "what": f"{target.of} {target.column}",
                "measured": value,
                "target": f"{'≥' if target.least else '≤'} {target.limit:g}",
                "met": "yes" if met else "NO",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with the real clips")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and results")
    parser.add_argument("--only", help="names of clips, separated by commas")
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) if arguments.only else None
    tables: dict[str, list[Row]] = {name: [] for name in (*TABLES, "failed")}
    for clip in clips(arguments.data, arguments.out):
        if only is None or clip.name in only:
            for table, row in measure(clip, arguments.out / "results").items():
                tables[table].append(row)
                print(table, end=": ")
                show([row], tuple(row))
    for name, columns in TABLES.items():
        if tables[name]:
            print(f"\n{name}")
            show([*tables[name], mean(tables[name])], columns)
    print("\ntargets")
    show(verdicts(tables), ("table", "what", "measured", "target", "met"))
    for row in tables["failed"]:
        print(f"failed: {row['clip']}: {row['status']}")
    save(arguments.out / "motion.json", tables)


if __name__ == "__main__":
    main()
