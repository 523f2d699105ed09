"""The whole pipeline through the command line, on rendered clips with known content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from program import ClipMaker, children_seconds, digests, dynamicverse, finished, within
from rendered import world

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
    result = within("validate", str(root))
    assert result.code == 0, result.out
    assert "0 problems" in result.out
    scene = Scene(root, "clips", SCENE)
    good = scene.tracks.read_bytes()
    try:
        scene.tracks.write_bytes(good[: len(good) // 2])
        result = within("validate", str(root))
        assert result.code == 65
        assert "tracks.npz" in result.out
    finally:
        scene.tracks.write_bytes(good)


def test_cameras_are_near_the_truth(root: Path) -> None:
    found = poses.read(Scene(root, "clips", SCENE).poses)
    truth = world(16, (320, 192), "orbit", 1).c2w_F44
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
    assert seconds < 10  # 1 to 3 s (benchmarks/pipeline.py), more beside other programs


def test_status_speaks_to_people_and_programs(root: Path) -> None:
    result = within("status", str(root))
    assert result.code == 0
    assert "complete" in result.out
    (run,) = within("status", str(root), "--json").json()
    assert run["complete"]
    assert {s["stage"] for s in run["stages"]} == set(stages.NAMES)
    assert run["failures"] == {}


@dataclass(frozen=True)
class Degenerate:
    """A clip of which not everything can be known, and what may be said of its cameras."""

    frames: int
    motion: str
    moving: int
    statuses: set[str]
    size: tuple[int, int] = (160, 96)


DEGENERATE = {
    "one-frame": Degenerate(1, "static", 0, {"too_short"}),
    # two neighbouring frames of a slow orbit hardly differ: any status with a reason is right
    "two-frames": Degenerate(
        2, "orbit", 0, {"too_short", "full", "failed", "rotation_only", "static_camera"}, (320, 192)
    ),
    "static-camera": Degenerate(12, "static", 1, {"static_camera"}),
    "still-life": Degenerate(12, "static", 0, {"static_camera"}),
    "rotation": Degenerate(12, "rotation", 0, {"rotation_only"}),
    "no-object": Degenerate(12, "orbit", 0, {"full"}),
}


@pytest.fixture(scope="module")
def degenerate(tmp_path_factory: pytest.TempPathFactory, clip: ClipMaker) -> Path:
    """The tree of all degenerate clips: one run, as each start costs seconds."""
    folder = tmp_path_factory.mktemp("degenerate")
    sources = [
        str(clip(name, known.frames, known.motion, known.moving, known.size))
        for name, known in DEGENERATE.items()
    ]
    result = dynamicverse("run", *sources, "--out", str(folder), "--json")
    assert result.code == 0, result.err
    assert result.json()["failed"] == []
    return folder


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_clips_give_what_can_be_known(degenerate: Path, name: str) -> None:
    known = DEGENERATE[name]
    scene = Scene(degenerate, "clips", name)
    assert finished(degenerate, name) == set(stages.NAMES)
    info = reconstruction_info.read(scene.reconstruction_json)
    assert info.status in known.statuses
    if info.status != "full":
        assert info.statements, "a plain statement of what cannot be known"
        assert not scene.depth(0).exists()
    if known.moving == 0:
        assert objects.read(scene.dynamic_objects).dynamic == []
    assert scene_info.read(scene.scene_json).frame_count == known.frames


def test_the_tree_of_degenerate_clips_is_valid(degenerate: Path) -> None:
    result = within("validate", str(degenerate))
    assert result.code == 0, result.out


def test_a_setting_recomputes_only_what_rests_on_it(degenerate: Path, clip: ClipMaker) -> None:
    """On a clip whose reconstruction is quick; what is computed again does not depend on it."""
    result = within(
        "run", str(clip("still-life")), "--out", str(degenerate), "--set", "tracks.grid_size=30",
        "--workers", "0", "--json",
    )  # fmt: skip
    assert result.code == 0
    counts = result.json()["counts"]
    # ingest, keyframes, analysis, segmentation and depth stand; tracks and what reads them do not
    assert counts["cached"] >= 5
    assert counts["done"] == len(stages.NAMES) - counts["cached"]
