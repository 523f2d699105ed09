"""The segmentation stage: masks, labels, statistics and pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from motion_layers import Layer, LayeredClip, iou, with_list
from moving_clips import run_stage
from scene_tree import write_tree

from dynamicverse.errors import MissingModelError
from dynamicverse.formats import images, labels, masks, objects, validate_artifact
from dynamicverse.formats.objects import DynamicObject, DynamicObjects
from dynamicverse.scene import Scene
from dynamicverse.stages.mask_pictures import KINDS, draw
from dynamicverse.stages.segmentation import Statistics

Ids = npt.NDArray[np.uint8]
LATER = ("analysis", "segmentation", "tracks", "reconstruction")
CLIP = LayeredClip(
    5,
    lambda t: (2 * t, 0),
    (
        Layer(lambda t: (20 + 6 * t, 10), instance=1),
        Layer(lambda t: (140 - 3 * t, 70), instance=2, seed=4),
    ),
)


def objects_of(*ids: int) -> DynamicObjects:
    return DynamicObjects(
        dynamic=[
            DynamicObject(
                name=f"moving object {i}",
                category="unknown",
                tracking_id=i,
                reasoning="moves",
                confidence=0.9,
                position=[],
            )
            for i in ids
        ],
        static_scene=not ids,
        camera_motion="moving",
        notes=[],
    )


def scene_of(root: Path, clip: LayeredClip, *ids: int) -> Scene:
    """A scene up to the analysis, whose labels are the truth."""
    scene = write_tree(root, with_list(clip), without=LATER)  # type: ignore[arg-type]
    objects.write(scene.dynamic_objects, objects_of(*ids))
    if ids:
        for t, mask in enumerate(clip.masks):
            masks.write(scene.motion(t), mask)
    return scene


def valid(scene: Scene) -> None:
    validate_artifact(scene, "masks", thorough=True)
    validate_artifact(scene, "segmentation", thorough=True)


def test_masks_labels_and_summary_agree(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, CLIP, 1, 2)
    context, _ = run_stage("segmentation", scene)
    valid(scene)
    found = [masks.read(scene.mask(t)) for t in range(5)]
    for i in (1, 2):
        assert min(iou(f == i, m == i) for f, m in zip(found, CLIP.masks, strict=True)) > 0.85
    named = labels.read(scene.instance_labels).instances
    assert [(n.id, n.name, n.category) for n in named] == [
        (1, "moving object 1", "unknown"),
        (2, "moving object 2", "unknown"),
    ]
    assert [tuple(n.colour) for n in named] == [masks.colour(1), masks.colour(2)]
    assert {(n.first_frame, n.last_frame) for n in named} == {(0, 4)}
    summary = labels.read_summary(scene.result_summary)
    assert summary.coverage == pytest.approx(np.mean([f > 0 for f in found]))
    assert [o.max_area_px for o in summary.objects] == [
        max((f == i).sum() for f in found) for i in (1, 2)
    ]
    assert context.facts == {"objects": 2, "coverage": round(summary.coverage, 5)}
    assert context.frames == 5


def test_pictures_and_videos(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, CLIP, 1, 2)
    run_stage("segmentation", scene)
    ids = masks.read(scene.mask(3))
    assert scene.segmentation_frame("original", 3).read_bytes() == scene.rgb(3).read_bytes()
    coloured = images.read_rgb(scene.segmentation_frame("masks", 3))
    for i in (0, 1, 2):
        assert (coloured[ids == i] == masks.colour(i)).all()
    cut_out = images.read_rgb(scene.segmentation_frame("segmented", 3))
    rgb = images.read_rgb(scene.rgb(3))
    assert (cut_out[ids == 0] == 0).all()
    assert np.array_equal(cut_out[ids > 0], rgb[ids > 0])
    for kind in KINDS:
        with av.open(str(scene.segmentation_video(kind))) as video:
            frames = list(video.decode(video=0))
        assert len(frames) == 5
        assert (frames[0].width, frames[0].height) == CLIP.size
        assert [f.time for f in frames] == pytest.approx([t / 25 for t in range(5)], abs=1e-3)


def test_without_visuals_only_masks_and_tables(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, CLIP, 1, 2)
    run_stage("segmentation", scene, ["segmentation.visuals=false"])
    valid(scene)
    assert sorted(scene.files("segmentation")) == sorted(
        [scene.instance_labels, scene.result_summary]
    )


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, CLIP, 1, 2)
    run_stage("segmentation", scene)
    run_stage("segmentation", scene, ["segmentation.visuals=false"])
    valid(scene)
    assert len(scene.files("segmentation")) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_moves(tmp_path: Path, count: int) -> None:
    scene = scene_of(tmp_path, LayeredClip(count))
    run_stage("segmentation", scene)
    valid(scene)
    assert labels.read(scene.instance_labels).instances == []
    assert labels.read_summary(scene.result_summary).coverage == 0
    assert not any(masks.read(scene.mask(t)).any() for t in range(count))


def test_an_object_without_pixels_is_said_and_left_out(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, CLIP, 1, 2, 3)
    context, recorder = run_stage("segmentation", scene)
    valid(scene)
    assert len(recorder.warnings) == 1
    assert "moving object 3" in recorder.warnings[0]
    assert [n.id for n in labels.read(scene.instance_labels).instances] == [1, 2]
    assert context.facts["objects"] == 2


class KnownMasks:
    """A segmenter that gives these masks; `last` is called after the last one."""

    def __init__(self, given: list[Ids], last: Callable[[], None]) -> None:
        self.given, self.last = given, last

    def segment(self, clip: Any, found: Any, coarse: Any, write: Any, progress: Any) -> None:
        for t, mask in enumerate(self.given):
            write(t, mask)
            progress(t + 1)
        self.last()


def test_a_segmenter_does_not_wait_for_files_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, write = threading.Event(), masks.write

    def waiting(path: Path, mask: Ids) -> None:
        assert given.wait(10)
        write(path, mask)

    scene = scene_of(tmp_path, CLIP, 1, 2)
    monkeypatch.setattr(masks, "write", waiting)
    run_stage("segmentation", scene, backend=KnownMasks(list(CLIP.masks), given.set))
    valid(scene)
    assert [np.array_equal(masks.read(scene.mask(t)), m) for t, m in enumerate(CLIP.masks)] == (
        [True] * 5
    )


@pytest.mark.parametrize("count", [0, 3])
def test_what_the_segmenter_raises_is_what_the_stage_raises(tmp_path: Path, count: int) -> None:
    """Also before the first frame, when the videos that are given up have none; no file of
    theirs stays."""

    def broken() -> None:
        raise MissingModelError("no weights")

    scene = scene_of(tmp_path, CLIP, 1, 2)
    with pytest.raises(MissingModelError, match="no weights"):
        run_stage("segmentation", scene, backend=KnownMasks(list(CLIP.masks[:count]), broken))
    videos = scene.segmentation_video("masks").parent
    assert not list(videos.iterdir())


def test_a_picture_that_cannot_be_written_stops_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, rgb: Any) -> None:
        raise OSError("no space left")

    scene = scene_of(tmp_path, CLIP, 1, 2)
    monkeypatch.setattr(images, "write_png", full)
    with pytest.raises(OSError, match="no space"):
        run_stage("segmentation", scene)
    assert not list(scene.segmentation_video("masks").parent.iterdir())


def test_the_same_scene_gives_the_same_bytes(tmp_path: Path) -> None:
    trees = []
    for name in ("one", "two"):
        scene = scene_of(tmp_path / name, CLIP, 1, 2)
        run_stage("segmentation", scene)
        files = [*scene.files("masks"), *scene.files("segmentation")]
        trees.append([p.read_bytes() for p in files])
    assert trees[0] == trees[1]


def test_statistics_by_hand() -> None:
    ids = np.zeros((4, 5), np.uint8)
    ids[1:3, 1:4] = 3  # 6 px, box 1,1..3,2
    later = np.zeros((4, 5), np.uint8)
    later[0, 0] = 3  # 1 px, box 0,0..0,0
    statistics = Statistics()
    for frame, mask in enumerate((ids, np.zeros_like(ids), later)):
        statistics.add(frame, mask)
    summary = statistics.summary()
    (three,) = summary.objects
    assert (three.id, three.frames, three.mean_area_px, three.max_area_px) == (3, 2, 3.5, 6)
    assert three.mean_box == [0.5, 0.5, 1.5, 1.0]
    assert summary.coverage == pytest.approx(7 / 60)
    (named,) = statistics.labels(objects_of(3)).instances
    assert (named.first_frame, named.last_frame) == (0, 2)


def test_an_id_that_nothing_named_is_an_error() -> None:
    statistics = Statistics()
    statistics.add(0, np.full((2, 2), 9, np.uint8))
    with pytest.raises(KeyError):
        statistics.labels(objects_of(1))


def test_the_background_of_an_overlay_is_untouched() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    ids = np.zeros((6, 8), np.uint8)
    ids[2:4, 3:6] = 1
    overlay = draw(rgb, ids)["overlay"]
    assert np.array_equal(overlay[ids == 0], rgb[ids == 0])
    mean = (rgb[ids == 1].astype(int) + masks.colour(1)) / 2
    assert np.abs(overlay[ids == 1] - mean).max() <= 1
