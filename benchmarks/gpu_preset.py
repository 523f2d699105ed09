"""The whole `gpu` preset on one GPU, from two videos to their reports, with random weights.

    python benchmarks/gpu_preset.py --out gpu_preset.json [--frames 60] [--folder work] [--tiny]

Runs the code of `dynamicverse run --preset gpu` in this process; what is replaced is said here:

- weights: every network has its full size and random weights (`gpu_models.py`), so times are
  real and results are not. CoTracker's visibility is biased so that its points count as seen;
  flow is cut at 100 px and depth to 1..50 m, which the file formats and the stages that follow
  can bear; the camera that the depth network sees is computed, then replaced by a plausible one,
  and so are the masks, which are noise and would make their pictures slow to write: by ellipses.
- the VLM: a local server that gives fixed answers of the right form after half a second.

Both clips have `--frames` frames of 854×480. The first warms the networks up (one process does
many clips); the table is of the second: seconds of every stage without reading and storing,
frames a second, peak of the GPU memory that torch gave out, and the share of the time in which
the driver saw a kernel (NVML, every 20 ms). `--tiny` is a trial of the plumbing on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import gpu_models
import numpy as np
import torch

from dynamicverse import backends, config, stages
from dynamicverse.curation import sources
from dynamicverse.runner import plan as planning
from dynamicverse.runner.events import Event
from dynamicverse.runner.local import LocalRunner
from dynamicverse.runner.store import Store

MODEL = "Qwen/Qwen2.5-VL-72B-Instruct"
THINKS_S = 0.5
MODELS_OF = ("keyframes", "segmentation", "tracks", "depth")
THINGS = (("red car", [100, 120, 260, 240]), ("walking person", [320, 100, 380, 260]))


class Answers(BaseHTTPRequestHandler):
    """Streams a fixed answer that fits the schema asked for."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(THINKS_S)
        said = json.dumps(_answer(asked["response_format"]["json_schema"]["name"]))
        choice = {"index": 0, "delta": {"content": said}, "finish_reason": "stop"}
        chunk = {"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_: Any) -> None:
        pass


def _answer(question: str) -> dict[str, Any]:
    if question == "analysis":
        seen = [
            {
                "name": name,
                "category": "other",
                "reasoning": "it moves",
                "sightings": [{"picture": 1, "bbox_2d": box}],
            }
            for name, box in THINGS
        ]
        return {"objects": seen}
    labels: dict[str, Any] = {"labels": []} if question == "camera" else {}
    return labels | {"description": "A fixed answer."}


@contextlib.contextmanager
def vlm() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()


class Watch:
    """Observes a run: when each stage began the measured scene, and what the GPU did."""

    def __init__(self, scene: str) -> None:
        self.scene = scene
        self.began: dict[str, float] = {}
        self.took: dict[str, Event] = {}
        self.peak: dict[str, int] = {}
        self.failed: list[str] = []
        self.warnings: list[str] = []
        self.samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._seen: set[str] = set()

    def __call__(self, event: Event) -> None:
        if event.kind == "start" and event.stage not in self._seen:
            self._seen.add(event.stage)  # the models of the stage before are gone
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if event.kind == "warning":
            self.warnings.append(f"{event.stage} {event.name}: {event.message}")
        if event.kind == "finish" and event.outcome != "done":
            self.failed.append(f"{event.stage} {event.name}: {event.outcome} {event.message}")
        if event.name != self.scene:
            return
        if event.kind == "start":
            self.began[event.stage] = time.perf_counter()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
        elif event.kind == "finish":
            self.took[event.stage] = event
            if torch.cuda.is_available():
                self.peak[event.stage] = torch.cuda.max_memory_allocated()
            print(json.dumps(self.row(event.stage)), flush=True)

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        if not torch.cuda.is_available():
            yield
            return
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)

        def watch() -> None:
            while not self._stop.wait(gpu_models.SAMPLE_S):
                used = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                self.samples.append((time.perf_counter(), used))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def row(self, stage: str) -> dict[str, Any]:
        event, start = self.took[stage], self.began.get(stage, 0.0)
        used = [u for t, u in self.samples if start <= t <= start + event.seconds]
        return {
            "stage": stage,
            "seconds": round(event.seconds, 2),
            "frames_per_second": round(event.frames / event.seconds, 1) if event.seconds else None,
            "peak_gpu_memory_gb": round(self.peak.get(stage, 0) / 1e9, 2),
            "gpu_busy": round(float(np.mean(used)) / 100, 2) if used else None,
        }


def random_backend(kind: str, name: str, settings: Any, vlm: Any = None) -> Any:
    """`backends.load`, with random weights where it would load pretrained ones."""
    torch.manual_seed(0)
    if kind == "tracker":
        tracker = gpu_models.cotracker3("auto")
        for model in (tracker._offline, tracker._online):
            torch.nn.init.ones_(model.updateformer.vis_conf_head.bias)
        return tracker
    if kind == "flow":
        return _Bearable(gpu_models.of_ptlflow(name), -100, 100)
    if kind == "depth":
        return _Bearable(gpu_models.unidepth(), 1, 50)
    if kind == "segmenter":
        return _Ellipses(gpu_models.sam2())
    return _load(kind, name, settings, vlm)


