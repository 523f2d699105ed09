"""`dynamicverse evaluate`: on rendered truth and its deliberate errors, and one-line refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from camera_clips import walk
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from dynamicverse.cli import app
from dynamicverse.errors import ArtifactError
from dynamicverse.evaluation import files
from dynamicverse.formats import depth_exr, flow_png, masks, poses, tracks
from dynamicverse.scene import Scene
from dynamicverse.synthetic.scenes import Recipe
from dynamicverse.synthetic.writer import write_clip

FRAMES = 4


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_clip(tmp_path_factory.mktemp("synth"), Recipe("orbit", 2, FRAMES, (96, 64))).scene


@pytest.fixture
def estimate(truth: Scene, tmp_path: Path) -> Scene:
    """The truth with known errors: cameras scaled and moved, depth 10 % too large on the upper
    half, ids renamed, tracks 4 px off in the later frames, flow 1 px off."""
    scene = Scene(tmp_path, "clips", truth.name)
    cameras = poses.read(truth.poses)
    c2w_F44 = cameras.c2w_F44.copy()
    c2w_F44[:, :3, 3] = 0.5 * c2w_F44[:, :3, 3] + 3
    K_F33 = cameras.K_F33.copy()
    K_F33[:, [0, 1], [0, 1]] *= 1.02
    poses.write(scene.poses, replace(cameras, c2w_F44=c2w_F44, K_F33=K_F33, scale="relative"))
    for f in range(FRAMES):
        depth_HW, confidence_HW = depth_exr.read(truth.depth(f))
        depth_HW[:16] *= 1.1
        depth_exr.write(scene.depth(f), 0.5 * depth_HW, confidence_HW)
        ids_HW = masks.read(truth.mask(f))
        masks.write(scene.mask(f), np.array([0, 5, 9, 7], np.uint8)[ids_HW])
        for g in (f - 1, f + 1):
            if 0 <= g < FRAMES:
                flow_HW2, valid_HW = flow_png.read(truth.flow(f, g))
                flow_png.write(scene.flow(f, g), flow_HW2 + np.float32(1), valid_HW)
    found = tracks.read(truth.tracks)
    moved_FN2 = found.tracks_FN2.copy()
    later = np.arange(FRAMES)[:, None] > found.query_frame_N
    moved_FN2[later] += [4 * 96 / 256, 0]
    tracks.write(scene.tracks, replace(found, tracks_FN2=moved_FN2))
    return scene


def evaluate(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--json"])
    assert result.exception is None, result.exception
    return json.loads(result.output)


def test_poses(truth: Scene, estimate: Scene) -> None:
    scores = evaluate("poses", estimate.folder, truth.folder)
    assert scores["protocol"] == "monst3r-pose"
    assert scores["ate"] < 1e-9
    assert scores["rfe"] == pytest.approx(0.02)
    assert evaluate("poses", estimate.poses, truth.poses)["ate"] == scores["ate"]
    metric = evaluate("poses", estimate.folder, truth.folder, "--protocol", "metric-pose")
    assert metric["ate"] > 0.01


def test_depth(truth: Scene, estimate: Scene) -> None:
    scores = evaluate("depth", estimate.folder, truth.folder)
    assert scores["absrel"] == pytest.approx(0.025, abs=1e-3)  # a quarter of the pixels
    assert scores["coverage"] == 1
    folders = (estimate.folder, truth.folder)
    static, moving = (evaluate("depth", *folders, "--region", r) for r in ("static", "moving"))
    assert static["pixels"] + moving["pixels"] == scores["pixels"]
    assert moving["absrel"] < 0.01 < static["absrel"]  # the objects are in the lower half
    estimate.depth(1).unlink()
    part = evaluate("depth", estimate.folder, truth.folder)
    assert part["coverage"] == 0.75


def test_masks(truth: Scene, estimate: Scene) -> None:
    scores = evaluate("masks", estimate.folder, truth.folder)
    assert (scores["j"], scores["f"], scores["id_switches"]) == (1, 1, 0)
    assert scores["instances"] == 3


def test_tracks_follow_the_points_that_the_estimate_has_chosen(
    truth: Scene, estimate: Scene
) -> None:
    scores = evaluate("tracks", estimate.folder, truth.folder)
    assert scores["delta_avg"] == pytest.approx(2 / 5, abs=0.01)  # 4 px: within 8 and 16
    assert scores["occlusion_accuracy"] == 1
    found = tracks.read(estimate.tracks)
    few = replace(
        found,
        tracks_FN2=found.tracks_FN2[:, ::3],
        visibility_FN=found.visibility_FN[:, ::3],
        confidence_FN=found.confidence_FN[:, ::3],
        query_frame_N=found.query_frame_N[::3],
        instance_id_N=found.instance_id_N[::3],
    )
    tracks.write(estimate.tracks, few)
    assert evaluate("tracks", estimate.folder, truth.folder)["tracks"] == len(few.query_frame_N)
    with pytest.raises(ArtifactError, match="one to one"):
        run("tracks", estimate.tracks, truth.tracks)


def test_flow(truth: Scene, estimate: Scene) -> None:
    scores = evaluate("flow", estimate.folder, truth.folder)
    assert scores["epe_px"] == pytest.approx(2**0.5, rel=1e-3)
    assert (scores["fl"], scores["pairs"]) == (0, 2 * (FRAMES - 1))
    one = evaluate("flow", estimate.flow(0, 1), truth.flow(0, 1))
    assert one["pairs"] == 1
    estimate.flow(1, 2).unlink()
    with pytest.raises(ArtifactError, match=r"no flow 00002_00003.png \(1 of 6 missing\)"):
        run("flow", estimate.folder, truth.folder)


def run(*arguments: object) -> None:
    raised = CliRunner().invoke(app, ["evaluate", *map(str, arguments)]).exception
    assert raised is not None
    raise raised


def test_a_table_for_people(truth: Scene) -> None:
    result = CliRunner().invoke(app, ["evaluate", "flow", str(truth.folder), str(truth.folder)])
    assert "kitti-flow" in result.output


def test_refusals_name_what_is_wrong(truth: Scene, tmp_path: Path) -> None:
    (tmp_path / "poses.txt").write_text("1 2 3\n")
    (tmp_path / "words.txt").write_text("one two\n")
    (tmp_path / "nothing").mkdir()
    for arguments, message in (
        (("poses", tmp_path / "none.npz", truth.folder), "no such file"),
        (("poses", tmp_path / "poses.txt", truth.folder), "lines of 12, 16 or 8 numbers"),
        (("poses", tmp_path / "words.txt", truth.folder), "not a table of poses"),
        (("poses", tmp_path / "nothing", truth.folder), "expected a scene"),
        (("depth", tmp_path / "nothing", truth.folder), "no .exr or .png files"),
        (("depth", truth.folder, truth.folder, "--protocol", "best"), "known: one-scale"),
        (("masks", tmp_path / "nothing", truth.folder), "no .png files"),
        (("tracks", tmp_path / "nothing", truth.folder), "not a regular file|folder"),
    ):
        with pytest.raises(ArtifactError, match=message):
            run(*arguments)
    result = CliRunner().invoke(
        app, ["evaluate", "depth", str(truth.folder), str(truth.folder), "--region", "sky"]
    )
    assert "expected all, static or moving" in str(result.exception)


def test_poses_of_data_sets(tmp_path: Path) -> None:
    c2w_F44 = walk(5)
    np.savetxt(tmp_path / "16.txt", c2w_F44.reshape(5, 16), header="row by row")
    np.savetxt(tmp_path / "12.txt", c2w_F44[:, :3].reshape(5, 12))
    quaternions = Rotation.from_matrix(c2w_F44[:, :3, :3]).as_quat()
    tum = np.concatenate([np.arange(5.0)[:, None], c2w_F44[:, :3, 3], quaternions], 1)
    np.savetxt(tmp_path / "tum.txt", tum)
    for name in ("16", "12", "tum"):
        found = files.read_cameras(tmp_path / f"{name}.txt")
        np.testing.assert_allclose(found.c2w_F44, c2w_F44, atol=1e-9)
        assert found.focal_F is None


def test_depth_and_masks_of_data_sets(tmp_path: Path) -> None:
    metres = np.linspace(0, 9, 48, dtype=np.float32).reshape(6, 8)
    (tmp_path / "depth").mkdir()
    (tmp_path / "masks").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"depth/{i:03d}.png"), np.rint(metres * 1000).astype(np.uint16))
        cv2.imwrite(str(tmp_path / f"masks/{i:03d}.png"), (metres > 4).astype(np.uint8) * 255)
    for depth_HW in files.read_depth(tmp_path / "depth"):
        np.testing.assert_allclose(depth_HW, metres, atol=6e-4)
    for ids_HW in files.read_masks(tmp_path / "masks"):
        np.testing.assert_array_equal(ids_HW, (metres > 4) * 255)
