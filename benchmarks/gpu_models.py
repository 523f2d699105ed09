"""How fast the models of the gpu preset are: full size, random weights, a synthetic clip.

    python benchmarks/gpu_models.py --out gpu_models.json [--frames 60] [--only sam2,raft]
        [--profile kernels.txt]

Random weights: times are real, results are not. Each adapter runs twice over the clip, the
first time to warm up; GPU busy is the share of the second run in which `nvidia-smi`'s counter
saw a kernel (through NVML, every 20 ms). A model whose package is missing is listed with the
reason. `--profile` adds a third run and writes which kernels take the GPU's time.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamicverse.config import DepthConfig, KeyframesConfig, SegmentationConfig, TracksConfig
from dynamicverse.formats.intrinsics import PriorIntrinsics

SIZE = (854, 480)
CAMERA = PriorIntrinsics(fx=700, fy=700, cx=426.5, cy=239.5, source="benchmark")
SAMPLE_S = 0.02


def clip(count: int) -> list[Any]:
    """Coloured noise that drifts by (3, 1) px a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (40, 70, 3), dtype=np.uint8)
    wide = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    width, height = SIZE
    return [np.ascontiguousarray(wide[t : t + height, 3 * t : 3 * t + width]) for t in range(count)]


class Busy:
    """The mean of the GPU's utilisation counter while it is open."""

    def __enter__(self) -> Busy:
        import pynvml

        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._read = pynvml.nvmlDeviceGetUtilizationRates
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._samples.append(self._read(self._handle).gpu)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def share(self) -> float:
        return float(np.mean(self._samples)) / 100 if self._samples else 0.0


def depth_anything(size: str) -> Any:
    import transformers

    from dynamicverse.backends.depth.depth_anything import DepthAnything

    wide, layers, heads = {"small": (384, 12, 6), "large": (1024, 24, 16)}[size]
    taken = {"small": [3, 6, 9, 12], "large": [5, 12, 18, 24]}[size]
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(
            hidden_size=wide,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=518,
            patch_size=14,
            out_indices=taken,
            reshape_hidden_states=False,
            apply_layernorm=True,
        ),
        reassemble_hidden_size=wide,
        neck_hidden_sizes={"small": [48, 96, 192, 384], "large": [256, 512, 1024, 1024]}[size],
        fusion_hidden_size={"small": 64, "large": 256}[size],
        depth_estimation_type="metric",
        max_depth=80,
    )
    processor = transformers.DPTImageProcessor(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return DepthAnything(
        DepthConfig(), transformers.DepthAnythingForDepthEstimation(config), processor
    )


def depth_pro() -> Any:
    import transformers

    from dynamicverse.backends.depth.depth_pro import DepthPro

    encoder = {
        "model_type": "dinov2",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 16,
        "image_size": 384,
    }
    config = transformers.DepthProConfig(
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
        use_fov_model=True,
    )
    model = transformers.DepthProForDepthEstimation(config)
    with torch.no_grad():  # random weights may see a negative angle
        model.fov_model.head.layers[-1].weight.zero_()
        model.fov_model.head.layers[-1].bias.fill_(60.0)
    return DepthPro(DepthConfig(), model, transformers.DepthProImageProcessor())


def unidepth() -> Any:
    import unidepth.models
    from unidepth.models import UniDepthV2

    from dynamicverse.backends.depth.unidepth import UniDepth

    root = Path(unidepth.models.__file__).parents[2]
    config = json.loads((root / "configs" / "config_v2_vitl14.json").read_text())
    config["training"]["losses"] = {}
    return UniDepth(DepthConfig(), UniDepthV2(config))


def raft() -> Any:
    from torchvision.models.optical_flow import raft_large

    from dynamicverse.backends.flow.raft import Raft

    return Raft(KeyframesConfig(), raft_large(weights=None))


def of_ptlflow(name: str) -> Any:
    import ptlflow

    from dynamicverse.backends.flow import unimatch

    backend: Any = {"unimatch": unimatch.UniMatch, "gmflow": unimatch.GmFlow}[name]
    return backend(KeyframesConfig(), ptlflow.get_model_reference(backend.network)())


def cotracker3(mode: Any) -> Any:
    from cotracker.models.build_cotracker import build_cotracker

    from dynamicverse.backends.tracker.cotracker3 import CoTracker3

    models = (
        build_cotracker(checkpoint=None, offline=True, window_len=60),
        build_cotracker(checkpoint=None, offline=False, window_len=16),
    )
    return CoTracker3(TracksConfig(cotracker3=mode), models)


def sam2() -> Any:
    import transformers

    from dynamicverse.backends.segmenter.sam2 import Sam2

    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=144,
        num_attention_heads=2,
        blocks_per_stage=[2, 6, 36, 4],
        embed_dim_per_stage=[144, 288, 576, 1152],
        num_attention_heads_per_stage=[2, 4, 8, 16],
        global_attention_blocks=[23, 33, 43],
        window_positional_embedding_background_size=[7, 7],
        window_size_per_stage=[8, 4, 16, 8],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[1152, 576, 288, 144]
    )
    config = transformers.Sam2VideoConfig(vision_config=vision)
    return Sam2(SegmentationConfig(), transformers.Sam2VideoModel(config))


