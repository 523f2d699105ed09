"""RAFT, the large model of torchvision.

Teed and Deng, "RAFT: Recurrent all-pairs field transforms for optical flow" (ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Coming, Network, package, upload
from dynamicverse.backends.flow import Flow, Rgb
from dynamicverse.config import KeyframesConfig

BATCH = 8  # pairs; each is solved in both directions
STRIDE, LEAST = 8, 128  # px: sides that the network takes
INSTALL = "pip install 'dynamicverse[gpu]'"


class Raft(Network):
    """RAFT, both directions of a pair in one batch; single precision (with TF32 on a GPU)."""

    info = BackendInfo(
        name="raft",
        licence=weights.REGISTRY["raft"].licence,
        weights=weights.REGISTRY["raft"].files[0].name,
        revision=weights.REGISTRY["raft"].revision,
        device="cuda",
        memory_gb=16.0,
        batch_size=BATCH,
        packages=("torchvision",),
    )

    def __init__(self, settings: KeyframesConfig, model: Any | None = None) -> None:
        """model: torchvision's `raft_large()`; None: with the pulled weights."""
        super().__init__(BATCH)
        self._model = (_loaded() if model is None else model).to(self._where).eval()

    def stream(self, frames: Iterator[Rgb]) -> Iterator[tuple[Flow, Flow]]:
        """Forward and backward flow (H,W,2) px of every pair of consecutive frames."""
        return self._batches.run(pairwise(frames), self._flow)

    def _flow(self, pairs: list[tuple[Rgb, Rgb]]) -> Iterator[tuple[Flow, Flow]]:
        first_B3HW = upload([a for a, _ in pairs], self._where).float() / 127.5 - 1
        second_B3HW = upload([b for _, b in pairs], self._where).float() / 127.5 - 1
        height, width = first_B3HW.shape[2:]
        padded = [_padded(image) for image in (first_B3HW, second_B3HW)]
        flow_S2HW = self._model(torch.cat(padded), torch.cat(padded[::-1]))[-1]
        return both(flow_S2HW[..., :height, :width])


def both(flow_S2HW: torch.Tensor) -> Iterator[tuple[Flow, Flow]]:
    """Pairs of fields (H,W,2) from the forward flows of a batch followed by the backward ones.

    Waits for them when the first is read.
    """
    forward_BHW2, backward_BHW2 = flow_S2HW.permute(0, 2, 3, 1).contiguous().chunk(2)
    return Coming(forward_BHW2, backward_BHW2).rows()


def _padded(image_B3HW: torch.Tensor) -> torch.Tensor:
    """Repeats the right and lower edge up to a size that the network takes."""
    height, width = image_B3HW.shape[2:]
    right, down = (max(LEAST, -(-n // STRIDE) * STRIDE) - n for n in (width, height))
    return torch.nn.functional.pad(image_B3HW, (0, right, 0, down), mode="replicate")


def _loaded() -> Any:
    models = package("torchvision.models.optical_flow", "raft", INSTALL)
    [path] = weights.paths(weights.REGISTRY["raft"])
    model = models.raft_large(weights=None)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model
