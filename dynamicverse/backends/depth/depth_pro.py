"""Depth Pro in `transformers`: metric depth, and the focal length of every frame.

Bochkovskii et al., "Depth Pro: Sharp monocular metric depth in less than a second" (ICLR
2025). The network gives inverse depth for a canonical camera; with the focal length of the
whole clip in place of the frame's own, the scale does not flicker.
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
from dynamicverse.config import DepthConfig
from dynamicverse.formats.intrinsics import PriorIntrinsics

BATCH = 8
FOCAL_STEP = 5  # every so many frames say their focal length; the clip has the median
NEAR, FAR = 1e-2, 1e3  # metres; outside, a depth is unknown


class DepthPro(Network):
    """Metric depth without confidence: it is 1 wherever there is depth."""

    info = BackendInfo(
        name="depth_pro",
        licence=weights.REGISTRY["depth_pro"].licence,
        weights=weights.REGISTRY["depth_pro"].source,
        revision=weights.REGISTRY["depth_pro"].revision,
        device="cuda",
        memory_gb=28.0,
        batch_size=BATCH,
        packages=("transformers", "torchvision"),
    )

    def __init__(
        self, settings: DepthConfig, model: Any | None = None, processor: Any | None = None
    ) -> None:
        """model, processor: of `transformers`; None: from the pulled weights."""
        super().__init__(BATCH)
        if model is None:
            model, processor = _loaded()
        self._model = model.to(self._where).eval()
        self._processor: Any = processor

    def intrinsics(self, frames: Iterator[Rgb]) -> PriorIntrinsics | None:
        """The median focal length of every FOCAL_STEP-th frame, centred."""
        first = next(frames, None)
        if first is None:
            return None
        height, width = first.shape[:2]
        some = _chain(first, islice(frames, FOCAL_STEP - 1, None, FOCAL_STEP))
        views = list(self._batches.run(some, self._view))
        focal = 0.5 * width / float(np.tan(0.5 * np.deg2rad(np.median(views))))
        cx, cy = (width - 1) / 2, (height - 1) / 2
        return PriorIntrinsics(fx=focal, fy=focal, cx=cx, cy=cy, source="depth_pro", metric=True)

    def stream(
        self, frames: Iterator[Rgb], camera: PriorIntrinsics
    ) -> Iterator[tuple[Depth, Depth]]:
        """Depth (H,W) in metres for the camera of the clip, and confidence."""

        def depth(batch: list[Rgb]) -> list[Depth]:
            return self._depth(batch, camera.fx)

        for depth_HW in self._batches.run(frames, depth):
            yield depth_HW, (depth_HW > 0).astype(np.float32)

    def _view(self, frames: list[Rgb]) -> list[float]:
        """The horizontal field of view of each frame, degrees."""
        return [float(angle) for angle in self._output(frames).field_of_view.float()]

    def _depth(self, frames: list[Rgb], focal: float) -> list[Depth]:
        height, width = frames[0].shape[:2]
        inverse_BHW = self._output(frames).predicted_depth.float() * (width / focal)
        inverse_BHW = torch.nn.functional.interpolate(
            inverse_BHW[:, None], (height, width), mode="bilinear"
        )[:, 0]
        known_BHW = (inverse_BHW > 1 / FAR) & (inverse_BHW < 1 / NEAR)
        return list(download(torch.where(known_BHW, 1 / inverse_BHW, 0)))

    def _output(self, frames: list[Rgb]) -> Any:
        pixels = self._processor(images=upload(frames, self._where), return_tensors="pt")
        with half(self._where):
            return self._model(pixels["pixel_values"].to(self._where))


def _chain(first: Rgb, others: Iterator[Rgb]) -> Iterator[Rgb]:
    yield first
    yield from others


def _loaded() -> tuple[Any, Any]:
    transformers = package("transformers", "depth_pro", "pip install 'dynamicverse[gpu]'")
    folder = weights.folder(weights.REGISTRY["depth_pro"])
    model = transformers.DepthProForDepthEstimation.from_pretrained(
        folder, use_fov_model=True, local_files_only=True
    )
    return model, transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
