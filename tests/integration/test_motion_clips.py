"""What moves in real clips: region similarity J on DAVIS, false foreground where nothing moves.

J = intersection over union of all instances against the binary truth, mean over the frames
without the first and the last (DAVIS 2016 protocol). The bounds are a little below what was
measured.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scene_tree import write_ingest

from dynamicverse import config, stages
from dynamicverse.formats import images, masks, objects, validate_artifact
from dynamicverse.scene import Scene
from dynamicverse.stages.base import StageContext

pytestmark = pytest.mark.data


class Silent:
    """A reporter for nobody."""

    def progress(self, done: int, total: int) -> None: ...
    def log(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


class Clip:
    """The pictures of a folder, as `write_ingest` asks for them."""

    def __init__(self, folder: Path) -> None:
        self.rgb = [images.read_rgb(path) for path in sorted(folder.iterdir())]
        self.frame_count = len(self.rgb)
        self.size = self.rgb[0].shape[1::-1]


def segmented(folder: Path, root: Path) -> Scene:
    """Flow, analysis and masks of the frames of a folder."""
    scene = Scene(root, "clips", "clip")
    write_ingest(scene, Clip(folder), True, [], "clip", None)  # type: ignore[arg-type]
    settings = config.load(overrides=["segmentation.visuals=false"])
    for name in ("keyframes", "analysis", "segmentation"):
        stage = stages.get(name)
        stage.run(scene, StageContext(settings, Silent(), stage.load(settings)))
    for artifact in ("analysis", "motion", "masks", "segmentation"):
        validate_artifact(scene, artifact, thorough=True)
    return scene


def similarity(scene: Scene, truth: Path) -> float:
    paths = sorted(truth.iterdir())[: len(scene.files("rgb"))]
    scores = []
    for t, path in list(enumerate(paths))[1:-1]:
        found = masks.read(scene.mask(t)) > 0
        true = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0
        scores.append((found & true).sum() / max((found | true).sum(), 1))
    return float(np.mean(scores))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bound"), [("car-shadow", 0.72), ("blackswan", 0.70)])
def test_davis(shared_data: Path, tmp_path: Path, name: str, bound: float) -> None:
    scene = segmented(shared_data / "davis" / name / "rgb", tmp_path)
    assert similarity(scene, shared_data / "davis" / name / "masks") > bound
    largest = objects.read(scene.dynamic_objects).dynamic[0]
    assert len(largest.position) > 0.95 * len(scene.files("rgb"))  # one id, all the way


@pytest.mark.slow
def test_nothing_moves_in_hololens(shared_data: Path, tmp_path: Path) -> None:
    scene = segmented(shared_data / "hololens" / "rgb", tmp_path)
    moving = [(masks.read(path) > 0).mean() for path in scene.files("masks")]
    assert np.mean(moving) < 0.01
    assert objects.read(scene.dynamic_objects).camera_motion == "moving"
