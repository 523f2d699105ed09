"""validate_artifact: a whole scene passes, and every way to break it is found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_values import (
    FRAMES,
    HEIGHT,
    WIDTH,
    captions_value,
    depth_value,
    flow_value,
    fused_value,
    keyframes_value,
    labels_value,
    mask_value,
    poses_value,
    reconstruction_value,
    rgb_value,
    scene_value,
    summary_value,
    tracks_value,
    write_tree,
)

from dynamicverse.errors import ArtifactError, Reason
from dynamicverse.formats import (
    captions,
    depth_exr,
    flow_png,
    fused,
    images,
    keyframe_info,
    labels,
    masks,
    poses,
    reconstruction_info,
    scene_info,
    tracks,
    validate_artifact,
)
from dynamicverse.formats.checks import CHECKS
from dynamicverse.scene import ARTIFACTS, Scene


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_tree(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def scene(whole: Scene, tmp_path: Path) -> Scene:
    shutil.copytree(whole.root, tmp_path / "root")
    return replace(whole, root=tmp_path / "root")


def test_every_artifact_has_a_check() -> None:
    assert set(CHECKS) == set(ARTIFACTS)


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("artifact", sorted(ARTIFACTS))
def test_a_valid_scene_passes(whole: Scene, artifact: str, thorough: bool) -> None:
    validate_artifact(whole, artifact, thorough)


def test_unknown_artifact(whole: Scene) -> None:
    with pytest.raises(ValueError, match="no artifact 'video2'"):
        validate_artifact(whole, "video2")


FILES: dict[str, Callable[[Scene], Path]] = {
    "scene_json": lambda s: s.scene_json,
    "rgb": lambda s: s.rgb(2),
    "video": lambda s: s.video,
    "key_frames": lambda s: s.key_frame(3),
    "flow": lambda s: s.flow(2, 1),
    "analysis": lambda s: s.dynamic_objects,
    "motion": lambda s: s.motion(1),
    "masks": lambda s: s.mask(3),
    "segmentation": lambda s: s.segmentation_frame("overlay", 1),
    "tracks": lambda s: s.tracks,
    "depth_prior": lambda s: s.depth_prior(1),
    "cameras": lambda s: s.poses,
    "depth": lambda s: s.depth(1),
    "fused": lambda s: s.fused,
    "captions": lambda s: s.object_captions,
    "report": lambda s: s.report,
}


@pytest.mark.parametrize("artifact", sorted(set(FILES) - {"motion"}))
def test_a_missing_file(scene: Scene, artifact: str) -> None:
    path = FILES[artifact](scene)
    path.unlink()
    with pytest.raises(ArtifactError) as caught:
        validate_artifact(scene, artifact)
    assert caught.value.reason is Reason.MISSING_ARTIFACT
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("artifact", sorted(FILES))
@pytest.mark.parametrize("size", [0, 7, -2])
def test_a_truncated_file(scene: Scene, artifact: str, size: int) -> None:
    path = FILES[artifact](scene)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError) as caught:
        validate_artifact(scene, artifact)
    assert caught.value.reason is Reason.INVALID_ARTIFACT
    assert str(path) in str(caught.value)


def _retell(**change: object) -> Callable[[Scene], None]:
    value = reconstruction_value().model_copy(update=change)
    return lambda s: reconstruction_info.write(s.reconstruction_json, value)


BREAKS: dict[str, tuple[str, Callable[[Scene], None], str]] = {
    "another scene": (
        "rgb",
        lambda s: scene_info.write(
            s.scene_json, scene_value().model_copy(update={"name": "other"})
        ),
        "is of the scene set/other",
    ),
    "one frame too many": ("rgb", lambda s: images.write_jpeg(s.rgb(4), rgb_value()), "00005.jpg"),
    "a frame of another size": (
        "rgb",
        lambda s: images.write_jpeg(s.rgb(1), rgb_value()[:10]),
        f"{WIDTH}x10, the frames are {WIDTH}x{HEIGHT}",
    ),
    "a text among the frames": ("rgb", lambda s: s.rgb(0).write_text("hello"), "neither"),
    "flow of frames that do not follow": (
        "flow",
        lambda s: flow_png.write(s.flow(0, 2), *flow_value()),
        "00001_00003.png.*does not belong",
    ),
    "flow of another size": (
        "flow",
        lambda s: flow_png.write(s.flow(0, 1), *(a[:, :-1] for a in flow_value())),
        "31x24",
    ),
    "a mask instead of flow": ("flow", lambda s: masks.write(s.flow(0, 1), mask_value()), "16-bit"),
    "a picture instead of a mask": (
        "masks",
        lambda s: images.write_png(s.mask(0), rgb_value()),
        "palette",
    ),
    "too few scores": (
        "key_frames",
        lambda s: keyframe_info.write(
            s.keyframe_info, keyframes_value().model_copy(update={"scores": [1.0] * 4})
        ),
        "4 scores for 4 frames",
    ),
    "an unlisted keyframe": (
        "key_frames",
        lambda s: images.write_jpeg(s.key_frame(1), rgb_value()),
        "frame_00001.jpg.*does not belong",
    ),
    "a motion label of no frame": (
        "motion",
        lambda s: masks.write(s.motion(9), mask_value()),
        "does not belong",
    ),
    "labels without statistics": (
        "segmentation",
        lambda s: labels.write(s.instance_labels, labels.InstanceLabels(instances=[])),
        r"objects \[1\], labels \[\]",
    ),
    "a summary of another clip": (
        "segmentation",
        lambda s: labels.write_summary(
            s.result_summary, summary_value().model_copy(update={"frame_count": 5})
        ),
        "frame_count 5",
    ),
    "a kind of picture for some frames only": (
        "segmentation",
        lambda s: s.segmentation_frame("masks", 2).unlink(),
        "no such file",
    ),
    "an unknown kind of picture": (
        "segmentation",
        lambda s: images.write_jpeg(s.folder / "segmentation/frames/x/1.jpg", rgb_value()),
        "does not belong",
    ),
    "tracks of a shorter clip": (
        "tracks",
        lambda s: tracks.write(s.tracks, tracks_value(3)),
        "3 frames",
    ),
    "a prior without intrinsics": (
        "depth_prior",
        lambda s: s.prior_intrinsics.unlink(),
        "no such file",
    ),
    "poses of a shorter clip": (
        "cameras",
        lambda s: poses.write(s.poses, poses_value(3)),
        "3 poses",
    ),
    "another count of cameras": ("cameras", _retell(registered_frames=2), "2 registered"),
    "another scale": ("cameras", _retell(scale="metric"), "scale 'metric'"),
    "other times": (
        "cameras",
        lambda s: poses.write(s.poses, replace(poses_value(), timestamps_F=np.arange(4.0))),
        "not the times",
    ),
    "depth that is said not to be": ("depth", _retell(depth_source="none"), "does not belong"),
    "depth of a frame without a pose": (
        "depth",
        lambda s: depth_exr.write(s.depth(3), *depth_value()),
        "00004.exr.*does not belong",
    ),
    "a caption of no instance": (
        "captions",
        lambda s: labels.write(
            s.instance_labels,
            labels.InstanceLabels(
                instances=[labels_value().instances[0].model_copy(update={"id": 2})]
            ),
        ),
        r"ids \[1\] are not in",
    ),
    "a table that tells otherwise": (
        "captions",
        lambda s: s.object_captions.write_bytes(b"instance_id,description\r\n"),
        "does not say",
    ),
}


@pytest.mark.parametrize("name", sorted(BREAKS))
def test_broken_scenes(scene: Scene, name: str) -> None:
    artifact, break_it, problem = BREAKS[name]
    validate_artifact(scene, artifact)
    break_it(scene)
    with pytest.raises(ArtifactError, match=problem):
        validate_artifact(scene, artifact)


@pytest.mark.parametrize(
    ("artifact", "change"),
    [
        ("flow", lambda s: _flip(s.flow(0, 1))),
        ("masks", lambda s: _flip(s.mask(1))),
        ("depth", lambda s: _flip(s.depth(1))),
        ("fused", lambda s: _flip_large_fused(s.fused)),
        ("masks", lambda s: masks.write(s.mask(1), np.full((HEIGHT, WIDTH), 9))),
    ],
)
def test_what_only_a_thorough_check_finds(
    scene: Scene, artifact: str, change: Callable[[Scene], None]
) -> None:
    change(scene)
    validate_artifact(scene, artifact)
    with pytest.raises(ArtifactError):
        validate_artifact(scene, artifact, thorough=True)


def _flip(path: Path) -> None:
    """Damage pixels or values, not headers."""
    data = bytearray(path.read_bytes())
    marks = {".png": (b"IDAT", 10), ".npz": (b"\0rgbs.npy", 90_000), ".exr": (b"scanlineimage", 80)}
    mark, offset = marks[path.suffix]
    data[data.index(mark) + offset] ^= 0xFF
    path.write_bytes(data)


def _flip_large_fused(path: Path) -> None:
    """Opening an archive reads the first kilobytes of every member: be beyond them."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 99, 99, 3), np.uint8)
    fused.write(path, replace(fused_value(), rgbs=noise))
    _flip(path)


