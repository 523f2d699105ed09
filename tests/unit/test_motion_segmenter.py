"""The motion segmenter: coarse labels become masks that end where the objects end."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from motion_layers import Layer, LayeredClip, iou

from dynamicverse.backends.segmenter.motion import MotionSegmenter
from dynamicverse.config import SegmentationConfig
from dynamicverse.formats.objects import DynamicObject, DynamicObjects

TWO = (
    Layer(lambda t: (20 + 5 * t, 12), instance=1, seed=5),
    Layer(lambda t: (150 - 4 * t, 70), instance=2, seed=6),
)


def named(*ids: int) -> DynamicObjects:
    return DynamicObjects(
        dynamic=[
            DynamicObject(
                name=f"moving object {i}",
                category="unknown",
                tracking_id=i,
                reasoning="",
                confidence=None,
                position=[],
            )
            for i in ids
        ],
        static_scene=not ids,
        camera_motion="moving",
        notes=[],
    )


def segment(
    clip: LayeredClip, objects: DynamicObjects, coarse: Callable[[int], np.ndarray | None]
) -> list[np.ndarray]:
    found: list[np.ndarray] = []

    def write(frame: int, ids_HW: np.ndarray) -> None:
        assert frame == len(found)
        found.append(ids_HW)

    done: list[int] = []
    segmenter = MotionSegmenter(SegmentationConfig())
    segmenter.segment(clip, objects, coarse, write, done.append)
    assert done == list(range(1, len(clip) + 1))
    assert all(m.dtype == np.uint8 and m.shape == clip.size[::-1] for m in found)
    return found


def blocky(mask: np.ndarray, by: int = 3) -> np.ndarray:
    """A mask grown by some pixels, with cut corners."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))
    return cv2.dilate(mask, kernel)


def test_masks_are_nearer_the_truth_than_the_labels() -> None:
    clip = LayeredClip(6, lambda t: (t, 0), TWO)
    truth = clip.masks
    coarse = [blocky(m) for m in truth]
    found = segment(clip, named(1, 2), coarse.__getitem__)
    for i in (1, 2):
        before = np.mean([iou(c == i, t == i) for c, t in zip(coarse, truth, strict=True)])
        after = np.mean([iou(f == i, t == i) for f, t in zip(found, truth, strict=True)])
        assert 1 - after < 0.75 * (1 - before)
        assert after > 0.8


def test_a_frame_that_was_missed_is_filled_by_its_neighbours() -> None:
    clip = LayeredClip(5, lambda t: (t, 0), TWO[:1])
    shaky = [m * (0 if k == 2 else 1) for k, m in enumerate(clip.masks)]
    half = shaky[2].copy()
    half[:, :50] = clip.masks[2][:, :50]  # the left part only
    shaky[2] = half
    found = segment(clip, named(1), shaky.__getitem__)
    assert iou(half > 0, clip.masks[2] > 0) < 0.6
    assert iou(found[2] > 0, clip.masks[2] > 0) > 0.8


def test_no_objects_no_pixels_and_labels_are_not_asked_for() -> None:
    def never(frame: int) -> np.ndarray:
        raise AssertionError(frame)

    found = segment(LayeredClip(3), named(), never)
    assert not any(m.any() for m in found)


def test_frames_without_labels_are_empty() -> None:
    clip = LayeredClip(2, layers=TWO)
    assert not any(m.any() for m in segment(clip, named(1, 2), lambda frame: None))


def test_ids_are_those_of_the_labels() -> None:
    clip = LayeredClip(2, layers=TWO)
    labels = [np.where(m == 1, 7, np.where(m == 2, 255, 0)).astype(np.uint8) for m in clip.masks]
    found = segment(clip, named(7, 255), labels.__getitem__)
    for f in found:
        assert set(np.unique(f)) == {0, 7, 255}


def test_one_frame() -> None:
    clip = LayeredClip(1, layers=TWO)
    found = segment(clip, named(1, 2), clip.masks.__getitem__)
    assert iou(found[0] > 0, clip.masks[0] > 0) > 0.9


def test_the_same_input_gives_the_same_masks() -> None:
    clip = LayeredClip(3, layers=TWO)
    runs = [segment(clip, named(1, 2), clip.masks.__getitem__) for _ in range(2)]
    assert np.array_equal(*runs)
