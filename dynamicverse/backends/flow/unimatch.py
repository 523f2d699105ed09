"""UniMatch and GMFlow, of `ptlflow`.

Xu et al., "Unifying flow, stereo and depth estimation" (TPAMI 2023), and "GMFlow: Learning
optical flow via global matching" (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import chain, pairwise
from typing import Any

import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Network, fuse_norms, package, upload
from dynamicverse.backends.flow import Flow, Rgb
from dynamicverse.backends.flow.matching import consecutive_flow, volume_bytes
from dynamicverse.backends.flow.raft import both
from dynamicverse.backends.flow.refining import Refinement
from dynamicverse.config import KeyframesConfig

BATCH = 4  # pairs; each is solved in both directions
MOST_BYTES = 14e9  # of correlations held at a time: fewer pairs of large pictures
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
        packages=("ptlflow",),
    )


class UniMatch(Network):
    """UniMatch, two scales and six refinements; `matching` tells what is in half precision."""

    info = _info("unimatch")
    network = "unimatch_sc2_ref6"  # its name in ptlflow

    def __init__(self, settings: KeyframesConfig, model: Any | None = None) -> None:
        """model: of ptlflow; None: with the pulled weights."""
        super().__init__(BATCH, kernels=True)
        self._model = (self._loaded() if model is None else model).to(self._where).eval()
        self._tools = import_module(type(self._model).__module__)
        self._refine = None
        if getattr(self._model, "reg_refine", False):
            self._refine = Refinement(self._model, self._where)
        if self._where.type == "cuda":
            fuse_norms(self._model.transformer.half())

    def stream(self, frames: Iterator[Rgb]) -> Iterator[tuple[Flow, Flow]]:
        """Forward and backward flow (H,W,2) px of every pair of consecutive frames."""
        return self._batches.run(pairwise(frames), self._flow)

    def _flow(self, pairs: list[tuple[Rgb, Rgb]]) -> Iterator[tuple[Flow, Flow]]:
        fit = max(1, int(MOST_BYTES / volume_bytes(*pairs[0][0].shape[:2])))
        starts = range(0, len(pairs), fit)
        return chain.from_iterable([self._solved(pairs[start : start + fit]) for start in starts])

    def _solved(self, pairs: list[tuple[Rgb, Rgb]]) -> Iterator[tuple[Flow, Flow]]:
        frames = [pairs[0][0], *(second for _, second in pairs)]
        bgr_F3HW = upload(frames, self._where).flip(1).float() / 255
        flows = consecutive_flow(self._model, self._tools, self._refine, bgr_F3HW)
        return both(torch.cat(flows))

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
