"""Paths and names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicverse import stages
from dynamicverse.scene import ARTIFACTS, MAX_NAME, Scene, sanitise


@given(st.text())
def test_any_text_becomes_a_safe_name(text: str) -> None:
    name = sanitise(text)
    assert 0 < len(name) <= MAX_NAME
    assert PurePosixPath(name).name == name
    assert not name.startswith((".", "-"))
    assert sanitise(name) == name


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("my clip (1)", "my_clip_1"),
        ("Grün", "Grun"),
        ("", "scene"),
        ("..", "scene"),
    ],
)
def test_known_names(raw: str, safe: str) -> None:
    assert sanitise(raw) == safe


def test_a_scene_refuses_names_that_could_leave_the_tree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a sanitised name"):
        Scene(tmp_path, "data", "../x")


def test_documented_paths(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "set", "clip")
    expected = {
        scene.rgb(0): "set/clip/rgb/00001.jpg",
        scene.key_frame(12): "key_frames/set/clip/frame_00012.jpg",
        scene.mask(0): "set/clip/qwen/Annotations/frame_00000.png",
        scene.flow(0, 1): "set/clip/dynamicBA/flow/00001_00002.png",
        scene.flow(1, 0): "set/clip/dynamicBA/flow/00002_00001.png",
        scene.depth(0): "set/clip/dynamicBA/depth/00001.exr",
        scene.fused: "set/clip/dynamicBA/fused_4d.npz",
        scene.dynamic_objects: "set/clip/analysis/dynamic_objects_clip.json",
        scene.log: "set/clip/processing_log_clip.log",
        scene.manifest("tracks"): "set/clip/.dynamicverse/tracks.json",
    }
    for path, relative in expected.items():
        assert path == tmp_path / relative


def test_every_artifact_has_a_stage_and_finds_its_files(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "set", "clip")
    assert {a.stage for a in ARTIFACTS.values()} == set(stages.NAMES)
    samples = {
        "scene_json": scene.scene_json, "rgb": scene.rgb(3), "video": scene.video,
        "key_frames": scene.key_frame(3), "flow": scene.flow(1, 2),
        "analysis": scene.dynamic_objects, "motion": scene.motion(1), "masks": scene.mask(1),
        "segmentation": scene.segmentation_frame("overlay", 2), "tracks": scene.tracks,
        "depth_prior": scene.depth_prior(1), "cameras": scene.poses, "depth": scene.depth(1),
        "fused": scene.fused, "captions": scene.object_captions, "report": scene.report,
    }  # fmt: skip
    assert set(samples) == set(ARTIFACTS)
    for path in samples.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for artifact, path in samples.items():
        assert scene.files(artifact) == [path]
