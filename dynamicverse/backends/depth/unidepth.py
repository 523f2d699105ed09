"""UniDepthV2 ViT-L in two passes: the camera of the clip, then depth given that camera.

Piccinelli et al., "UniDepthV2: Universal monocular metric depth estimation made simpler"
(2025). The package is not on PyPI; see INSTALL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Coming, Network, package, upload
from dynamicverse.backends.depth import Depth, Rgb
from dynamicverse.backends.depth.unidepth_steps import Encoded, Steps
from dynamicverse.config import DepthConfig
from dynamicverse.formats.intrinsics import PriorIntrinsics

COMMIT = "8d8cfe4c7ee15297099983607febf0d4f32eb3d6"
INSTALL = f"pip install 'git+https://github.com/lpiccinelli-eth/UniDepth@{COMMIT}'"
BATCH = 8
HELD = 160  # frames that the second pass need not encode again, 12 MB each
HALF_PIXEL = 0.5  # its pixel centres are at 0.5, ours at 0


class UniDepth(Network):
    """Metric depth with the model's own confidence."""

    info = BackendInfo(
        name="unidepth",
        licence="CC-BY-NC-4.0 (code and weights)",
        weights=weights.REGISTRY["unidepth"].source,
        revision=weights.REGISTRY["unidepth"].revision,
        device="cuda",
        memory_gb=12.0,
        batch_size=BATCH,
        packages=("unidepth",),
    )

    def __init__(self, settings: DepthConfig, model: Any | None = None) -> None:
        """model: a `UniDepthV2`; None: from the pulled weights."""
        super().__init__(BATCH, kernels=True)
        self._steps = Steps((_loaded() if model is None else model).to(self._where).eval())
        self._seen: list[tuple[Rgb, Encoded]] = []

    def intrinsics(self, frames: Iterator[Rgb]) -> PriorIntrinsics | None:
        """First pass: the mean of the cameras that the model sees in the frames."""
        self._seen = []
        K_F33 = np.array([K_33 for (K_33,) in self._batches.run(frames, self._cameras)], np.float64)
        if not len(K_F33):
            return None
        K = K_F33.mean(axis=0)
        return PriorIntrinsics(
            fx=K[0, 0],
            fy=K[1, 1],
            cx=K[0, 2] - HALF_PIXEL,
            cy=K[1, 2] - HALF_PIXEL,
            source="unidepth",
            metric=True,
        )

    def stream(
        self, frames: Iterator[Rgb], camera: PriorIntrinsics
    ) -> Iterator[tuple[Depth, Depth]]:
        """Second pass: depth (H,W) in metres and confidence, given the camera.

        The model estimates the error e of log depth; the confidence is exp(-e).
        """
        K = torch.eye(3)
        K[0, 0], K[1, 1] = camera.fx, camera.fy
        K[0, 2], K[1, 2] = camera.cx + HALF_PIXEL, camera.cy + HALF_PIXEL
        done = 0

        def depth(batch: list[Rgb]) -> Iterator[Any]:
            nonlocal done
            rgb_B3HW = upload(batch, self._where)
            encoded = self._known(done, batch) or self._steps.encode(rgb_B3HW)
            depth_BHW, error_BHW = self._steps.depth(encoded, rgb_B3HW, K)
            sure_BHW = (1 / error_BHW).clamp(0, 1)
            known_BHW = torch.isfinite(depth_BHW) & (depth_BHW > 0)
            depth_BHW = torch.where(known_BHW, depth_BHW, 0)
            sure_BHW = torch.where(known_BHW, sure_BHW, 0)
            done += len(batch)
            return Coming(depth_BHW, sure_BHW).rows()

        try:
            yield from self._batches.run(frames, depth)
        finally:
            self._seen = []  # some gigabytes

    def _cameras(self, frames: list[Rgb]) -> Iterator[Any]:
        rgb_B3HW = upload(frames, self._where)
        encoded = self._steps.encode(rgb_B3HW)
        K_B33 = self._steps.cameras(encoded, rgb_B3HW)
        room = HELD - len(self._seen)
        for b in range(min(len(frames), room)):
            self._seen.append((frames[b], encoded.part(b, b + 1)))
        return Coming(K_B33).rows()

    def _known(self, start: int, frames: list[Rgb]) -> Encoded | None:
        """What the first pass made of these frames, if it saw the same."""
        seen = self._seen[start : start + len(frames)]
        if len(seen) < len(frames):
            return None
        if not all(np.array_equal(f, known) for f, (known, _) in zip(frames, seen, strict=True)):
            return None
        return Encoded.joined([encoded for _, encoded in seen])


def _loaded() -> Any:
    models = package("unidepth.models", "unidepth", INSTALL)
    folder = weights.folder(weights.REGISTRY["unidepth"])
    return models.UniDepthV2.from_pretrained(str(folder), local_files_only=True)