def test_what_may_be_absent(scene: Scene) -> None:
    """Visual copies, motion labels, a depth prior and depth are not always there."""
    shutil.rmtree(scene.folder / "segmentation" / "frames")
    shutil.rmtree(scene.folder / "segmentation" / "videos")
    shutil.rmtree(scene.folder / "analysis" / "motion")
    shutil.rmtree(scene.folder / "depth_prior")
    shutil.rmtree(scene.folder / "dynamicBA" / "depth")
    _retell(depth_source="none")(scene)
    for artifact in ("segmentation", "motion", "depth_prior", "depth"):
        validate_artifact(scene, artifact)


def test_a_frame_folder_may_have_no_video(scene: Scene) -> None:
    source = scene_value().source.model_copy(update={"kind": "frames"})
    scene_info.write(scene.scene_json, scene_value().model_copy(update={"source": source}))
    scene.video.unlink()
    validate_artifact(scene, "video")


def test_no_objects_need_no_labels(scene: Scene) -> None:
    value = captions_value().model_copy(update={"objects": []})
    captions.write(scene.captions, value)
    captions.write_csv(scene.object_captions, value)
    scene.instance_labels.unlink()
    validate_artifact(scene, "captions")


def test_one_frame_has_no_flow(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "set", "clip")
    scene_info.write(scene.scene_json, scene_value(1))
    images.write_jpeg(scene.rgb(0), rgb_value())
    validate_artifact(scene, "rgb")
    validate_artifact(scene, "flow")


def test_a_minute_of_frames_is_checked_fast(scene: Scene) -> None:
    frames = 1800
    scene_info.write(scene.scene_json, scene_value(frames))
    for frame in range(FRAMES, frames):
        scene.rgb(frame).hardlink_to(scene.rgb(0))
    start = time.process_time()
    validate_artifact(scene, "rgb")
    assert time.process_time() - start < 3
