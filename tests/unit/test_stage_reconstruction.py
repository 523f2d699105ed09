"""The reconstruction and depth stages on rendered clips: trees, truth, degenerate input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import RenderedClip, render
from scene_tree import write_tree

from dynamicverse.backends.depth.none import NoDepth
from dynamicverse.config import Config, DepthConfig
from dynamicverse.dynamicba.cameras import solve
from dynamicverse.dynamicba.cameras.solution import CameraSolution
from dynamicverse.errors import DynamicVerseError
from dynamicverse.formats import (
    depth_exr,
    fused,
    intrinsics,
    poses,
    reconstruction_info,
    tracks,
    validate_artifact,
)
from dynamicverse.scene import Scene
from dynamicverse.stages import depth as depth_stage
from dynamicverse.stages import reconstruction
from dynamicverse.stages.base import StageContext

FRAMES = 8
SIZE = (192, 112)
CONFIG = Config.model_validate({"reconstruction": {"dense": {"neighbours": 4}}})


class Recorder:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def log(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(FRAMES, SIZE, "orbit", objects=4, seed=4, supersample=1)


def tree(root: Path, clip: RenderedClip) -> Scene:
    return write_tree(root, clip, without=("reconstruction",))


def true_solution(clip: RenderedClip, unregistered: tuple[int, ...] = ()) -> CameraSolution:
    """What a perfect solver would say of the tracks that `write_tree` writes."""
    exact = clip.tracks(step=max(8, clip.size[0] // 24))
    static_N = exact.instance_id_N == 0
    registered_F = np.ones(clip.frame_count, bool)
    registered_F[list(unregistered)] = False
    return CameraSolution(
        "full",
        np.where(registered_F[:, None, None], clip.c2w_F44, np.nan),
        np.tile(clip.K, (clip.frame_count, 1, 1)),
        registered_F,
        "estimated",
        np.where(static_N[:, None], exact.points_FN3[0], np.nan),
        static_N,
        0.3,
        1000,
        [],
    )


def without_points(clip: RenderedClip, status: str, statement: str) -> CameraSolution:
    full = true_solution(clip)
    c2w = np.tile(np.eye(4), (clip.frame_count, 1, 1))
    if status == "failed":
        c2w[:] = np.nan
    return CameraSolution(
        status,  # type: ignore[arg-type]
        c2w,
        full.K_F33,
        np.isfinite(c2w[:, 0, 0]),
        "assumed",
        np.full_like(full.points_N3, np.nan),
        np.zeros_like(full.static_N),
        0.0,
        0,
        [statement],
    )


def run(
    scene: Scene, solution: CameraSolution | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[StageContext, Recorder]:
    if solution is not None:
        monkeypatch.setattr(solve, "solve_cameras", lambda *a, **k: solution)
    recorder = Recorder()
    context = StageContext(CONFIG, recorder)
    reconstruction.run(scene, context)
    for artifact in reconstruction.STAGE.writes:
        validate_artifact(scene, artifact)
    return context, recorder


def digests(scene: Scene) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for artifact in reconstruction.STAGE.writes
        for p in scene.files(artifact)
    }


def test_true_cameras_give_true_depth(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tree(tmp_path, clip)
    context, recorder = run(scene, true_solution(clip), monkeypatch)
    errors, covered = [], []
    for f in range(FRAMES):
        depth_HW, confidence_HW = depth_exr.read(scene.depth(f))
        static = clip.masks[f] == 0
        known = static & (depth_HW > 0)
        errors.append(np.abs(depth_HW / clip.depth[f] - 1)[known])
        covered.append(known.sum() / static.sum())
        assert not confidence_HW[depth_HW == 0].any()
    assert np.median(np.concatenate(errors)) < 0.015
    assert np.mean(covered) > 0.7
    assert context.frames == FRAMES
    assert context.facts["registered"] == FRAMES
    assert context.facts["status"] == "full"
    done = [step for step, _ in recorder.steps]
    assert done == sorted(done)
    assert recorder.steps[-1] == (100, 100)


def test_fused_scene_holds_cameras_points_and_objects(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tree(tmp_path, clip)
    run(scene, true_solution(clip), monkeypatch)
    found = fused.read(scene.fused)
    assert len(found.static_points) > 1000
    assert found.object_ids.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(found.c2w, clip.c2w_F44)
    assert found.rgbs is not None
    assert np.abs(found.rgbs[3].astype(int) - clip.rgb[3]).mean() < 12  # JPEG between them
    # object 4 stands in view: placed by its contact, at the right distance
    row = found.object_ids.tolist().index(4)
    known = np.isfinite(found.object_centres[row, :, 0])
    assert known.any()
    truth = clip.object_poses_MF44[3, known, :3, 3]
    assert np.linalg.norm(found.object_centres[row, known] - truth, axis=1).max() < 1.0
    told = reconstruction_info.read(scene.reconstruction_json)
    assert [item.instance_id for item in told.objects] == [1, 2, 3, 4]
    by_model = {item.instance_id: item.model for item in told.objects}
    assert found.object_model.tolist() == [by_model[i] for i in (1, 2, 3, 4)]
    assert told.objects[3].scale_source == "contact"
    assert any("stand on the ground" in s for s in told.statements)
    assert any("unknown" in s and "1" in s for s in told.statements)  # object 1 is cut off
    depth_HW, confidence_HW = depth_exr.read(scene.depth(0))
    assert (depth_HW[clip.masks[0] == 4] > 0).all()
    assert confidence_HW[clip.masks[0] == 4].max() < 0.25
    assert not depth_HW[clip.masks[0] == 1].any()


def test_a_wrong_label_is_righted_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # forwards, where a thing that moves sideways cannot be taken for one that stands still
    clip = render(20, SIZE, "dolly", objects=2, seed=4, supersample=1)
    scene = tree(tmp_path, clip)
    tracked = tracks.read(scene.tracks)
    solution = true_solution(clip)
    wrong = np.flatnonzero(solution.static_N & (tracked.visibility_FN.sum(0) > 10))[::20]
    labels_N = tracked.instance_id_N.copy()
    labels_N[wrong] = np.bincount(labels_N[labels_N > 0]).argmax()
    tracks.write(scene.tracks, replace(tracked, instance_id_N=labels_N))
    run(scene, solution, monkeypatch)
    told = reconstruction_info.read(scene.reconstruction_json)
    assert told.relabelled.to_static > len(wrong) / 2
    assert any("contradicted by their motion" in s for s in told.statements)


def test_frames_without_camera_have_no_depth_file(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tree(tmp_path, clip)
    _, recorder = run(scene, true_solution(clip, unregistered=(0, 5)), monkeypatch)
    assert not scene.depth(0).exists()
    assert not scene.depth(5).exists()
    assert scene.depth(1).exists()
    assert any("2 of 8 frames" in w for w in recorder.warnings)


@pytest.mark.parametrize(
    ("status", "registered"),
    [("rotation_only", FRAMES), ("static_camera", FRAMES), ("too_short", FRAMES), ("failed", 0)],
)
def test_without_parallax_there_is_a_scene_without_depth(
    clip: RenderedClip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    registered: int,
) -> None:
    scene = tree(tmp_path, clip)
    statement = "depth unobservable: no parallax"
    run(scene, without_points(clip, status, statement), monkeypatch)
    told = reconstruction_info.read(scene.reconstruction_json)
    assert told.status == status
    assert told.depth_source == "none"
    assert told.scale == "unobservable"
    assert told.registered_frames == registered
    assert statement in told.statements
    assert told.path_length is None
    assert not scene.files("depth")
    found = fused.read(scene.fused)
    assert len(found.static_points) == len(found.dyn_points) == 0
    assert found.object_ids.tolist() == [1, 2, 3, 4]
    assert np.isnan(found.object_centres).all()
    assert len(poses.read(scene.poses).registered_F) == FRAMES


def test_the_same_inputs_give_the_same_bytes(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("one", "two"):
        scene = tree(tmp_path / name, clip)
        run(scene, true_solution(clip), monkeypatch)
        found.append(digests(scene))
    assert found[0] == found[1]
    assert len(found[0]) == FRAMES + 3


def test_a_scene_without_masks_is_taken_as_static(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_tree(tmp_path, clip, without=("reconstruction", "segmentation"))
    run(scene, true_solution(clip), monkeypatch)
    assert fused.read(scene.fused, with_rgbs=False).object_ids.size == 0


def test_one_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = render(1, (96, 64), "static", objects=1, supersample=1)
    scene = tree(tmp_path, single)
    run(scene, None, monkeypatch)  # with the real solver
    assert reconstruction_info.read(scene.reconstruction_json).status == "too_short"


class TrueDepth:
    """A prior three times too large, as a depth backend; in metres if it says so."""

    info = NoDepth.info

    def __init__(self, clip: RenderedClip, frames: int, metric: bool = False) -> None:
        self.clip, self.frames, self.metric = clip, frames, metric

    def intrinsics(self, frames: Iterator[np.ndarray]) -> intrinsics.PriorIntrinsics:
        K = self.clip.K
        return intrinsics.PriorIntrinsics(
            fx=K[0, 0], fy=K[1, 1], cx=K[0, 2], cy=K[1, 2], source="test", metric=self.metric
        )

    def stream(
        self, frames: Iterator[np.ndarray], camera: intrinsics.PriorIntrinsics
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for f, _ in zip(range(self.frames), frames, strict=False):
            yield 3 * self.clip.depth[f], np.full_like(self.clip.depth[f], 0.9)


def write_prior(
    scene: Scene, clip: RenderedClip, frames: int = FRAMES, metric: bool = False
) -> None:
    depth_stage.run(scene, StageContext(CONFIG, Recorder(), TrueDepth(clip, frames, metric)))


def test_a_prior_in_metres_gives_everything_in_metres(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tree(tmp_path, clip)
    write_prior(scene, clip, metric=True)
    truth = true_solution(clip)
    sigma_F6 = np.full((FRAMES, 6), 0.01)
    run(scene, replace(truth, pose_sigma_F6=sigma_F6), monkeypatch)
    told, found = reconstruction_info.read(scene.reconstruction_json), poses.read(scene.poses)
    assert (told.scale, found.scale) == ("metric", "metric")
    assert any("metres" in line for line in told.statements)
    np.testing.assert_allclose(
        found.c2w_F44[:, :3, 3], 3 * truth.c2w_F44[:, :3, 3], rtol=0.02, atol=0.02
    )
    np.testing.assert_array_equal(found.c2w_F44[:, :3, :3], truth.c2w_F44[:, :3, :3])
    assert found.pose_sigma_F6 is not None
    np.testing.assert_allclose(found.pose_sigma_F6, np.tile([0.01] * 3 + [0.03] * 3, (8, 1)), 0.02)
    for f in range(FRAMES):
        depth_HW, _ = depth_exr.read(scene.depth(f))
        assert np.median(np.abs(depth_HW / (3 * clip.depth[f]) - 1)) < 0.02


@pytest.mark.parametrize(("focal_sigma", "warned"), [(0.01, False), (0.2, True)])
def test_a_doubtful_focal_length_is_a_warning(
    clip: RenderedClip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    focal_sigma: float,
    warned: bool,
) -> None:
    scene, truth = tree(tmp_path, clip), true_solution(clip)
    sigma_F = np.full(FRAMES, focal_sigma * truth.K_F33[0, 0, 0])
    _, recorder = run(scene, replace(truth, focal_sigma_F=sigma_F), monkeypatch)
    assert any("focal length" in line for line in recorder.warnings) == warned
    told = reconstruction_info.read(scene.reconstruction_json)
    assert told.focal_sigma_px == pytest.approx(sigma_F[0])


def test_a_prior_is_brought_into_the_scale_of_the_cameras(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tree(tmp_path, clip)
    write_prior(scene, clip)
    validate_artifact(scene, "depth_prior")
    run(scene, true_solution(clip), monkeypatch)
    told = reconstruction_info.read(scene.reconstruction_json)
    assert told.depth_source == "prior"
    assert {item.scale_source for item in told.objects} == {"prior"}
    for f in range(FRAMES):
        depth_HW, confidence_HW = depth_exr.read(scene.depth(f))
        assert np.median(np.abs(depth_HW / clip.depth[f] - 1)) < 0.02
        assert confidence_HW[clip.masks[f] > 0].max() < confidence_HW[clip.masks[f] == 0].min()
    assert len(fused.read(scene.fused).dyn_points) > 100


def test_a_prior_gives_depth_where_parallax_does_not(
    clip: RenderedClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = tree(tmp_path, clip)
    write_prior(scene, clip)
    run(scene, without_points(clip, "rotation_only", "no parallax"), monkeypatch)
    told = reconstruction_info.read(scene.reconstruction_json)
    assert (told.depth_source, told.scale) == ("prior", "relative")
    assert any("prior alone" in s for s in told.statements)
    assert len(fused.read(scene.fused).static_points) > 1000


def test_a_backend_that_gives_too_few_depths_is_an_error(
    clip: RenderedClip, tmp_path: Path
) -> None:
    scene = tree(tmp_path, clip)
    with pytest.raises(DynamicVerseError, match="5 of 8"):
        write_prior(scene, clip, frames=5)


def test_no_depth_model_writes_nothing_and_says_so(clip: RenderedClip, tmp_path: Path) -> None:
    scene = tree(tmp_path, clip)
    recorder = Recorder()
    context = StageContext(CONFIG, recorder, NoDepth(DepthConfig()))
    depth_stage.run(scene, context)
    assert recorder.lines == ["no depth prior"]
    assert context.frames == FRAMES
    assert not scene.files("depth_prior")
    validate_artifact(scene, "depth_prior")
