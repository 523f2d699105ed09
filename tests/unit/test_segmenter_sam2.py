"""The SAM 2 adapter on the real network with tiny random weights: ids, passes, memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models

from dynamicverse.backends.segmenter.sam2 import Sam2, prompts_of
from dynamicverse.config import SegmentationConfig
from dynamicverse.errors import DynamicVerseError, MissingModelError
from dynamicverse.formats.objects import DynamicObject, DynamicObjects, Position

SIZE = (96, 64)


class Clip:
    """Frames in memory; counts the reads."""

    size = SIZE
    keyframes = (0,)

    def __init__(self, count: int) -> None:
        self._frames = tiny_models.clip(count, SIZE)
        self.reads = 0

    def __len__(self) -> int:
        return len(self._frames)

    def rgb(self, t: int) -> Any:
        self.reads += 1
        return self._frames[t]

    def flow(self, source: int, target: int) -> Any:
        raise AssertionError("not needed")


def _objects(*found: tuple[int, list[tuple[int, list[float]]]]) -> DynamicObjects:
    return DynamicObjects(
        dynamic=[
            DynamicObject(
                name=f"object {i}",
                category="unknown",
                tracking_id=i,
                reasoning="",
                confidence=None,
                position=[Position(frame=t, box=box) for t, box in places],
            )
            for i, places in found
        ],
        static_scene=not found,
        camera_motion="unknown",
        notes=[],
    )


def _segment(backend: Sam2, clip: Clip, objects: DynamicObjects) -> list[Any]:
    masks: list[Any] = []
    done: list[int] = []

    def write(t: int, label_HW: Any) -> None:
        assert t == len(masks)
        masks.append(label_HW)

    backend.segment(clip, objects, lambda frame: None, write, done.append)
    assert done == list(range(1, len(clip) + 1))
    return masks


def test_every_frame_gets_a_mask_with_the_ids_of_the_analysis() -> None:
    backend = Sam2(SegmentationConfig(), tiny_models.sam2())
    objects = _objects((3, [(0, [10, 10, 40, 40])]), (200, [(2, [50, 10, 80, 50])]))
    masks = _segment(backend, Clip(5), objects)
    assert len(masks) == 5
    for label_HW in masks:
        assert label_HW.shape == SIZE[::-1]
        assert label_HW.dtype == np.uint8
        assert set(np.unique(label_HW)) <= {0, 3, 200}
    assert any(label_HW.any() for label_HW in masks)


def test_nothing_that_moves_gives_empty_masks_without_the_network() -> None:
    clip = Clip(3)
    masks = _segment(Sam2(SegmentationConfig(), tiny_models.sam2()), clip, _objects())
    assert not np.any(masks)
    assert clip.reads == 0


class Boxes:
    """Stands in for the network: an object is seen in its box, 2 px to the right a frame."""

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.seen: list[tuple[int, bool]] = []

    def to(self, *where: Any) -> Boxes:
        return self

    def eval(self) -> Boxes:
        return self

    def __call__(self, inference_session: Any, frame_idx: int, reverse: bool) -> Any:
        import torch

        self.seen.append((frame_idx, reverse))
        side = self.config.image_size
        logits = torch.full((len(inference_session.obj_ids), 1, side, side), -5.0)
        for n, inputs in inference_session.point_inputs_per_obj.items():
            [(at, given)] = inputs.items()
            (x0, y0), (x1, y1) = given["point_coords"][0, 0].round().int().tolist()
            shift = round((frame_idx - at) * 2 * side / SIZE[0])
            logits[n, 0, y0:y1, max(0, x0 + shift) : max(0, x1 + shift)] = 5.0

        return SimpleNamespace(pred_masks=logits, object_ids=list(inference_session.obj_ids))


def test_objects_are_followed_both_ways_from_their_largest_box() -> None:
    model = Boxes(tiny_models.sam2())
    objects = _objects(
        (1, [(0, [6, 6, 12, 12]), (4, [18, 6, 36, 30])]), (2, [(0, [60, 36, 84, 60])])
    )
    masks = _segment(Sam2(SegmentationConfig(), model), Clip(6), objects)
    assert [t for t, reverse in model.seen if reverse] == [4, 3, 2, 1, 0]
    for t, label_HW in enumerate(masks):
        assert label_HW[18, 27 + 2 * (t - 4)] == 1
        assert label_HW[48, 72 + 2 * t] == 2
        assert label_HW[2, 2] == 0
        assert (label_HW == 1).sum() == pytest.approx(18 * 24, rel=0.2)


def test_ids_that_do_not_fit_a_mask_are_an_error() -> None:
    with pytest.raises(DynamicVerseError, match="300"):
        prompts_of(_objects((300, [(0, [0, 0, 5, 5])])))


def test_missing_weights_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    tiny_models.real("transformers")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(MissingModelError, match="dynamicverse weights pull sam2"):
        Sam2(SegmentationConfig())