class _Ellipses:
    """A segmenter whose masks are computed, and then replaced by ellipses that drift."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.info, self.device, self.notes = backend.info, backend.device, backend.notes

    def segment(self, clip: Any, objects: Any, coarse: Any, write: Any, progress: Any) -> None:
        def replaced(t: int, label_HW: Any) -> None:
            drawn_HW = np.zeros_like(label_HW)
            for item in objects.dynamic:
                x0, y0, x1, y1 = item.position[0].box
                middle = (round((x0 + x1) / 2) + 3 * t, round((y0 + y1) / 2) + t)
                axes = (round((x1 - x0) / 2), round((y1 - y0) / 2))
                cv2.ellipse(drawn_HW, middle, axes, 0, 0, 360, item.tracking_id, -1)
            write(t, drawn_HW)

        self._backend.segment(clip, objects, coarse, replaced, progress)


class _Bearable:
    """A backend of flow or depth whose first results are cut to a range."""

    def __init__(self, backend: Any, least: float, most: float) -> None:
        self._backend, self._range = backend, (least, most)
        self.info, self.device, self.notes = backend.info, backend.device, backend.notes

    def intrinsics(self, frames: Iterator[Any]) -> Any:
        self._backend.intrinsics(frames)
        return gpu_models.CAMERA

    def stream(self, *given: Any) -> Iterator[tuple[Any, Any]]:
        for first, second in self._backend.stream(*given):
            both_ways = self._backend.info.name != "unidepth"
            yield self._cut(first), self._cut(second) if both_ways else second

    def _cut(self, values: Any) -> Any:
        least, most = (np.float32(value) for value in self._range)
        return np.fmax(np.fmin(values, most), least)  # what is not a number is `most`


def tiny_backend(kind: str, name: str, settings: Any, vlm: Any = None) -> Any:
    """The same with tiny networks, of the tests."""
    import tiny_models

    from dynamicverse.backends.depth.depth_anything import DepthAnything
    from dynamicverse.backends.flow.dis import DisFlow
    from dynamicverse.backends.segmenter.sam2 import Sam2
    from dynamicverse.backends.tracker.klt import KltTracker

    made = {
        "flow": lambda: DisFlow(settings),
        "depth": lambda: DepthAnything(settings, *tiny_models.depth_anything()),
        "segmenter": lambda: Sam2(settings, tiny_models.sam2()),
        "tracker": lambda: KltTracker(settings),
    }
    return made[kind]() if kind in made else _load(kind, name, settings, vlm)


_load = backends.load


def clips(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Two clips as frame folders; pictures that drift, of blocks of noise."""
    found = []
    for name in ("first", "second"):
        target = folder / name / "rgb"
        target.mkdir(parents=True)
        for t, frame in enumerate(gpu_models.clip(count)):
            cv2.imwrite(str(target / f"{t:05}.png"), cv2.resize(frame, size)[..., ::-1])
        found.append(str(target))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where to work; else a folder that is removed")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.tiny:
        sys.path.append(str(Path(__file__).parents[1] / "tests" / "unit"))
    with contextlib.ExitStack() as held:
        made = options.folder or held.enter_context(tempfile.TemporaryDirectory())
        folder = Path(made)
        os.environ["DYNAMICVERSE_CACHE"] = str(folder / "cache")
        chosen = config.load(
            "gpu",
            None,
            [
                f"vlm.url={json.dumps(held.enter_context(vlm()))}",
                f"vlm.model={MODEL}",
                "ingest.frame_rate=24",
                "ingest.filter.on_reject=process",
            ],
        )
        size = (160, 96) if options.tiny else gpu_models.SIZE
        inputs = clips(folder / "clips", options.frames, size)
        found, _ = sources.discover(inputs)
        weights = [(source, sources.frames_estimate(source)) for source in found]
        run = planning.create(
            Store(str(folder / "out")),
            "clips",
            chosen,
            weights,
            stage_names=stages.NAMES,
            shard_scenes=len(inputs),
            ignored=0,
        )
        watch = Watch("second")
        fake = tiny_backend if options.tiny else random_backend
        with patch.object(backends, "load", fake), watch.sampling():
            start = time.perf_counter()
            LocalRunner(run, 0, watch)()
            wall = time.perf_counter() - start
    rows = [watch.row(stage) for stage in stages.NAMES if stage in watch.took]
    spent = sum(row["seconds"] for row in rows if row["stage"] in MODELS_OF)
    report = {
        "label": "random weights, a VLM that gives fixed answers: times are real, results are not",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "frames": options.frames,
        "size": size,
        "rows": rows,
        "models_frames_per_second": round(options.frames / spent, 1) if spent else None,
        "both_clips_wall_s": round(wall, 1),
        "failed": watch.failed,
        "warnings": watch.warnings,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps({key: value for key, value in report.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
