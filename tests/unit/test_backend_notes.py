"""What a backend notes of a scene reaches the scene's warnings and manifest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_vlm_flight import make_shard

from dynamicverse import backends, config
from dynamicverse.backends import BackendInfo
from dynamicverse.curation.sources import Source
from dynamicverse.formats import manifest
from dynamicverse.runner import plan
from dynamicverse.runner.events import Event
from dynamicverse.runner.execute import ShardWorker
from dynamicverse.scene import Scene

NOTE = "out of memory with a batch of 8: now 4"


def test_a_note_is_a_warning_of_the_scene_that_it_came_up_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_shard(tmp_path, 2, "http://unused/v1")
    events: list[Event] = []
    sources = [(Source(f"/v/s{i:03d}.mp4", f"s{i:03d}", "video"), 2) for i in range(2)]
    run = plan.create(
        made.run.store, "synthetic", config.load(), sources, shard_scenes=2,
        stage_names=["depth"],
    )  # fmt: skip
    worker = ShardWorker(run, made.workspace, events.append)
    notes: list[str] = []
    seen: list[int] = []

    def intrinsics(frames: Any) -> None:
        seen.append(1)
        if len(seen) == 1:
            notes.append(NOTE)

    info = BackendInfo("none", "Apache-2.0")
    fake = SimpleNamespace(info=info, notes=notes, device="cuda", intrinsics=intrinsics)
    monkeypatch.setattr(backends, "load", lambda *_: fake)
    worker.execute("depth", 0)
    found = [
        manifest.read(Scene(tmp_path, "synthetic", f"s{i:03d}").manifest("depth")) for i in range(2)
    ]
    assert found[0].warnings == [f"none: {NOTE}"]
    assert found[1].warnings == []
    assert [e.message for e in events if e.kind == "warning"] == [f"none: {NOTE}"]
