"""The motion analysis on layered clips whose flow, pictures and masks are exact."""

from __future__ import annotations

import numpy as np
import pytest
from motion_layers import Layer, LayeredClip, iou

from dynamicverse.backends.analysis.motion import MotionAnalysis
from dynamicverse.config import AnalysisConfig
from dynamicverse.formats.objects import DynamicObjects


def analyse(clip: LayeredClip) -> tuple[DynamicObjects, list[np.ndarray]]:
    """The objects, and labels of every frame (zeros where none were written)."""
    labels = [np.zeros(clip.size[::-1], np.uint8) for _ in range(len(clip))]
    done: list[int] = []
    found = MotionAnalysis(AnalysisConfig()).analyse(clip, labels.__setitem__, done.append)
    assert done == sorted(done)
    assert done[-1] == len(clip)
    assert {int(i) for m in labels for i in np.unique(m)} - {0} == {
        o.tracking_id for o in found.dynamic
    }
    return found, labels


def pan(t: int) -> tuple[int, int]:
    return 3 * t, t


def right(t: int) -> tuple[int, int]:
    return 30 + 6 * t, 40


def test_one_mover_under_a_panning_camera() -> None:
    clip = LayeredClip(14, pan, (Layer(right, instance=1),))
    found, labels = analyse(clip)
    (mover,) = found.dynamic
    scores = [iou(m > 0, true > 0) for m, true in zip(labels, clip.masks, strict=True)]
    assert min(scores) > 0.75
    assert np.mean(scores) > 0.88
    assert (mover.tracking_id, mover.name, mover.category) == (1, "moving object 1", "unknown")
    assert [p.frame for p in mover.position] == list(range(14))
    for p in mover.position:  # boxes are of the labels
        rows, columns = np.nonzero(labels[p.frame])
        assert p.box == [columns.min(), rows.min(), columns.max(), rows.max()]
    # against a background that moves (3, 1): (6, 0) - (3, 1) is 3.16 px to the right
    assert "3.16 px/frame to the right" in mover.reasoning
    assert "14 of 14 frames (100%)" in mover.reasoning
    assert mover.confidence is not None
    assert mover.confidence > 0.8
    assert not found.static_scene
    assert found.camera_motion == "rotation"
    assert "no parallax" in found.notes[0]


def test_a_static_camera() -> None:
    clip = LayeredClip(10, layers=(Layer(right, instance=1),))
    found, labels = analyse(clip)
    assert len(found.dynamic) == 1
    assert found.camera_motion == "static"
    assert np.mean([iou(m > 0, t > 0) for m, t in zip(labels, clip.masks, strict=True)]) > 0.85


@pytest.mark.parametrize("camera", [lambda t: (0, 0), pan])
def test_nothing_moves(camera: object) -> None:
    found, labels = analyse(LayeredClip(10, camera))  # type: ignore[arg-type]
    assert found.dynamic == []
    assert found.static_scene
    assert not any(m.any() for m in labels)


def parallax_layers() -> tuple[Layer, ...]:
    """A static ground in strips, the nearer the faster, and things that stand on it."""
    strips = [(50, 3), (65, 4), (80, 5), (95, 6), (108, 7)]
    things = [(30, 55, 4), (130, 78, 6)]
    return (
        *(
            Layer(lambda t, y=y, v=v: (-200 + v * t, y), size=(600, 80), seed=10 + v)
            for y, v in strips
        ),
        *(
            Layer(lambda t, x=x, y=y, v=v: (x + v * t, y), size=(26, 30), seed=20 + v)
            for x, y, v in things
        ),
    )


def test_parallax_is_not_motion() -> None:
    clip = LayeredClip(12, lambda t: (2 * t, 0), parallax_layers())
    found, labels = analyse(clip)
    assert np.mean([(m > 0).mean() for m in labels]) < 0.005
    assert found.camera_motion == "moving"


def test_a_mover_among_parallax() -> None:
    mover = Layer(lambda t: (80 + 2 * t, 5 + 4 * t), instance=1, seed=33)
    clip = LayeredClip(12, lambda t: (2 * t, 0), (*parallax_layers(), mover))
    found, labels = analyse(clip)
    assert len(found.dynamic) == 1
    scores = [iou(m > 0, true == 1) for m, true in zip(labels, clip.masks, strict=True)]
    assert np.mean(scores) > 0.6


def test_two_movers_have_two_ids_that_stay() -> None:
    clip = LayeredClip(
        14,
        pan,
        (
            Layer(lambda t: (20 + 8 * t, 12), instance=1, seed=5),
            Layer(lambda t: (150 - 4 * t, 78), instance=2, seed=6),
        ),
    )
    found, labels = analyse(clip)
    assert len(found.dynamic) == 2
    owners = [
        {
            int(np.bincount(m[true == i]).argmax())
            for m, true in zip(labels, clip.masks, strict=True)
        }
        for i in (1, 2)
    ]
    assert all(len(o) == 1 for o in owners)
    assert owners[0] != owners[1]
    assert 0 not in owners[0] | owners[1]


def test_an_id_survives_occlusion() -> None:
    """A small mover passes behind a wide static post and comes out again."""
    mover = Layer(lambda t: (10 + 7 * t, 50), size=(30, 30), instance=1, seed=5)
    post = Layer(lambda t: (90, 0), size=(46, 120), seed=8)
    clip = LayeredClip(26, layers=(mover, post))
    hidden = [t for t, m in enumerate(clip.masks) if not m.any()]
    assert len(hidden) >= 2
    found, labels = analyse(clip)
    assert len(found.dynamic) == 1
    assert {1} == set(np.unique(labels[hidden[0] - 4])) - {0}
    assert {1} == set(np.unique(labels[hidden[-1] + 5])) - {0}


def test_one_frame_says_that_motion_is_unobservable() -> None:
    found, _ = analyse(LayeredClip(1))
    assert found.dynamic == []
    assert not found.static_scene  # not known
    assert found.camera_motion == "unknown"
    assert found.notes == ["one frame: motion unobservable"]


def test_two_frames_are_enough_for_a_fast_mover() -> None:
    clip = LayeredClip(2, pan, (Layer(lambda t: (80 + 14 * t, 40), instance=1),))
    found, labels = analyse(clip)
    assert len(found.dynamic) == 1
    assert iou(labels[0] > 0, clip.masks[0] > 0) > 0.6


def test_no_consistent_flow_gives_no_object() -> None:
    class Lost(LayeredClip):
        def flow(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
            flow, valid = super().flow(source, target)
            return flow, np.zeros_like(valid)

    found, _ = analyse(Lost(6, pan, (Layer(right, instance=1),)))
    assert found.dynamic == []
    assert found.camera_motion == "unknown"


def test_large_and_small_pictures() -> None:
    for factor in (0.5, 2):
        size = (int(216 * factor), int(120 * factor))
        box = (int(44 * factor), int(36 * factor))
        mover = Layer(
            lambda t, f=factor: (int(30 * f) + round(6 * f) * t, int(40 * f)), box, instance=1
        )
        clip = LayeredClip(9, lambda t, f=factor: (round(2 * f) * t, 0), (mover,), size)
        found, labels = analyse(clip)
        assert len(found.dynamic) == 1
        assert labels[4].shape == size[::-1]
        assert iou(labels[4] > 0, clip.masks[4] > 0) > 0.6


def test_the_same_clip_gives_the_same_answer() -> None:
    clip = LayeredClip(8, pan, (Layer(right, instance=1),))
    (one, labels_one), (two, labels_two) = analyse(clip), analyse(clip)
    assert one == two
    assert np.array_equal(labels_one, labels_two)
