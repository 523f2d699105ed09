"""The SAM 2 adapter on the real network with tiny random weights: ids, passes, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from dynamicverse.backends.segmenter import sam2
from dynamicverse.backends.segmenter.joined import Joined
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

    def __init__(self, side: int) -> None:
        self.side = side
        self.seen: list[tuple[int, int]] = []
        self.boxes: dict[int, Any] = {}

    def pictures(self, pixels_B3HW: Any) -> list[None]:
        return [None] * len(pixels_B3HW)

    def prompted(self, picture: None, boxes_N4: Any) -> tuple[Any, list[Any]]:
        return torch.stack([self._scores(box_4, 0) for box_4 in boxes_N4]), list(boxes_N4)

    def followed(self, passes: Any, pictures: list[None], frames: int) -> Any:
        for one in passes:
            one.age += 1
            one.at += one.step
            self.seen.append((one.at, one.step))
            yield one, self._scores(one.first, one.age * one.step)

    def _scores(self, box_4: Any, frames: int) -> Any:
        x0, y0, x1, y1 = box_4.round().int().tolist()
        shift = round(frames * 2 * self.side / SIZE[0])
        scores_HW = torch.full((self.side, self.side), -5.0)
        scores_HW[y0:y1, max(0, x0 + shift) : max(0, x1 + shift)] = 5.0
        return scores_HW


@pytest.mark.parametrize("held", [240, 4])
def test_objects_are_followed_both_ways_from_their_largest_box(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam2, "HELD", held)
    backend = Sam2(SegmentationConfig(), tiny_models.sam2())
    network = Boxes(backend._side)
    backend._steps = network
    objects = _objects(
        (1, [(0, [6, 6, 12, 12]), (4, [18, 6, 36, 30])]), (2, [(0, [60, 36, 84, 60])])
    )
    masks = _segment(backend, Clip(6), objects)
    assert sorted(network.seen) == sorted(
        [(t, -1) for t in range(4)] + [(5, 1)] + [(t, 1) for t in range(1, 6)]
    )
    for t, label_HW in enumerate(masks):
        assert label_HW[18, 27 + 2 * (t - 4)] == 1
        assert label_HW[48, 72 + 2 * t] == 2
        assert label_HW[2, 2] == 0
        assert (label_HW == 1).sum() == pytest.approx(18 * 24, rel=0.2)


def test_a_clip_that_is_not_held_gives_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Sam2(SegmentationConfig(), _lively(tiny_models.sam2()))
    objects = _objects((3, [(7, [10, 10, 40, 40])]), (200, [(2, [50, 10, 80, 50])]))
    clip = Clip(24)
    whole = _segment(backend, clip, objects)
    assert clip.reads == 24  # a frame is encoded once
    monkeypatch.setattr(sam2, "HELD", 4)
    assert np.mean(np.array(_segment(backend, Clip(24), objects)) != np.array(whole)) < 1e-3


def test_all_objects_at_once_give_what_transformers_gives_one_by_one() -> None:
    """Scores of 20 frames, so that memories and pointers are full."""
    transformers = tiny_models.real("transformers")
    model = _lively(tiny_models.sam2())
    backend = Sam2(SegmentationConfig(), model)
    frames = tiny_models.clip(24, SIZE)
    boxes = {3: (0, [10.0, 10, 40, 40]), 5: (0, [50.0, 10, 80, 50]), 9: (20, [30.0, 20, 60, 50])}
    found: dict[tuple[int, int], Any] = {}
    original = Joined.add

    def add(self: Any, frame: int, earlier: bool, i: int, scores_HW: Any) -> None:
        found[i, frame] = scores_HW
        original(self, frame, earlier, i, scores_HW)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Joined, "add", add)
        _segment(backend, Clip(24), _objects(*((i, [at]) for i, at in boxes.items())))
    size = {"height": backend._side, "width": backend._side}
    processor = transformers.Sam2VideoProcessor(
        image_processor=transformers.Sam2ImageProcessor(size=size),
        video_processor=transformers.Sam2VideoVideoProcessor(size=size),
        target_size=backend._side,
    )
    pixels = processor.image_processor(images=frames, return_tensors="pt")["pixel_values"]
    for i, (at, box) in boxes.items():
        for order, reverse in ((range(at, 24), False), (range(at, -1, -1), True)):
            session = transformers.Sam2VideoInferenceSession(
                video=pixels,
                video_height=SIZE[1],
                video_width=SIZE[0],
                dtype=torch.float32,
            )
            processor.add_inputs_to_inference_session(
                session, frame_idx=at, obj_ids=[i], input_boxes=[[box]]
            )
            for t in order:
                output = model(inference_session=session, frame_idx=t, reverse=reverse)
                theirs_HW = output.pred_masks[0, 0]
                assert theirs_HW.std() > 0.01
                torch.testing.assert_close(found[i, t], theirs_HW, atol=2e-3, rtol=2e-3)


def _lively(model: Any) -> Any:
    """Weights so large that masks, memories and pointers differ from frame to frame."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.15 if weight.dim() > 1 else 0.5)
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.proj_out.bias, 3.0)
    return model


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
