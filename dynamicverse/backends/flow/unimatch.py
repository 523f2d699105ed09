"""UniMatch and GMFlow, of `ptlflow`.

Xu et al., "Unifying flow, stereo and depth estimation" (TPAMI 2023), and "GMFlow: Learning
optical flow via global matching" (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Batches, device, package, upload
from dynamicverse.backends.flow import Flow, Rgb
from dynamicverse.backends.flow.raft import both
from dynamicverse.config import KeyframesConfig

BATCH = 4  # pairs; each is solved in both directions
INSTALL = "pip install 'dynamicverse[gpu]'"


def _info(name: str) -> BackendInfo:
    known = weights.REGISTRY[name]
    return BackendInfo(
        name=name,
        licence=known.licence,
        weights=known.files[0].name,
        revision=known.revision,
        device="cuda",
        memory_gb=24.0,
        batch_size=BATCH,
    )


class UniMatch:
    """UniMatch with two scales and six refinements, in single precision (TF32 on a GPU)."""

    info = _info("unimatch")
    network = "unimatch_sc2_ref6"  # its name in ptlflow

    def __init__(self, settings: KeyframesConfig, model: Any | None = None) -> None:
        """model: of ptlflow; None: with the pulled weights."""
        self.notes: list[str] = []
        self._where = device()
        self.device = str(self._where)
        self._model = (self._loaded() if model is None else model).to(self._where).eval()
        self._batches = Batches(BATCH, self.notes)

    def stream(self, frames: Iterator[Rgb]) -> Iterator[tuple[Flow, Flow]]:
        """Forward and backward flow (H,W,2) px of every pair of consecutive frames."""
        return self._batches.run(pairwise(frames), self._flow)

    def _flow(self, pairs: list[tuple[Rgb, Rgb]]) -> list[tuple[Flow, Flow]]:
        # ptlflow takes BGR in 0..1 and pads by itself
        first_B3HW = upload([a for a, _ in pairs], self._where).flip(1).float() / 255
        second_B3HW = upload([b for _, b in pairs], self._where).flip(1).float() / 255
        there = torch.stack([first_B3HW, second_B3HW], dim=1)
        images_S23HW = torch.cat([there, there.flip(1)]).contiguous()
        # cuDNN refuses the grid_sample of a batch of local windows; torch's own takes it
        with torch.backends.cudnn.flags(enabled=False):
            return both(self._model({"images": images_S23HW})["flows"][:, 0])

    def _loaded(self) -> Any:
        name = self.info.name
        ptlflow = package("ptlflow", name, INSTALL)
        [path] = weights.paths(weights.REGISTRY[name])
        model = ptlflow.get_model_reference(self.network)()
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["state_dict"])
        return model


class GmFlow(UniMatch):
    """GMFlow with one refinement."""

    info = _info("gmflow")
    network = "gmflow_refine"
