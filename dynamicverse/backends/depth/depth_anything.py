"""Depth Anything V2, fine-tuned for metric depth, in `transformers`.

Yang et al., "Depth Anything V2" (NeurIPS 2024). The model knows nothing of the camera: its
metres hold for cameras like those that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Network, download, half, package, upload
from dynamicverse.backends.depth import Depth, Rgb
from dynamicverse.config import CamerasConfig, DepthConfig
from dynamicverse.formats.intrinsics import PriorIntrinsics

FAR = 0.98  # of the greatest depth that the model can say: beyond that it is only "far"
BATCH = 16


class DepthAnything(Network):
    """Metric depth without confidence: it is 1 wherever there is depth."""

    info = BackendInfo(
        name="depth_anything",
        licence="Apache-2.0 (small), CC-BY-NC-4.0 (large)",
        weights=weights.REGISTRY["depth_anything-outdoor-small"].source,
        revision=weights.REGISTRY["depth_anything-outdoor-small"].revision,
        device="cuda",
        memory_gb=4.0,
        batch_size=BATCH,
        packages=("transformers", "torchvision"),
    )

    def __init__(
        self, settings: DepthConfig, model: Any | None = None, processor: Any | None = None
    ) -> None:
        """model, processor: of `transformers`; None: from the weights of the configuration."""
        super().__init__(BATCH)
        if model is None:
            model, processor = _loaded(settings)
        self._model = model.to(self._where).eval()
        self._processor: Any = processor
        self._limit = FAR * float(model.config.max_depth)

    def intrinsics(self, frames: Iterator[Rgb]) -> PriorIntrinsics | None:
        """The camera that the reconstruction assumes as well: the model does not say."""
        for height, width in (frame.shape[:2] for frame in islice(frames, 1)):
            focal = CamerasConfig().focal * max(height, width)
            cx, cy = (width - 1) / 2, (height - 1) / 2
            return PriorIntrinsics(fx=focal, fy=focal, cx=cx, cy=cy, source="assumed", metric=True)
        return None

    def stream(
        self, frames: Iterator[Rgb], camera: PriorIntrinsics
    ) -> Iterator[tuple[Depth, Depth]]:
        """Depth (H,W) in metres, 0 where the model only says "far", and confidence."""
        for depth_HW in self._batches.run(frames, self._depth):
            yield depth_HW, (depth_HW > 0).astype(np.float32)

    def _depth(self, frames: list[Rgb]) -> list[Depth]:
        pixels = self._processor(images=upload(frames, self._where), return_tensors="pt")
        with half(self._where):
            output = self._model(pixels["pixel_values"].to(self._where))
        sizes = [frame.shape[:2] for frame in frames]
        found = self._processor.post_process_depth_estimation(output, target_sizes=sizes)
        depth_BHW = torch.stack([one["predicted_depth"] for one in found]).float()
        known_BHW = (depth_BHW > 0) & (depth_BHW < self._limit)
        return list(download(torch.where(known_BHW, depth_BHW, 0)))


def _loaded(settings: DepthConfig) -> tuple[Any, Any]:
    transformers = package("transformers", "depth_anything", "pip install 'dynamicverse[gpu]'")
    folder = weights.folder(weights.REGISTRY[f"depth_anything-{settings.depth_anything}"])
    model = transformers.DepthAnythingForDepthEstimation.from_pretrained(
        folder, local_files_only=True
    )
    return model, transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
