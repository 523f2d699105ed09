"""Describe Anything (DAM-3B-Video): what each object looks like and does, from its masks.

Lian et al., "Describe anything: Detailed localized image and video captioning" (2025). It sees
eight frames of an object and its masks. Scene and camera keep their geometric captions, and an
object's caption the measurements beside the model's words. The package is not on PyPI; see
INSTALL. Code Apache-2.0, weights for research only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import device, package
from dynamicverse.backends.captioner import Evidence
from dynamicverse.backends.captioner.geometric import GeometricCaptioner
from dynamicverse.backends.vlm.pictures import spread
from dynamicverse.config import CaptionsConfig
from dynamicverse.errors import AnswerError
from dynamicverse.formats.captions import Captions, ObjectCaption

COMMIT = "d13161d80afeac35ced275162a78ae6e6ec7c0fb"
INSTALL = f"pip install 'git+https://github.com/NVlabs/describe-anything@{COMMIT}'"
FRAMES = 8  # that the model was trained with; an object in fewer is shown them again
QUESTION = (
    f"Video: {'<image>' * FRAMES}\nGiven the video in the form of a sequence of frames above, "
    "describe the object in the masked region in the video in detail."
)
MAX_TOKENS, MAX_CHARACTERS = 512, 4000


class DamCaptioner:
    """Captions of objects by DAM-3B-Video, in this process."""

    info = BackendInfo(
        name="dam",
        licence=f"{weights.REGISTRY['dam'].licence} (code Apache-2.0)",
        weights=weights.REGISTRY["dam"].source,
        revision=weights.REGISTRY["dam"].revision,
        device="cuda",
        memory_gb=12.0,
        packages=("dam",),
    )

    def __init__(self, settings: CaptionsConfig, model: Any | None = None) -> None:
        """model: a `DescribeAnythingModel`; None: with the pulled weights."""
        where = device()
        self.device = str(where)
        self._model = (_loaded() if model is None else model).to(where)
        self._geometric = GeometricCaptioner(settings)
        self._pictures = package("PIL.Image", "dam", "pip install pillow")

    def caption(self, evidence: Evidence, progress: Callable[[int, int], None]) -> Captions:
        """See `Captioner`. An object that no key frame shows keeps its geometric caption.

        Raises AnswerError where the model says nothing.
        """
        measured = self._geometric.caption(evidence, progress)
        return Captions(
            objects=[self._object(one, evidence) for one in measured.objects],
            scene=measured.scene,
            camera=measured.camera,
        )

    def _object(self, measured: ObjectCaption, evidence: Evidence) -> ObjectCaption:
        inside = {f: evidence.mask(f) == measured.instance_id for f in evidence.keyframes}
        frames = spread([f for f, inside_HW in inside.items() if inside_HW.any()], FRAMES)
        if not frames:
            return measured
        shown = [frames[i * len(frames) // FRAMES] for i in range(FRAMES)]
        pictures = [self._pictures.fromarray(evidence.key_frame(f)) for f in shown]
        masks = [self._pictures.fromarray(inside[f].astype(np.uint8) * 255) for f in shown]
        with torch.inference_mode():
            said = self._model.get_description(
                pictures,
                masks,
                QUESTION,
                temperature=0,
                top_p=1.0,
                num_beams=1,
                max_new_tokens=MAX_TOKENS,
            )
        text = " ".join(str(said).split())[:MAX_CHARACTERS]
        if not text:
            raise AnswerError(f"dam said nothing of object {measured.instance_id}")
        return ObjectCaption(
            instance_id=measured.instance_id,
            text=text,
            source="dam: DAM-3B-Video",
            facts={**measured.facts, "pictures": len(frames), "measured_text": measured.text},
        )


def _loaded() -> Any:
    dam = package("dam", "dam", INSTALL)
    folder = weights.folder(weights.REGISTRY["dam"])
    return dam.DescribeAnythingModel(
        model_path=str(folder), conv_mode="v1", prompt_mode="full+focal_crop"
    )
