"""Do the masks help the reconstruction? The same clips with them and without.

Composites: an object of DAVIS, cut out with its true mask, is pasted into frames of `hololens`,
a real walk through a building where nothing moves and the cameras are known; it crosses the
picture while it goes on walking. And two rendered clips. Each runs twice through the embedded
preset: once as it is, once told to find nothing (`analysis.min_support=1`). Target: the
cameras are never worse with masks. Columns:

- ATE %: RMSE of the camera centres after Sim(3) over the length of the path, with masks and
  without; cameras: how many of the frames are registered;
- J: all instances together against the pasted or rendered masks;
- worse: is the error with masks more than 5 % and 0.02 % of the path above that without, or
  are fewer frames registered?

    python benchmarks/composites.py ../shared/data --out build/bench-composites
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rendered_clips import Row, render, run, save, show

from dynamicverse.evaluation import files
from dynamicverse.evaluation.cameras import pose_scores
from dynamicverse.evaluation.regions import mask_scores
from dynamicverse.formats import images, poses
from dynamicverse.geometry.lie import Array
from dynamicverse.scene import Scene
from dynamicverse.synthetic.scenes import Recipe
from dynamicverse.synthetic.writer import clip_name

STAGES = "ingest,keyframes,analysis,segmentation,tracks,depth,reconstruction"
FRAMES, FIRST = 36, 40  # of hololens; the walk is steady there
HEIGHT = 0.45  # of the picture that the object's first mask is made to have
PATH = ((0.2, 0.62), (0.8, 0.62))  # of the picture: the object's centre, first and last
OBJECTS = ("dog", "camel")
RENDERED = (Recipe("walk", 0, FRAMES, (640, 384)), Recipe("orbit", 0, FRAMES, (640, 384)))
WITHOUT = ("--set", "analysis.min_support=1.0")
ALLOWED = 1.05, 0.02  # times, and per cent of the path
COLUMNS = ("clip", "ATE % with", "ATE % without", "cameras with", "cameras without", "J", "worse")


@dataclass(frozen=True)
class Clip:
    """A folder of frames (`source`, made when asked for) with true cameras and masks."""

    name: str
    source: Callable[[], Path]
    truth: Callable[[], tuple[Array, list[files.Ids]]]


def clips(data: Path, out: Path) -> Iterator[Clip]:
    for name in OBJECTS:
        folder = out / "composites" / f"hololens-{name}"
        yield Clip(
            folder.name,
            lambda f=folder, n=name: paste(data / "hololens", data / "davis" / n, f),
            lambda f=folder: (_cameras(data / "hololens"), files.read_masks(f / "masks")),
        )
    for recipe in RENDERED:
        yield Clip(
            clip_name(recipe),
            lambda r=recipe: render(out, r).clip,
            lambda r=recipe: _rendered_truth(out, r),
        )


def _cameras(folder: Path) -> Array:
    return files.read_cameras(folder / "poses.txt").c2w_F44[FIRST : FIRST + FRAMES]


def _rendered_truth(out: Path, recipe: Recipe) -> tuple[Array, list[files.Ids]]:
    scene = render(out, recipe).scene
    return poses.read(scene.poses).c2w_F44, files.read_masks(scene.folder)


def paste(background: Path, thing: Path, folder: Path) -> Path:
    """Write the frames (`rgb/`) and masks (`masks/`) of a composite; returns its folder."""
    rooms = sorted((background / "rgb").iterdir())[FIRST : FIRST + FRAMES]
    pictures = sorted((thing / "rgb").iterdir())[:FRAMES]
    cuts = files.read_masks(thing / "masks")[:FRAMES]
    scale = HEIGHT * images.read_rgb(rooms[0]).shape[0] / _box(cuts[0])[3]
    for name in ("rgb", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k, (room, picture, cut) in enumerate(zip(rooms, pictures, cuts, strict=True)):
        rgb_HW3 = images.read_rgb(room)
        size = rgb_HW3.shape[1::-1]
        x, y, width, height = _box(cut)
        along = k / (len(rooms) - 1)
        centre = ((1 - along) * np.array(PATH[0]) + along * np.array(PATH[1])) * size
        shift = centre - scale * np.array([x + width / 2, y + height / 2])
        place_23 = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        moved_HW3 = cv2.warpAffine(images.read_rgb(picture), place_23, size, flags=cv2.INTER_AREA)
        inside = (cut > 0).astype(np.float32)
        alpha_HW = cv2.warpAffine(cv2.GaussianBlur(inside, (0, 0), 1), place_23, size)[..., None]
        mixed_HW3 = np.rint(alpha_HW * moved_HW3 + (1 - alpha_HW) * rgb_HW3).astype(np.uint8)
        cv2.imwrite(str(folder / "rgb" / f"{k:05d}.png"), mixed_HW3[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{k:05d}.png"), np.uint8(255 * (alpha_HW > 0.5)))
    return folder


def _box(mask_HW: files.Ids) -> tuple[int, int, int, int]:
    """x, y, width, height."""
    x, y, width, height = cv2.boundingRect((mask_HW > 0).astype(np.uint8))
    return x, y, width, height


def measure(clip: Clip, out: Path) -> Row:
    """A clip with and without masks."""
    source, row = clip.source(), {"clip": clip.name}
    truth_F44, masks = clip.truth()
    for name, options in (("with", ()), ("without", WITHOUT)):
        shared = ("--stages", STAGES, "--set", "segmentation.visuals=false")
        found = run(source, out, *shared, *options, dataset=name)
        if "registered" not in found:
            row[f"cameras {name}"] = found["status"]
            continue
        scene = Scene(out, name, found["name"])
        row |= {f"cameras {name}": found["registered"], f"objects {name}": found["objects"]}
        if found["registered"] >= 3:
            scores = pose_scores("monst3r-pose", poses.read(scene.poses).c2w_F44, truth_F44)
            if scores.ate_of_path is not None:
                row[f"ATE % {name}"] = 100 * scores.ate_of_path
        if name == "with":
            row["J"] = mask_scores("davis2016", files.read_masks(scene.folder), masks).j
    return row | {"worse": _worse(row)}


def _worse(row: Row) -> bool | None:
    """None where a run gave no cameras to compare."""
    with_masks, without = row.get("ATE % with"), row.get("ATE % without")
    if with_masks is None or without is None:
        return None if without is None else True
    fewer = int(row["cameras with"]) < int(row["cameras without"])
    return bool(fewer or with_masks > ALLOWED[0] * without + ALLOWED[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with the real clips")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and results")
    parser.add_argument("--only", help="names of clips, separated by commas")
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) if arguments.only else None
    rows = []
    for clip in clips(arguments.data, arguments.out):
        if only is None or clip.name in only:
            rows.append(measure(clip, arguments.out / "results"))
            show(rows[-1:], COLUMNS)
    print()
    show(rows, COLUMNS)
    save(arguments.out / "composites.json", rows)


if __name__ == "__main__":
    main()
