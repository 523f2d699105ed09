"""The tracks stage: which tracks it keeps, whose they are, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving_clips import make_scene, moved, run_stage, shift, texture

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.tracker.trackset import TrackSet, empty
from dynamicverse.errors import ArtifactError
from dynamicverse.formats import masks, tracks, validate_artifact
from dynamicverse.stages.tracks import choose, instances

GRID = ["tracks.grid_size=16"]


def spans(frame_count: int, *rows: tuple[int, int, int]) -> TrackSet:
    """Tracks (query, first, length) that stand at (10 n, 5), always visible."""
    query, first, length = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    count = int(offsets[-1])
    x = np.repeat(10.0 * np.arange(len(rows)), length)
    positions = np.stack([x, np.full(count, 5.0)], axis=1).astype(np.float32)
    visible, confidence = np.ones(count, bool), np.ones(count, np.float32)
    return TrackSet(frame_count, (100, 20), query, first, offsets, positions, visible, confidence)


class KnownTracks:
    """A backend that returns these tracks."""

    info = BackendInfo(name="known", licence="test")

    def __init__(self, found: TrackSet) -> None:
        self.found = found

    def track(self, frames: Any, progress: Any) -> TrackSet:
        progress(len(frames))
        return self.found


def test_short_tracks_are_dropped() -> None:
    found = spans(10, (0, 0, 2), (0, 0, 3), (0, 1, 9))
    assert choose(found, 3, 1000).length_N.tolist() == [3, 9]


def test_in_a_short_clip_shorter_tracks_are_kept() -> None:
    found = spans(2, (0, 0, 2), (0, 0, 1))
    assert choose(found, 3, 1000).length_N.tolist() == [2]
    assert len(choose(spans(1, (0, 0, 1)), 3, 1000)) == 1


def test_only_visible_frames_count() -> None:
    found = spans(10, (0, 0, 4), (0, 0, 4))
    found.visible_M[1:3] = False
    assert choose(found, 3, 1000).first_N.tolist() == [0]


def test_over_budget_the_longest_of_every_seed_frame_stay() -> None:
    """Ten frames and 40 cells leave room for four of eight tracks: half of each group."""
    found = spans(
        10,
        *[(0, 0, length) for length in (4, 10, 6, 8)],
        *[(5, 5, length) for length in (3, 5, 4, 3)],
    )
    kept = choose(found, 3, 40)
    assert kept.query_N.tolist() == [0, 0, 5, 5]
    assert kept.length_N.tolist() == [10, 8, 5, 4]


def test_equal_tracks_over_budget_keep_their_order() -> None:
    kept = choose(spans(10, *[(0, 0, 5)] * 6), 3, 30)
    assert kept.positions_M2[kept.offsets_N1[:-1], 0].tolist() == [0.0, 10.0, 20.0]


def test_instance_is_the_majority_of_labels(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [np.zeros((20, 100, 3), np.uint8)] * 4)
    labels = np.zeros((4, 20, 100), np.uint8)
    labels[:3, :, 10] = 7  # track 1: three of four
    labels[:2, :, 20] = 3  # track 2: two of four, a tie with the background
    labels[0, :, 30], labels[1, :, 30], labels[2:, :, 30] = 1, 2, 200  # track 3
    labels[:, :, 40] = 5  # track 4: where it is not visible
    for frame in range(4):
        masks.write(scene.mask(frame), labels[frame])
    found = spans(4, *[(0, 0, 4)] * 5)
    found.visible_M[slice(*found.offsets_N1[4:6])] = False
    assert instances(found, scene).tolist() == [0, 7, 0, 200, 0]


def test_positions_are_rounded_to_pixels_inside_the_mask(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [np.zeros((20, 100, 3), np.uint8)])
    label = np.zeros((20, 100), np.uint8)
    label[5, 0], label[19, 99] = 4, 9
    masks.write(scene.mask(0), label)
    found = spans(1, (0, 0, 1), (0, 0, 1))
    found.positions_M2[:] = [[-0.4, 5.4], [99.4, 19.3]]
    assert instances(found, scene).tolist() == [4, 9]


def test_without_masks_the_instance_is_unknown(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [np.zeros((20, 100, 3), np.uint8)] * 2)
    assert instances(spans(2, (0, 0, 2), (0, 0, 2)), scene).tolist() == [-1, -1]


def clip(count: int) -> list[np.ndarray]:
    image = texture(2, 120, 200)
    return [moved(image, shift(3.0 * i, 1.0 * i)) for i in range(count)]


def test_stage_writes_tracks_with_instances(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, clip(6))
    for frame in range(6):
        label = np.zeros((120, 200), np.uint8)
        label[30 + frame : 90 + frame, 50 + 3 * frame : 120 + 3 * frame] = 2
        masks.write(scene.mask(frame), label)
    context, recorder = run_stage("tracks", scene, GRID)
    validate_artifact(scene, "tracks", thorough=True)
    found = tracks.read(scene.tracks)
    assert found.size == (200, 120)
    start_N2 = found.tracks_FN2[found.query_frame_N, np.arange(len(found.query_frame_N))]
    inside = (np.abs(start_N2 - [84.5, 59.5]) < [32, 27]).all(axis=1)
    outside = (np.abs(start_N2 - [84.5, 59.5]) > [38, 33]).any(axis=1)
    assert inside.sum() > 10
    assert (found.instance_id_N[inside] == 2).all()
    assert (found.instance_id_N[outside] == 0).all()
    assert found.visibility_FN.sum(axis=0).min() >= 3
    motion = found.tracks_FN2[1] - found.tracks_FN2[0]
    both = found.visibility_FN[0] & found.visibility_FN[1]
    assert np.median(motion[both], axis=0) == pytest.approx([3.0, 1.0], abs=0.05)
    assert context.frames == 6
    assert context.facts["tracks"] == len(found.query_frame_N)
    assert context.facts["on_objects"] == (found.instance_id_N == 2).sum()
    assert recorder.steps[-1] == (6, 6)
    assert recorder.warnings == []


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips(tmp_path: Path, count: int) -> None:
    scene = make_scene(tmp_path, clip(count))
    run_stage("tracks", scene, GRID)
    validate_artifact(scene, "tracks", thorough=True)
    found = tracks.read(scene.tracks)
    assert found.visibility_FN.shape[0] == count
    assert found.visibility_FN.shape[1] > 30
    assert found.visibility_FN.all()
    assert (found.instance_id_N == -1).all()


def test_a_flat_clip_has_no_tracks(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [np.full((40, 60, 3), 128, np.uint8)] * 3)
    context, _ = run_stage("tracks", scene)
    validate_artifact(scene, "tracks", thorough=True)
    assert tracks.read(scene.tracks).tracks_FN2.shape == (3, 0, 2)
    assert context.facts["tracks"] == 0


def test_no_track_of_a_backend_is_needed(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [np.zeros((20, 100, 3), np.uint8)] * 2)
    run_stage("tracks", scene, backend=KnownTracks(empty(2, (100, 20))))
    validate_artifact(scene, "tracks", thorough=True)


def test_a_budget_that_cuts_is_said(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [np.zeros((20, 100, 3), np.uint8)] * 5)
    backend = KnownTracks(spans(5, *[(0, 0, 5)] * 6))
    context, recorder = run_stage("tracks", scene, ["tracks.max_cells=20"], backend)
    assert tracks.read(scene.tracks).tracks_FN2.shape == (5, 4, 2)
    assert context.facts["tracks"] == 4
    assert context.facts["dropped"] == 2
    assert len(recorder.warnings) == 1
    assert "4 longest of 6" in recorder.warnings[0]


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for run in range(2):
        scene = make_scene(tmp_path / str(run), clip(5))
        run_stage("tracks", scene, GRID)
        written.append(scene.tracks.read_bytes())
    assert written[0] == written[1]


def test_a_missing_frame_is_an_error_that_names_it(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, clip(4))
    scene.rgb(2).unlink()
    with pytest.raises(ArtifactError, match=r"00003\.jpg"):
        run_stage("tracks", scene, GRID)
