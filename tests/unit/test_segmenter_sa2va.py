"""The Sa2VA adapter. Its code lies with its weights on the hub, which no test can download: what
is tested is what it asks, what it makes of the answers, and that no code runs unasked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_segmenter_sam2 import SIZE, Clip, _objects, _segment

from dynamicverse.backends import weights
from dynamicverse.backends.segmenter import sa2va
from dynamicverse.backends.segmenter.sa2va import Sa2va
from dynamicverse.config import SegmentationConfig
from dynamicverse.errors import AnswerError, MissingModelError

COMMIT = "b" * 40


class Remote:
    """Stands in for the remote code: masks by the name in the question."""

    def __init__(self, masks: dict[str, list[Any]]) -> None:
        self.masks, self.asked = masks, []

    def to(self, where: Any) -> Remote:
        return self

    def eval(self) -> Remote:
        return self

    def predict_forward(self, **asked: Any) -> dict[str, Any]:
        assert asked["tokenizer"] == "tokens"
        assert [picture.size for picture in asked["video"]] == [SIZE] * len(asked["video"])
        self.asked.append(asked["text"])
        name = (
            asked["text"].removeprefix("<image>Please segment the ").removesuffix(" in this video.")
        )
        return {"prediction": "[SEG]", "prediction_masks": self.masks[name]}


def _box(frames: int, left: int, right: int) -> Any:
    inside_FHW = np.zeros((frames, SIZE[1], SIZE[0]), bool)
    inside_FHW[:, 10:20, left:right] = True
    return inside_FHW


def _backend(**masks: list[Any]) -> Sa2va:
    named = {name.replace("_", " "): found for name, found in masks.items()}
    return Sa2va(SegmentationConfig(), Remote(named), "tokens")


def test_every_object_is_asked_for_and_keeps_its_id() -> None:
    box = [1.0, 1.0, 5.0, 5.0]
    objects = _objects((3, [(0, box)]), (200, [(1, box)]))
    backend = _backend(object_3=[_box(4, 10, 30)], object_200=[_box(4, 25, 50), _box(4, 60, 70)])
    masks = _segment(backend, Clip(4), objects)
    assert len(backend._model.asked) == 2
    for label_HW in masks:
        assert set(np.unique(label_HW[10:20, 10:30])) == {3}  # the first named keeps its pixels
        assert set(np.unique(label_HW[10:20, 30:50])) == {200}
        assert set(np.unique(label_HW[10:20, 60:70])) == {200}
        assert not label_HW[20:].any()
    assert backend.notes == []


def test_an_object_that_is_not_found_is_noted() -> None:
    backend = _backend(object_3=[])
    masks = _segment(backend, Clip(2), _objects((3, [(0, [1, 1, 5, 5])])))
    assert not np.any(masks)
    assert backend.notes == ["object 3 was not found"]


def test_masks_of_another_size_are_an_error() -> None:
    backend = _backend(object_3=[_box(3, 10, 30)])
    with pytest.raises(AnswerError, match="for a clip"):
        _segment(backend, Clip(2), _objects((3, [(0, [1, 1, 5, 5])])))


def _pulled(home: Path) -> None:
    repository = home / "hub" / "models--ByteDance--Sa2VA-8B"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repository / "dynamicverse-files.json").write_text('["config.json"]')


def test_remote_code_runs_only_at_the_commit_that_was_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    loaded: list[dict[str, Any]] = []

    def load(folder: Path, **options: Any) -> str:
        loaded.append(options | {"folder": folder})
        return "loaded"

    auto = SimpleNamespace(from_pretrained=load)
    library = SimpleNamespace(AutoModel=auto, AutoTokenizer=auto)
    monkeypatch.setattr(sa2va, "package", lambda *_: library)
    with pytest.raises(MissingModelError, match="weights pull sa2va"):
        sa2va._loaded()
    _pulled(tmp_path)
    assert weights.present(weights.REGISTRY["sa2va"])
    with pytest.raises(MissingModelError, match=f"DYNAMICVERSE_TRUST_SA2VA={COMMIT}"):
        sa2va._loaded()
    monkeypatch.setenv("DYNAMICVERSE_TRUST_SA2VA", "c" * 40)
    with pytest.raises(MissingModelError, match="runs code from"):
        sa2va._loaded()
    assert loaded == []
    monkeypatch.setenv("DYNAMICVERSE_TRUST_SA2VA", COMMIT)
    assert sa2va._loaded() == ("loaded", "loaded")
    assert all(one["folder"].name == COMMIT and one["local_files_only"] for one in loaded)
