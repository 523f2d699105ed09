"""Sa2VA-8B: a vision-language model with SAM 2, which follows what a name describes.

Yuan et al., "Sa2VA: Marrying SAM2 with LLaVA for dense grounded understanding of images and
videos" (2025). The model is asked once for each object of the analysis, by its name. Its code
lies beside its weights on the hub and is run from there (`trust_remote_code`), so it is only
run at the commit that TRUST names; it wants transformers 4.57 and so its own image.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import ahead, device, package
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.segmenter import CoarseReader
from dynamicverse.backends.segmenter.sam2 import MAX_ID
from dynamicverse.config import SegmentationConfig
from dynamicverse.errors import AnswerError, DynamicVerseError, MissingModelError, Reason
from dynamicverse.formats.objects import DynamicObject, DynamicObjects

TRUST = "DYNAMICVERSE_TRUST_SA2VA"  # environment: the commit whose code may be run here
INSTALL = "pip install 'transformers==4.57.*' timm einops peft"
QUESTION = "<image>Please segment the {name} in this video."


class Sa2va:
    """Sa2VA-8B, in bfloat16 on a GPU. The frames of a clip are held in memory as pictures."""

    info = BackendInfo(
        name="sa2va",
        licence=f"{weights.REGISTRY['sa2va'].licence} (code, on the hub: Apache-2.0)",
        weights=weights.REGISTRY["sa2va"].source,
        revision=weights.REGISTRY["sa2va"].revision,
        device="cuda",
        memory_gb=24.0,
        packages=("transformers", "timm", "einops", "peft"),
    )

    def __init__(
        self, settings: SegmentationConfig, model: Any | None = None, tokenizer: Any | None = None
    ) -> None:
        """model, tokenizer: of the remote code; None: with the pulled weights."""
        where = device()
        self.device = str(where)
        self.notes: list[str] = []
        if model is None:
            model, tokenizer = _loaded()
        self._model, self._tokenizer = model.to(where).eval(), tokenizer
        self._pictures = package("PIL.Image", "sa2va", "pip install pillow")

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `SegmenterBackend`. Where two objects claim a pixel, the one named first has it."""
        count, (width, height) = len(clip), clip.size
        labels_FHW = np.zeros((count, height, width), np.uint8)
        if objects.dynamic:
            with closing(ahead(clip.rgb(t) for t in range(count))) as read:
                frames = [self._pictures.fromarray(rgb) for rgb in read]
            for item in objects.dynamic:
                inside_FHW = self._mask(frames, item, labels_FHW.shape)
                labels_FHW[inside_FHW & (labels_FHW == 0)] = item.tracking_id
        for t in range(count):
            write_mask(t, labels_FHW[t])
            progress(t + 1)

    def _mask(
        self, frames: list[Any], item: DynamicObject, shape: tuple[int, ...]
    ) -> npt.NDArray[np.bool_]:
        """Where the object is (F,H,W); nowhere, and noted, when the model does not find it."""
        if item.tracking_id > MAX_ID:
            raise DynamicVerseError(
                f"tracking id {item.tracking_id} does not fit an 8-bit mask",
                Reason.INVALID_ARTIFACT,
            )
        with torch.inference_mode():
            answer = self._model.predict_forward(
                video=frames,
                text=QUESTION.format(name=item.name),
                past_text="",
                mask_prompts=None,
                tokenizer=self._tokenizer,
            )
        found = answer.get("prediction_masks") or []
        if not found:
            self.notes.append(f"{item.name} was not found")
            return np.zeros(shape, bool)
        inside_FHW = np.any([np.asarray(one).astype(bool) for one in found], axis=0)
        if inside_FHW.shape != shape:
            raise AnswerError(f"sa2va gave masks {inside_FHW.shape} for a clip {shape}")
        return inside_FHW


def _loaded() -> tuple[Any, Any]:
    transformers = package("transformers", "sa2va", INSTALL)
    known = weights.REGISTRY["sa2va"]
    folder = weights.folder(known)
    commit = weights.revision(known)
    if os.environ.get(TRUST) != commit:
        raise MissingModelError(
            f"sa2va runs code from {known.source}@{commit}: read it in {folder}, then set "
            f"{TRUST}={commit}"
        )
    options = {"trust_remote_code": True, "local_files_only": True}
    model = transformers.AutoModel.from_pretrained(
        folder, torch_dtype=torch.bfloat16, low_cpu_mem_usage=True, **options
    )
    return model, transformers.AutoTokenizer.from_pretrained(folder, use_fast=False, **options)
