"""The plan step: what it hands to the steps after it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dynamicverse.cluster import planning
from dynamicverse.cluster.planning import Request
from dynamicverse.errors import ConfigError
from dynamicverse.runner.store import Store


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Five frame folders of one picture each."""
    folder = tmp_path / "clips"
    for name in "abcde":
        (folder / name / "rgb").mkdir(parents=True)
        cv2.imwrite(str(folder / name / "rgb" / "0.png"), np.zeros((8, 8, 3), np.uint8))
    return folder


def test_few_shards_are_listed(clips: Path, tmp_path: Path) -> None:
    request = Request(str(tmp_path / "out"), str(clips), shard_scenes=2)
    outputs = planning.plan(request, wave_shards=500).outputs()
    assert json.loads(outputs["shards"]) == [0, 1, 2]
    assert json.loads(outputs["waves"]) == []
    assert outputs["stages"].startswith("ingest,keyframes,")
    assert outputs["run"].startswith(str(tmp_path / "out") + "/.runs/clips-")


def test_many_shards_become_waves(clips: Path, tmp_path: Path) -> None:
    request = Request(str(tmp_path / "out"), str(clips), shard_scenes=1)
    outputs = planning.plan(request, wave_shards=2).outputs()
    assert json.loads(outputs["shards"]) == []
    waves = json.loads(outputs["waves"])
    assert waves == ["0-1", "2-3", "4"]


@pytest.mark.parametrize(
    ("shards", "text"),
    [([5], "5"), ([0, 1, 2], "0-2"), ([0, 2, 3, 7, 9, 10], "0,2-3,7,9-10"), ([], "")],
)
def test_spans(shards: list[int], text: str) -> None:
    assert planning.spans(shards) == text


def test_a_planned_run_is_opened_by_its_url(clips: Path, tmp_path: Path) -> None:
    first = planning.plan(Request(str(tmp_path / "out"), str(clips)), 500)
    url = first.outputs()["run"]
    again = planning.plan(Request(str(tmp_path / "out"), run=url), 500)
    assert again.run.plan == first.run.plan


def test_settings_are_checked(clips: Path, tmp_path: Path) -> None:
    request = Request(str(tmp_path / "out"), str(clips), settings="{trakcs: {grid_size: 3}}")
    with pytest.raises(ConfigError, match="did you mean 'tracks'"):
        planning.plan(request, 500)


def test_settings_reach_the_run(clips: Path, tmp_path: Path) -> None:
    request = Request(str(tmp_path / "out"), str(clips), settings="{tracks: {grid_size: 33}}")
    assert planning.plan(request, 500).run.config.tracks.grid_size == 33


def test_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no source"):
        planning.plan(Request(str(tmp_path / "out")), 500)


def test_a_workflow_without_a_plan_has_no_summary(tmp_path: Path) -> None:
    assert planning.finish(Store(str(tmp_path)), "clips-x", "Failed", 3.0) is None


def test_the_summary_is_written_beside_the_plan(clips: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    work = planning.plan(Request(store.url, str(clips)), 500)
    planning.remember(work.run, "clips-x")
    summary = planning.finish(store, "clips-x", "Succeeded", 12.5)
    assert summary is not None
    stored = json.loads(store.read(f"{work.run.folder}/summary.json") or b"")
    assert stored == json.loads(json.dumps(summary))
    assert (stored["phase"], stored["sources"], stored["seconds"]) == ("Succeeded", 5, 12.5)
