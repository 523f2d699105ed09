"""The keyframes stage: scores and the greedy rule by hand, and what it writes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moving_clips import make_scene, moved, run_stage, shift, texture

from dynamicverse.backends import BackendInfo
from dynamicverse.errors import ArtifactError
from dynamicverse.formats import flow_png, keyframe_info, validate_artifact
from dynamicverse.stages.keyframes import choose, score


def flow_of_lengths(lengths: np.ndarray) -> np.ndarray:
    """A flow field of these lengths, all in the direction (3, 4) / 5."""
    return (lengths[..., None] * np.array([0.6, -0.8])).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # of the lengths 0, 1, … 9, 30: rank (n - 1) p with linear interpolation
        ("mean", 75 / 11),
        ("median", 5.0),
        ("p75", 7.5),
        ("p90", 9.0),
        ("p95", 19.5),
        ("max", 30.0),
    ],
)
def test_score_is_the_statistic_of_the_lengths(kind: str, expected: float) -> None:
    lengths = np.array([[9, 0, 30, 7, 1, 2, 8, 3, 4, 5, 6]], float)
    assert score(flow_of_lengths(lengths), kind) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("scores", "ratio", "gap", "expected"),
    [
        ([], 0.2, 3, [0]),  # one frame
        ([5.0], 0.2, 3, [0]),  # two frames: the only pair belongs to the first
        ([1, 2, 3, 4], 0.2, 3, [3]),  # 5 frames: one keyframe
        ([1, 2, 3], 0.2, 3, [2]),  # 4 frames: floor is 0, at least one
        ([1, 9, 8, 7, 6, 5, 1, 1, 1], 0.2, 3, [1, 4]),  # 8 and 7 are too near to 9
        ([1, 9, 8, 7, 6, 5, 1, 1, 1], 0.2, 1, [1, 2]),
        ([2.0] * 9, 0.2, 3, [0, 3]),  # ties: the earlier frame
        ([0.0] * 14, 0.2, 3, [0, 3, 6]),  # 0.2 of 15 is 3
        ([1, 1, 5, 1, 1], 1.0, 3, [2]),  # six wanted, 5 is in the way of all but itself
        ([5, 1, 1, 4, 1, 1, 3], 1.0, 3, [0, 3, 6]),
    ],
)
def test_keyframes_are_chosen_greedily(
    scores: list[float], ratio: float, gap: int, expected: list[int]
) -> None:
    assert choose(scores, ratio, gap) == expected


@given(
    st.lists(st.integers(0, 5).map(float), max_size=60),
    st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    st.integers(1, 6),
)
def test_no_better_frame_is_left_out(scores: list[float], ratio: float, gap: int) -> None:
    chosen = choose(scores, ratio, gap)
    frames = len(scores) + 1
    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= max(1, int(ratio * frames + 1e-9))
    assert all(later - earlier >= gap for earlier, later in pairwise(chosen))
    if not scores:
        return
    rank = {frame: (-scores[frame], frame) for frame in range(len(scores))}
    full = len(chosen) == max(1, int(ratio * frames + 1e-9))
    for frame in set(rank) - set(chosen):
        blocked = any(abs(frame - other) < gap and rank[other] < rank[frame] for other in chosen)
        assert blocked or (full and rank[frame] > max(rank[other] for other in chosen))


class KnownFlow:
    """A backend whose flow is known: pair t moves by `speeds[t]` px to the right."""

    info = BackendInfo(name="known", licence="test")

    def __init__(self, speeds: list[float]) -> None:
        self.speeds = speeds
        self.alive: list[weakref.ref[np.ndarray]] = []
        self.most_alive = 0

    def stream(self, frames: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        before = next(frames)
        for speed, frame in zip(self.speeds, frames, strict=True):
            forward = np.zeros((*before.shape[:2], 2), np.float32)
            forward[..., 0] = speed
            self.alive.append(weakref.ref(forward))
            gc.collect()
            self.most_alive = max(self.most_alive, sum(r() is not None for r in self.alive))
            yield forward, -forward
            before = frame


def test_stage_writes_flow_scores_and_keyframes(tmp_path: Path) -> None:
    speeds = [1.0, 2.5, 0.5, 7.0, 6.0, 3.0, 1.0, 0.0, 4.0]
    scene = make_scene(tmp_path, [texture(i, 40, 60) for i in range(10)])
    context, recorder = run_stage("keyframes", scene, backend=KnownFlow(speeds))
    for artifact in ("flow", "key_frames"):
        validate_artifact(scene, artifact, thorough=True)
    info = keyframe_info.read(scene.keyframe_info)
    assert info.scores == pytest.approx(speeds)
    assert info.keyframes == [3, 8]
    assert (info.score, info.ratio, info.min_gap, info.flow_model) == ("p90", 0.2, 3, "dis")
    for frame in info.keyframes:
        assert scene.key_frame(frame).read_bytes() == scene.rgb(frame).read_bytes()
    forward, valid = flow_png.read(scene.flow(3, 4))
    assert (forward == [7.0, 0.0]).all()
    assert valid[:, :53].all()
    assert not valid[:, 53:].any()
    backward, valid = flow_png.read(scene.flow(4, 3))
    assert (backward == [-7.0, 0.0]).all()
    assert valid[:, 7:].all()
    assert not valid[:, :7].any()
    assert context.frames == 10
    assert context.facts == {"keyframes": 2, "median_score": 2.5}
    assert recorder.steps[-1] == (10, 10)
    assert recorder.steps == sorted(recorder.steps)


def test_configuration_decides_score_ratio_and_gap(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [texture(i, 40, 60) for i in range(5)])
    overrides = ["keyframes.score=max", "keyframes.ratio=0.8", "keyframes.min_gap=1"]
    run_stage("keyframes", scene, overrides, KnownFlow([1.0, 4.0, 3.0, 2.0]))
    info = keyframe_info.read(scene.keyframe_info)
    assert (info.score, info.ratio, info.min_gap) == ("max", 0.8, 1)
    assert info.keyframes == [0, 1, 2, 3]


def test_one_frame_is_its_own_keyframe(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [texture()])
    context, recorder = run_stage("keyframes", scene)
    for artifact in ("flow", "key_frames"):
        validate_artifact(scene, artifact, thorough=True)
    assert keyframe_info.read(scene.keyframe_info).keyframes == [0]
    assert scene.files("flow") == []
    assert context.facts == {"keyframes": 1, "median_score": None}
    assert recorder.steps == [(1, 1)]


def test_two_real_frames(tmp_path: Path) -> None:
    first = texture(2)
    scene = make_scene(tmp_path, [first, moved(first, shift(6.0, 2.0))])
    context, _ = run_stage("keyframes", scene)
    for artifact in ("flow", "key_frames"):
        validate_artifact(scene, artifact, thorough=True)
    info = keyframe_info.read(scene.keyframe_info)
    assert info.keyframes == [0]
    assert info.scores == pytest.approx([np.hypot(6, 2)], abs=0.3)
    flow, valid = flow_png.read(scene.flow(0, 1))
    assert np.median(flow, axis=(0, 1)) == pytest.approx([6.0, 2.0], abs=0.1)
    assert valid[20:-20, 20:-20].mean() > 0.95
    assert context.facts["keyframes"] == 1


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = texture(4)
    frames = [moved(first, shift(3.0 * i, -1.5 * i)) for i in range(4)]
    scenes = [make_scene(tmp_path / str(run), frames) for run in range(2)]
    for scene in scenes:
        run_stage("keyframes", scene)
    one, two = scenes
    for artifact in ("flow", "key_frames"):
        assert len(one.files(artifact)) == len(two.files(artifact)) > 1
        for a, b in zip(one.files(artifact), two.files(artifact), strict=True):
            assert a.read_bytes() == b.read_bytes()


def test_only_a_few_flow_fields_are_held(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [texture(i, 30, 40) for i in range(25)])
    backend = KnownFlow([1.0] * 24)
    run_stage("keyframes", scene, backend=backend)
    assert backend.most_alive <= 5


def test_a_damaged_frame_is_an_error_that_names_it(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [texture(i, 40, 60) for i in range(6)])
    scene.rgb(3).write_bytes(scene.rgb(3).read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"00004\.jpg"):
        run_stage("keyframes", scene)


def test_a_frame_of_another_size_is_an_error(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [texture(0, 40, 60), texture(1, 40, 64)])
    with pytest.raises(ArtifactError, match=r"64x40, scene\.json says 60x40"):
        run_stage("keyframes", scene)
