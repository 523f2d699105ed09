"""Many scenes in flight from one process against a slow VLM server: all at once, memory flat."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from motion_layers import Layer, LayeredClip, with_list
from scene_tree import write_tree
from vlm_server import MODEL, says, vlm_server

from dynamicverse import config
from dynamicverse.curation.sources import Source
from dynamicverse.formats import manifest
from dynamicverse.runner import plan, records
from dynamicverse.runner.execute import ShardWorker
from dynamicverse.runner.ledger import Outcome
from dynamicverse.runner.store import Store, Workspace
from dynamicverse.scene import Scene

AT_ONCE = 64
WAVES = 2
LATER = ("analysis", "segmentation", "tracks", "reconstruction")
CLIP = LayeredClip(2, layers=(Layer(lambda t: (30 + 6 * t, 40), instance=1),))


def write_scene(root: Path, index: int) -> Scene:
    """An ingested scene with flow; its number is drawn in its key frame, as black and white."""
    clip = with_list(CLIP)
    for bit in range(8):
        clip.rgb[0][:8, 8 * bit : 8 * bit + 8] = 255 * (index >> bit & 1)  # type: ignore[attr-defined]
    return write_tree(root, clip, f"s{index:03d}", without=LATER)  # type: ignore[arg-type]


def make_shard(root: Path, scenes: int, url: str) -> ShardWorker:
    overrides = [
        "analysis.backend=openai", f"vlm.url={url}", f"vlm.model={MODEL}", "vlm.timeout_s=300",
        f"vlm.concurrency={AT_ONCE}", "vlm.attempts=1",
    ]  # fmt: skip
    store = Store(str(root))
    sources = []
    for index in range(scenes):
        name = write_scene(root, index).name
        sources.append((Source(f"/v/{name}.mp4", name, "video"), 2))
        record = records.SourceRecord(
            name=name, source=f"/v/{name}.mp4", kind="video", fingerprint="f", sha256="s",
            key="k", scenes=[records.IngestedScene(name=name, frames=2, accepted=True)],
        )  # fmt: skip
        records.write_source_record(store, "synthetic", record)
    run = plan.create(
        store, "synthetic", config.load(overrides=overrides), sources, shard_scenes=scenes,
        stage_names=["analysis"],
    )  # fmt: skip
    return ShardWorker(run, Workspace(store, None))


@pytest.mark.slow
def test_64_scenes_in_flight_and_memory_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICVERSE_CACHE", str(tmp_path / "cache"))
    gates = [threading.Event() for _ in range(WAVES)]
    resident: list[int] = []
    with vlm_server() as server:

        def wait_for_the_wave(handler: BaseHTTPRequestHandler) -> None:
            """No answer before 64 questions wait for one."""
            number = len(server.questions)
            if number % AT_ONCE == 0:
                resident.append(psutil.Process().memory_info().rss)
                gates[number // AT_ONCE - 1].set()
            gates[(number - 1) // AT_ONCE].wait(250)
            says({"objects": []})(handler)

        server.behave.append(wait_for_the_wave)
        server.keep = False
        worker = make_shard(tmp_path, WAVES * AT_ONCE, server.url)
        counts = worker.execute("analysis", 0)
        assert server.most_at_once == AT_ONCE
    print(f"resident with {AT_ONCE} in flight, wave by wave: {[r >> 20 for r in resident]} MiB")
    assert counts == {Outcome.DONE: WAVES * AT_ONCE}
    assert resident[-1] < 1.025 * resident[0] + 10e6
    for index in (0, 100):
        scene = Scene(tmp_path, "synthetic", f"s{index:03d}")
        assert manifest.read(scene.manifest("analysis")).facts["vlm"]["requests"] == 1
