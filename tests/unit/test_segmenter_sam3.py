"""The SAM 3 adapter on the real network with tiny random weights: names, boxes, ids, memory."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from test_segmenter_sam2 import SIZE, Clip, _objects, _segment

from dynamicverse.backends.segmenter import sam2, sam3
from dynamicverse.backends.segmenter.sam3 import Sam3
from dynamicverse.config import SegmentationConfig
from dynamicverse.errors import MissingModelError
from dynamicverse.formats.objects import DynamicObjects

WHOLE = [0.0, 0.0, 95.0, 63.0]


def _named(objects: DynamicObjects, *names: str) -> DynamicObjects:
    """The same with names, as a vision-language model gives them."""
    dynamic = [
        item.model_copy(update={"name": name, "category": "other"})
        for item, name in zip(objects.dynamic, names, strict=True)
    ]
    return objects.model_copy(update={"dynamic": dynamic})


def _lively(model: Any) -> Any:
    """Weights so large that masks, memories and pointers differ from frame to frame."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.1 if weight.dim() > 1 else 0.3)
    tracker = model.tracker_model
    torch.nn.init.constant_(tracker.mask_decoder.pred_obj_score_head.proj_out.bias, 3.0)
    return model


def _session(sam: Sam3, count: int, frames: Any) -> Any:
    return sam._session(SIZE, count, frames, sam._model.config, torch.device("cpu"))