@cache
def sam3() -> Any:
    import transformers

    config = transformers.Sam3VideoConfig(score_threshold_detection=0.0, det_nms_thresh=0.0)
    return random_sam3(config, transformers.Sam3ImageProcessor())


def random_sam3(config: Any, images: Any) -> Any:
    """Takes the surest detection of a name for an instance: random weights are sure of none."""
    import transformers

    from dynamicverse.backends.segmenter.sam3 import Sam3

    model = transformers.Sam3VideoModel(config)
    model.new_det_thresh = model.assoc_iou_thresh = 0.0  # after the first frame it is the same
    model.hotstart_delay = 0  # and stays
    detect = model.run_detection

    def surest(**given: Any) -> Any:
        return {
            name: {key: value[found["scores"].argmax()][None] for key, value in found.items()}
            for name, found in detect(**given).items()
        }

    model.run_detection = surest
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {f"{i}</w>": 2 + i for i in range(10)}
    processor = transformers.Sam3VideoProcessor(
        image_processor=images,
        video_processor=transformers.Sam2VideoVideoProcessor(),
        tokenizer=transformers.CLIPTokenizer(vocab=words, merges=[]),
    )
    return Sam3(SegmentationConfig(), model, processor)


def stream_depth(backend: Any, frames: list[Any]) -> int:
    backend.intrinsics(iter(frames))
    return sum(1 for _ in backend.stream(iter(frames), CAMERA))


def stream_flow(backend: Any, frames: list[Any]) -> int:
    return sum(1 for _ in backend.stream(iter(frames))) + 1


def track(backend: Any, frames: list[Any]) -> int:
    return int(backend.track(frames, lambda done: None).frame_count)


def segment(backend: Any, frames: list[Any], named: bool = False) -> int:
    """Three objects with boxes; named: with names alone, so that no box is followed besides."""
    from dynamicverse.formats.objects import DynamicObject, DynamicObjects, Position

    class Clip:
        size = SIZE

        def __len__(self) -> int:
            return len(frames)

        def rgb(self, t: int) -> Any:
            return frames[t]

    found = [
        DynamicObject(
            name=str(i),
            category="other" if named else "unknown",
            tracking_id=i,
            reasoning="",
            confidence=None,
            position=[
                Position(frame=at, box=[100.0 * i, 100.0, 100.0 * i + 90, 300.0])
                for at in ([] if named else [start])
            ],
        )
        for i, start in ((1, 0), (2, 0), (3, len(frames) // 2))
    ]
    objects = DynamicObjects(dynamic=found, static_scene=False, camera_motion="unknown", notes=[])
    masks: list[int] = []
    backend.segment(Clip(), objects, None, lambda t, _: masks.append(t), lambda done: None)
    return len(masks)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any, list[Any]], int]]] = {
    "depth_anything-small": (lambda: depth_anything("small"), stream_depth),
    "depth_anything-large": (lambda: depth_anything("large"), stream_depth),
    "depth_pro": (depth_pro, stream_depth),
    "unidepth": (unidepth, stream_depth),
    "raft": (raft, stream_flow),
    "unimatch": (lambda: of_ptlflow("unimatch"), stream_flow),
    "gmflow": (lambda: of_ptlflow("gmflow"), stream_flow),
    "cotracker3-offline": (lambda: cotracker3("offline"), track),
    "cotracker3-online": (lambda: cotracker3("online"), track),
    "sam2": (sam2, segment),
    "sam3-names": (sam3, lambda backend, frames: segment(backend, frames, named=True)),
    "sam3-boxes": (sam3, segment),
}


def profiled(run: Callable[[], object]) -> str:
    """The kernels that take the most of the GPU's time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    table = seen.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=16, max_name_column_width=70
    )
    return str(table)


def measure(name: str, frames: list[Any], kernels: Path | None) -> dict[str, Any]:
    """Seconds, frames a second, peak memory and GPU busy of the second run."""
    make, run = MODELS[name]
    torch.manual_seed(0)
    backend = make()
    run(backend, frames)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    with Busy() as busy:
        done = run(backend, frames)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    if kernels is not None:
        with kernels.open("a") as file:
            file.write(f"{name}\n{profiled(lambda: run(backend, frames[:24]))}\n")
    return {
        "model": name,
        "frames": done,
        "seconds": round(seconds, 2),
        "frames_per_second": round(done / seconds, 1),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "gpu_busy": round(busy.share, 2),
        "notes": list(getattr(backend, "notes", [])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--profile", type=Path, help="append the kernels that take the time")
    parser.add_argument("--only", default=",".join(MODELS))
    options = parser.parse_args()
    frames = clip(options.frames)
    rows = []
    for name in options.only.split(","):
        try:
            row = measure(name, frames, options.profile)
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            row = {"model": name, "failed": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(row), flush=True)
        rows.append(row)
        torch.cuda.empty_cache()
    report = {
        "label": "random weights: times are real, results are not",
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "size": SIZE,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
