"""The whole engine on rendered clips with exact truth, focal length unknown.

Twelve clips of 60 frames through `dynamicverse run` (its own flow, masks and tracks; no prior).
Ten of them have parallax and make the medians; `rotation` and `static` show what is said where
depth cannot be known. Columns, and the targets of their medians:

- ATE %: RMSE of the camera centres after Sim(3) over the length of the path (`monst3r-pose`),
  target 0.2; RPE °, RPE %: step errors in degrees, and in per cent of the mean true step;
- focal %: mean error of the focal length over frames, target 1; focal σ: the same in standard
  deviations that the engine gives itself (calibrated: 19 of 20 clips below 2); in 95 %: per cent
  of the unknowns of the poses whose truth is in the 95 % interval, target 90 to 99 (their mean);
- AbsRel: depth of static pixels after one median scale (`one-scale`), target 0.03; cover: share
  of them that have depth; AbsRel c: the same with the scale of the cameras, so that cameras
  and depth that disagree in scale show;
- turn °: mean error of the orientations of rigid objects (of the root of articulated ones),
  target 2; dyn %: mean error of the depth of moving points, target 3; dyn cover: share of the
  pixels of what moves that have a depth (objects whose distance cannot be known have none);
- J: instances matched (`davis2017-unsupervised`); seconds: all stages, and the engine alone.

    python benchmarks/engine.py --out build/bench-engine
    python benchmarks/engine.py --out build/bench-engine --only walk-0,static-0 --frames 30
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rendered_clips import Row, render, run, save, seconds, show

from dynamicverse.evaluation import files
from dynamicverse.evaluation.cameras import focal_scores, pose_scores
from dynamicverse.evaluation.depth import depth_scores
from dynamicverse.evaluation.moving import depth_errors, rotation_errors
from dynamicverse.evaluation.regions import instance_matches, mask_scores
from dynamicverse.formats import fused, poses
from dynamicverse.geometry.alignment import Similarity, umeyama
from dynamicverse.geometry.lie import so3_log
from dynamicverse.scene import Scene
from dynamicverse.synthetic.scenes import Kind, Recipe
from dynamicverse.synthetic.writer import DATASET, Layout, clip_name, read_objects

CLIPS: tuple[tuple[Kind, int], ...] = (
    ("walk", 0), ("walk", 1), ("orbit", 0), ("orbit", 1), ("dolly", 0),
    ("articulated", 0), ("deforming", 0), ("fast", 0), ("plain", 0), ("zoom", 0),
    ("rotation", 0), ("static", 0),
)  # fmt: skip
STAGES = "ingest,keyframes,analysis,segmentation,tracks,depth,reconstruction"
MEASURES = (
    "ATE %", "RPE °", "RPE %", "focal %", "focal σ", "in 95 %", "AbsRel", "cover", "AbsRel c",
    "turn °", "dyn %", "dyn cover", "J", "seconds", "engine s",
)  # fmt: skip
COLUMNS = ("clip", "status", "cameras", *MEASURES)
TARGETS = {
    "ATE %": 0.2, "focal %": 1.0, "in 95 %": "90–99", "AbsRel": 0.03, "turn °": 2.0, "dyn %": 3.0,
}  # fmt: skip
INTERVAL = 1.96  # standard deviations to either side that hold 95 %


def measure(layout: Layout, out: Path) -> Row:
    """Run a clip and compare everything that came out with the truth."""
    found = run(layout.clip, out, "--stages", STAGES, "--set", "segmentation.visuals=false")
    row: Row = {"clip": layout.name, "status": found["status"], "seconds": found.get("seconds")}
    if "registered" not in found:
        return row
    scene = Scene(out, DATASET, layout.name)
    row["cameras"] = f"{found['registered']}/{found['frames']}"
    row["engine s"] = seconds(scene, "reconstruction")
    row["J"] = mask_scores("davis2017-unsupervised", *_masks(scene, layout)).j
    row |= _cameras(scene, layout)
    to_truth = _alignment(scene, layout)
    if to_truth is not None:
        row |= _depth(scene, layout, to_truth) | _objects(scene, layout, to_truth)
    return row


def _masks(scene: Scene, layout: Layout) -> tuple[list[files.Ids], list[files.Ids]]:
    return files.read_masks(scene.folder), files.read_masks(layout.scene.folder)


def _cameras(scene: Scene, layout: Layout) -> Row:
    estimate, truth = poses.read(scene.poses), poses.read(layout.scene.poses)
    focals = (c.K_F33[:, 0, 0] for c in (estimate, truth))
    row: Row = {"focal %": 100 * focal_scores(*focals).rfe}
    sigma = estimate.focal_sigma_F
    if sigma is not None and np.isfinite(sigma).all():
        wrong = np.abs(estimate.K_F33[:, 0, 0] - truth.K_F33[:, 0, 0])
        row["focal σ"] = float(np.mean(wrong / sigma))
    centres = truth.c2w_F44[:, :3, 3]
    if estimate.registered_F.sum() < 3 or estimate.scale == "unobservable":
        return row
    error = pose_scores("monst3r-pose", estimate.c2w_F44, truth.c2w_F44)
    step = float(np.mean(np.linalg.norm(np.diff(centres, axis=0), axis=1)))
    row["RPE °"] = error.rpe_rot_deg
    row["in 95 %"] = _in_intervals(estimate, truth)
    if error.ate_of_path is not None and error.rpe_trans is not None:
        row["ATE %"], row["RPE %"] = 100 * error.ate_of_path, 100 * error.rpe_trans / step
    return row


def _in_intervals(estimate: poses.Poses, truth: poses.Poses) -> float | None:
    """Per cent of the unknowns of the poses whose truth is in the stated 95 % interval.

    As `pose_sigma` is meant: relative to the first registered camera, in the scale in which the
    coordinate that was held is right.
    """
    if estimate.pose_sigma_F6 is None:
        return None
    known = np.flatnonzero(estimate.registered_F)
    sigma_F6 = estimate.pose_sigma_F6[known]
    found, true = (np.linalg.inv(p.c2w_F44[known]) @ p.c2w_F44[known[0]] for p in (estimate, truth))
    turn_F33 = found[:, :3, :3] @ np.swapaxes(true[:, :3, :3], 1, 2)
    carried_F3 = np.einsum("fij,fj->fi", turn_F33, true[:, :3, 3])
    all_held = np.argwhere(sigma_F6[1:, 3:] == 0)
    if not len(all_held):  # the scale is given by a prior
        return None
    held = tuple(all_held[0] + [1, 0])
    scale = found[:, :3, 3][held] / carried_F3[held]
    error_F6 = np.hstack((so3_log(turn_F33), found[:, :3, 3] - scale * carried_F3))
    free = sigma_F6 > 0
    return 100 * float(np.mean(np.abs(error_F6[free]) < INTERVAL * sigma_F6[free]))


def _alignment(scene: Scene, layout: Layout) -> Similarity | None:
    """The similarity from the estimated to the true world, None where there is none."""
    estimate, truth = poses.read(scene.poses), poses.read(layout.scene.poses)
    known = estimate.registered_F
    if known.sum() < 3 or estimate.scale == "unobservable":
        return None
    return umeyama(estimate.c2w_F44[known, :3, 3], truth.c2w_F44[known, :3, 3])


def _depth(scene: Scene, layout: Layout, to_truth: Similarity) -> Row:
    """Depth of the static pixels."""
    if not scene.files("depth"):
        return {}
    moving = files.read_masks(layout.scene.folder)
    truth = [np.where(m > 0, 0, d) for m, d in zip(moving, _true_depth(layout), strict=True)]
    found = [
        np.zeros_like(t) if d is None else d
        for d, t in zip(files.read_depth(scene.folder), truth, strict=True)
    ]
    scaled = [to_truth.scale * d for d in found]
    own = depth_scores("one-scale", list(zip(found, truth, strict=True)))
    given = depth_scores("metric", list(zip(scaled, truth, strict=True)))
    return {"AbsRel": own.absrel, "cover": own.coverage, "AbsRel c": given.absrel}


def _objects(scene: Scene, layout: Layout, to_truth: Similarity) -> Row:
    """Orientations of rigid objects and depth of moving points."""
    scene4d, truth = fused.read(scene.fused, with_rgbs=False), read_objects(layout.objects)
    moving, errors = files.read_masks(layout.scene.folder), []
    cameras = poses.read(layout.scene.poses)
    for frame, depth_HW in enumerate(_true_depth(layout)):
        own = slice(*scene4d.dyn_offsets[frame : frame + 2])
        points = scene4d.dyn_points[own][scene4d.dyn_instance[own] > 0]
        camera = (cameras.c2w_F44[frame], cameras.K_F33[frame])
        errors.append(depth_errors(points, to_truth, *camera, depth_HW, moving[frame] > 0))
    matches, turns = instance_matches(*_masks(scene, layout)), []
    for index, instance in enumerate(truth.object_ids_M):
        row = np.flatnonzero(scene4d.object_ids == matches.get(int(instance), -1))
        rigid = truth.object_kind_M[index] != "deforming"
        for estimate_F44 in scene4d.object_poses[row] if rigid else ():
            if np.isfinite(estimate_F44[:, 0, 0]).sum() >= 2:
                turn_F = rotation_errors(estimate_F44, truth.object_poses_MF44[index], to_truth)
                turns.append(float(np.nanmean(turn_F)))
    all_errors = np.concatenate(errors)
    return {
        "turn °": float(np.mean(turns)) if turns else None,
        "dyn %": 100 * float(all_errors.mean()) if len(all_errors) else None,
        "dyn median %": 100 * float(np.median(all_errors)) if len(all_errors) else None,
        "dyn cover": _cover(scene, moving),
        "objects with poses": len(turns),
    }


def _cover(scene: Scene, moving: list[files.Ids]) -> float:
    """The share of the pixels of what moves whose depth is that of an object."""
    known = total = 0
    found = zip(moving, files.read_masks(scene.folder), files.read_depth(scene.folder), strict=True)
    for truth_HW, ids_HW, depth_HW in found:
        total += int((truth_HW > 0).sum())
        if depth_HW is not None:
            known += int(((truth_HW > 0) & (ids_HW > 0) & (depth_HW > 0)).sum())
    return known / max(total, 1)


def _true_depth(layout: Layout) -> list[files.Depth]:
    return [d for d in files.read_depth(layout.scene.folder) if d is not None]


def median(rows: list[Row]) -> Row:
    """Medians of the clips with parallax, each over the clips that have a value; of shares in
    intervals the mean."""
    rows = [r for r in rows if r["clip"].split("-")[0] not in ("rotation", "static")]
    found: Row = {"clip": "median", "status": f"{len(rows)} clips"}
    for measure in MEASURES:
        values = [r[measure] for r in rows if r.get(measure) is not None]
        middle = np.mean if measure == "in 95 %" else np.median
        found[measure] = float(middle(values)) if values else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and results")
    parser.add_argument("--only", help="names of clips, separated by commas")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", default="640x384")
    arguments = parser.parse_args()
    width, height = (int(v) for v in arguments.size.split("x"))
    recipes = [Recipe(kind, seed, arguments.frames, (width, height)) for kind, seed in CLIPS]
    if arguments.only:
        wanted = set(arguments.only.split(","))
        recipes = [r for r in recipes if clip_name(r) in wanted]
    rows = []
    for recipe in recipes:
        rows.append(measure(render(arguments.out, recipe), arguments.out / "results"))
        show(rows[-1:], COLUMNS)
    summary = median(rows)
    print()
    show([*rows, summary, {"clip": "target", "status": "", **TARGETS}], COLUMNS)
    save(arguments.out / "engine.json", {"clips": rows, "median": summary, "targets": TARGETS})


if __name__ == "__main__":
    main()