def _pixels(sam: Sam3, count: int) -> Any:
    frames = tiny_models.clip(count, SIZE)
    return sam._answers.image_processor(images=frames, return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module")
def shared() -> Sam3:
    model, processor = tiny_models.sam3()
    return Sam3(SegmentationConfig(), _lively(model), processor)


@pytest.fixture
def backend(shared: Sam3, monkeypatch: pytest.MonkeyPatch) -> Sam3:
    """Of random weights few instances are taken, or most of a test's time goes into them."""
    monkeypatch.setattr(shared._model, "max_num_objects", 4)
    shared.notes.clear()
    return shared


@pytest.fixture
def steady(backend: Sam3, monkeypatch: pytest.MonkeyPatch) -> Sam3:
    """What the first frame finds stays, and is prompted again in every fourth."""
    for name in ("assoc_iou_thresh", "trk_assoc_iou_thresh", "det_nms_thresh"):
        monkeypatch.setattr(backend._model, name, 0.0)
    for name in ("high_conf_thresh", "high_iou_thresh"):
        monkeypatch.setattr(backend._model, name, -1.0)
    monkeypatch.setattr(backend._model, "recondition_every_nth_frame", 4)
    monkeypatch.setattr(backend._model, "hotstart_delay", 0)
    return backend


def test_every_frame_gets_a_mask_with_the_ids_of_the_analysis(backend: Sam3) -> None:
    found = _objects((3, [(0, WHOLE)]), (200, [(2, [50, 10, 80, 50])]), (9, [(1, [5, 5, 30, 30])]))
    masks = _segment(backend, Clip(5), _named(found, "car", "dog", "dog"))
    assert len(masks) == 5
    for label_HW in masks:
        assert label_HW.shape == SIZE[::-1]
        assert label_HW.dtype == np.uint8
        assert set(np.unique(label_HW)) <= {0, 3, 9, 200}
    assert any((label_HW == 3).any() for label_HW in masks)


def test_instances_get_the_ids_of_the_objects_in_whose_boxes_they_are(
    backend: Sam3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inside(x0: int) -> Any:
        inside_HW = np.zeros(SIZE[::-1], bool)
        inside_HW[20:40, x0 : x0 + 20] = True
        return inside_HW

    asked: list[list[str]] = []

    def answers(clip: Clip, names: list[str]) -> Any:
        asked.append(names)
        for t in range(len(clip)):
            parked = ("car", 2, 0.9, inside(60))
            yield t, [("car", 0, 0.9, inside(2 * t)), ("dog", 1, 0.9, inside(30)), parked]

    monkeypatch.setattr(backend, "_asked", answers)
    found = _objects(
        (3, [(0, [0, 20, 19, 39]), (4, [8, 20, 27, 39])]),
        (200, [(2, [28, 19, 49, 41])]),
        (9, [(1, [60, 45, 95, 63])]),
    )
    named = _named(found, "car", "dog", "car")
    masks = _segment(backend, Clip(5), named)
    assert asked == [["car", "dog"]]
    for t, label_HW in enumerate(masks):
        assert np.array_equal(label_HW == 3, inside(2 * t))
        assert np.array_equal(label_HW == 200, inside(30))
    assert backend.notes == ["car was not found by its name: it is followed from its box"]
    alone = _objects((9, [(1, [60, 45, 95, 63])]))
    for label_HW, by_box in zip(masks, _segment(backend, Clip(5), alone), strict=True):
        free_HW = ~np.isin(label_HW, (3, 200))
        assert np.array_equal(label_HW[free_HW], by_box[free_HW])


def test_all_names_are_asked_in_one_session_and_frames_are_read_once(
    steady: Sam3, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Any] = []
    original = steady._session
    monkeypatch.setattr(
        steady, "_session", lambda *made: sessions.append(original(*made)) or sessions[-1]
    )
    clip = Clip(10)
    answers = list(steady._asked(clip, ["car", "dog"]))
    assert [frame for frame, _ in answers] == list(range(10))
    assert clip.reads == 10
    assert len(sessions) == 1
    assert list(sessions[0].prompts.values()) == ["car", "dog"]
    found = [one for _, those in answers for one in those]
    assert {name for name, *_ in found} == {"car", "dog"}
    assert len({instance for _, instance, *_ in found}) > 2
    for _, _, score, inside_HW in found:
        assert 0.0 <= score <= 1.0
        assert (inside_HW.shape, inside_HW.dtype) == (SIZE[::-1], bool)


def test_nothing_that_moves_gives_empty_masks_without_the_network(backend: Sam3) -> None:
    clip = Clip(3)
    assert not np.any(_segment(backend, clip, _objects()))
    assert clip.reads == 0


def test_the_flat_session_gives_what_the_one_of_transformers_gives(steady: Sam3) -> None:
    """Over 26 frames: memories and pointers are full, and more prompts than are looked at."""
    modeling = tiny_models.real("transformers.models.sam3_video.modeling_sam3_video")
    pixels = _pixels(steady, 26)
    theirs = modeling.Sam3VideoInferenceSession(
        video=pixels, video_height=SIZE[1], video_width=SIZE[0], dtype=torch.float32
    )
    ours = _session(steady, 26, lambda t: pixels[t])
    for session in (ours, theirs):
        steady._ask(session, "car")
    pairs = zip(
        steady._model.propagate_in_video_iterator(ours),
        steady._model.propagate_in_video_iterator(theirs),
        strict=True,
    )
    before = None
    for mine, other in pairs:
        assert sorted(mine.obj_id_to_mask) == sorted(other.obj_id_to_mask)
        masks = [other.obj_id_to_mask[i] for i in sorted(other.obj_id_to_mask)]
        for i, mask in zip(sorted(mine.obj_id_to_mask), masks, strict=True):
            torch.testing.assert_close(mine.obj_id_to_mask[i], mask, atol=0, rtol=0)
        assert before is None or not torch.equal(before, masks[0])
        before = masks[0]
    prompted = [out["cond_frame_outputs"] for out in theirs.output_dict_per_obj.values()]
    assert max(len(frames) for frames in prompted) > 4
    assert _held(ours) < _held(theirs) / 2


def _held(session: Any) -> int:
    """Bytes of the tensors that a session holds on to."""
    seen: dict[int, int] = {}
    left: list[Any] = [vars(session), vars(session.cache)]
    while left:
        one = left.pop()
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list | tuple):
            left.extend(one)
    return sum(seen.values())


def test_memory_does_not_grow_with_the_clip(steady: Sam3) -> None:
    pixels = _pixels(steady, 40)
    session = _session(steady, 40, lambda t: pixels[t])
    steady._ask(session, "car")
    answers = steady._model.propagate_in_video_iterator(session)
    held = [_held(session) for _ in answers]
    assert session.get_obj_num() == 3
    assert held[39] < 1.01 * held[23]  # at frames of the same turn; pointers are small
    assert len(session.obj_id_to_tracker_score_frame_wise) <= 2
    assert len(session.suppressed_obj_ids) <= 2
    for outputs in session.output_dict_per_obj.values():
        assert len(outputs["non_cond_frame_outputs"]) <= 16


def test_an_object_that_leaves_shifts_no_masks(backend: Sam3) -> None:
    """`transformers` numbers a frame's masks by the objects that are left at its end."""
    session = _session(backend, 4, lambda t: torch.zeros(3, 112, 112))
    for i in (0, 1, 2):
        session.obj_id_to_idx(i)
        session.obj_id_to_prompt_id[i] = 0
    session.remove_object(1)
    masks = torch.arange(3.0)[:, None, None].expand(3, 8, 8)
    plan = {"new_det_out_inds": [], "new_det_obj_ids": []}
    found = backend._model.build_outputs(session, {}, masks, plan)
    assert {i: mask[0, 0, 0].item() for i, mask in found.items()} == {0: 0.0, 1: 1.0, 2: 2.0}
    session.obj_ids = [0, 2]  # as the network leaves it
    session.get_frame(1)
    assert session.obj_ids == [0, 2]
    assert session.get_obj_num() == 2
    assert session.obj_id_to_idx(2) == 1


def test_a_name_that_finds_nothing_is_noted_and_the_box_is_followed(
    backend: Sam3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend._model, "score_threshold_detection", 1.0)
    found = _objects((4, [(0, [10, 10, 40, 40])]), (6, []))
    masks = _segment(backend, Clip(3), _named(found, "car", "dog"))
    assert backend.notes == [
        "car was not found by its name: it is followed from its box",
        "dog was not found by its name: it has no box either",
    ]
    by_box = _segment(backend, Clip(3), _objects((4, [(0, [10, 10, 40, 40])])))
    assert np.array_equal(masks, by_box)
    assert set(np.unique(masks)) <= {0, 4}


def test_objects_without_a_name_are_not_asked_for(
    backend: Sam3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_asked", lambda *_: pytest.fail("asked"))
    clip = Clip(6)
    masks = _segment(backend, clip, _objects((4, [(2, [10, 10, 40, 40])])))
    assert len(masks) == clip.reads == 6
    assert backend.notes == []


def test_boxes_are_followed_as_by_the_tracker_of_transformers(backend: Sam3) -> None:
    transformers = tiny_models.real("transformers")
    model = transformers.Sam3TrackerVideoModel(backend._model.config.tracker_config).eval()
    state = backend._model.tracker_model.state_dict()
    for part, name in (
        (backend._model.detector_model.vision_encoder.backbone, "backbone"),
        (backend._model.tracker_neck, "neck"),
    ):
        state |= {f"vision_encoder.{name}.{key}": value for key, value in part.state_dict().items()}
    model.load_state_dict(state)
    scores: dict[int, Any] = {}
    original = sam2.Joined.add

    def add(self: Any, frame: int, earlier: bool, i: int, scores_HW: Any) -> None:
        scores[frame] = scores_HW
        original(self, frame, earlier, i, scores_HW)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam2.Joined, "add", add)
        _segment(backend, Clip(20), _objects((3, [(2, [10, 10, 40, 40])])))
    processor = transformers.Sam3TrackerVideoProcessor(
        image_processor=backend._answers.image_processor,
        video_processor=backend._answers.video_processor,
        target_size=112,
    )
    for order, reverse in ((range(2, 20), False), (range(2, -1, -1), True)):
        session = transformers.Sam3TrackerVideoInferenceSession(
            video=_pixels(backend, 20),
            video_height=SIZE[1],
            video_width=SIZE[0],
            dtype=torch.float32,
        )
        processor.add_inputs_to_inference_session(
            session, frame_idx=2, obj_ids=[3], input_boxes=[[[10, 10, 40, 40]]]
        )
        for t in order:
            theirs_HW = model(inference_session=session, frame_idx=t, reverse=reverse).pred_masks[
                0, 0
            ]
            assert theirs_HW.std() > 0.01
            torch.testing.assert_close(scores[t], theirs_HW, atol=2e-3, rtol=2e-3)


def test_a_long_clip_is_not_held(backend: Sam3, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = _objects((3, [(7, [10, 10, 40, 40])]))
    whole = _segment(backend, Clip(24), objects)
    monkeypatch.setattr(sam2, "HELD", 4)
    assert np.mean(np.array(_segment(backend, Clip(24), objects)) != np.array(whole)) < 1e-3


def test_a_long_name_is_cut_to_what_the_network_reads(backend: Sam3) -> None:
    session = _session(backend, 1, lambda t: torch.zeros(3, 112, 112))
    backend._ask(session, "a very long name of a thing that has far too many letters")
    assert session.prompt_input_ids[0].shape == (1, 32)
    assert session.prompt_attention_masks[0].sum() == 32


def test_so_many_instances_and_no_more_are_followed(
    steady: Sam3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam3, "MOST", 4)
    answers = list(steady._asked(Clip(2), ["car", "dog"]))
    assert all(len(found) <= 4 for _, found in answers)
    assert steady.notes == ["the names found 4 instances: if there are more, they were left out"]


def test_duplicates_and_specks_are_found_without_a_download(backend: Sam3) -> None:
    tools = tiny_models.real("transformers").models.sam3_video.modeling_sam3_video
    masks_NHW = torch.full((3, 12, 12), -1.0)
    masks_NHW[0, :6, :6] = masks_NHW[1, :6, :5] = masks_NHW[2, 8:, 8:] = 1.0
    kept = tools.nms_masks(torch.tensor([0.6, 0.9, 0.7]), masks_NHW, 0.5, 0.1)
    assert kept.tolist() == [False, True, True]
    speck_1HW = torch.full((1, 1, 12, 12), -1.0)
    speck_1HW[..., :6, :6] = 1.0
    speck_1HW[..., 10, 10] = 1.0
    speck_1HW[..., 3, 3] = -1.0
    cleaned = tools.fill_holes_in_mask_scores(speck_1HW, 4) > 0
    expected = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    expected[..., :6, :6] = True
    assert torch.equal(cleaned, expected)


def test_half_precision_runs_through(backend: Sam3, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the large parts run in bfloat16."""
    monkeypatch.setattr(backend, "_mixed", lambda: torch.autocast("cpu", torch.bfloat16))
    found = _objects((3, [(0, WHOLE)]), (5, [(1, [10, 10, 40, 40])]))
    masks = _segment(backend, Clip(3), _named(found, "car", "dog"))
    assert len(masks) == 3


def test_missing_weights_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    tiny_models.real("transformers")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(MissingModelError, match="dynamicverse weights pull sam3"):
        Sam3(SegmentationConfig())


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("transformers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingModelError, match=r"sam3.*pip install 'dynamicverse\[gpu\]'"):
        Sam3(SegmentationConfig())
    gc.collect()
