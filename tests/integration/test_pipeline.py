"""The whole pipeline through the command line, on rendered clips with known content."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from program import ClipMaker, digests, dynamicverse, finished
from rendered import render

from dynamicverse import stages
from dynamicverse.formats import objects, poses, reconstruction_info, scene_info
from dynamicverse.geometry import alignment
from dynamicverse.scene import Scene

SCENE = "room"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, clip: ClipMaker) -> Path:
    """The tree of a room with one moving box, orbiting camera, 16 frames."""
    folder = tmp_path_factory.mktemp("pipeline")
    result = dynamicverse("run", str(clip(SCENE)), "--out", str(folder), "--json")
    assert result.code == 0, result.err
    (scene,) = result.json()["scenes"]
    assert scene["frames"] == 16
    assert result.json()["failed"] == []
    return folder


def test_every_documented_file_is_there(root: Path) -> None:
    scene = Scene(root, "clips", SCENE)
    assert finished(root, SCENE) == set(stages.NAMES)
    paths = [
        scene.video, scene.rgb(0), scene.rgb(15), scene.scene_json, scene.keyframe_info,
        scene.flow(0, 1), scene.flow(15, 14), scene.dynamic_objects, scene.mask(0), scene.mask(15),
        scene.instance_labels, scene.result_summary, scene.segmentation_frame("overlay", 0),
        scene.segmentation_video("overlay"), scene.tracks, scene.poses, scene.reconstruction_json,
        scene.depth(0), scene.fused, scene.captions, scene.object_captions, scene.report, scene.log,
        root / "clips" / "index.html",
    ]  # fmt: skip
    assert [p for p in paths if not p.is_file()] == []


def test_the_tree_is_valid_and_damage_is_found(root: Path) -> None:
    result = dynamicverse("validate", str(root))
    assert result.code == 0, result.out
    assert "0 problems" in result.out
    scene = Scene(root, "clips", SCENE)
    good = scene.tracks.read_bytes()
    try:
        scene.tracks.write_bytes(good[: len(good) // 2])
        result = dynamicverse("validate", str(root))
        assert result.code == 65
        assert "tracks.npz" in result.out
    finally:
        scene.tracks.write_bytes(good)


def test_cameras_are_near_the_truth(root: Path) -> None:
    found = poses.read(Scene(root, "clips", SCENE).poses)
    truth = render(16, (320, 192), "orbit", 1, 0).c2w_F44
    assert found.registered_F.all()
    assert alignment.trajectory_error(found.c2w_F44, truth).ate_of_path < 0.02


def test_a_second_run_does_nothing_and_is_quick(root: Path, clip: ClipMaker) -> None:
    before = digests(root)
    start = children_seconds()
    result = dynamicverse("run", str(clip(SCENE)), "--out", str(root), "--json")
    seconds = children_seconds() - start
    assert result.code == 0
    assert result.json()["counts"] == {"cached": len(stages.NAMES)}
    assert digests(root) == before
    assert seconds < 5  # 1 to 3 s (benchmarks/pipeline.py)


def children_seconds() -> float:
    """CPU time of the processes that have ended: does not depend on what else runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_status_speaks_to_people_and_programs(root: Path) -> None:
    result = dynamicverse("status", str(root))
    assert result.code == 0
    assert "complete" in result.out
    (run,) = dynamicverse("status", str(root), "--json").json()
    assert run["complete"]
    assert {s["stage"] for s in run["stages"]} == set(stages.NAMES)
    assert run["failures"] == {}


def test_a_setting_recomputes_only_what_rests_on_it(root: Path, clip: ClipMaker) -> None:
    result = dynamicverse(
        "run", str(clip(SCENE)), "--out", str(root), "--set", "tracks.grid_size=30", "--json"
    )
    assert result.code == 0
    counts = result.json()["counts"]
    # ingest, keyframes, analysis, segmentation and depth stand; tracks and what reads them do not
    assert counts["cached"] >= 5
    assert counts["done"] == len(stages.NAMES) - counts["cached"]


@pytest.mark.parametrize(
    ("name", "frames", "motion", "moving", "statuses"),
    [
        ("one-frame", 1, "static", 0, {"too_short"}),
        # two neighbouring frames of a slow orbit hardly differ: any status with a reason is right
        (
            "two-frames",
            2,
            "orbit",
            0,
            {"too_short", "full", "failed", "rotation_only", "static_camera"},
        ),
        ("static-camera", 12, "static", 1, {"static_camera"}),
        ("still-life", 12, "static", 0, {"static_camera"}),
        ("rotation", 12, "rotation", 0, {"rotation_only"}),
        ("no-object", 12, "orbit", 0, {"full"}),
    ],
)
def test_degenerate_clips_give_what_can_be_known(
    tmp_path: Path,
    clip: ClipMaker,
    name: str,
    frames: int,
    motion: str,
    moving: int,
    statuses: set[str],
) -> None:
    source = clip(name, frames=frames, motion=motion, objects=moving)
    result = dynamicverse("run", str(source), "--out", str(tmp_path), "--json")
    assert result.code == 0, result.err
    assert result.json()["failed"] == []
    scene = Scene(tmp_path, "clips", name)
    assert finished(tmp_path, name) == set(stages.NAMES)
    info = reconstruction_info.read(scene.reconstruction_json)
    assert info.status in statuses
    if info.status != "full":
        assert info.statements, "a plain statement of what cannot be known"
        assert not scene.depth(0).exists()
    if moving == 0:
        assert objects.read(scene.dynamic_objects).dynamic == []
    assert scene_info.read(scene.scene_json).frame_count == frames
    assert dynamicverse("validate", str(tmp_path)).code == 0
