"""CameraBench's model says how the camera moves, checked against the measured trajectory.

Lin et al., "Towards understanding camera motions in any video" (2025): a Qwen2.5-VL-7B that was
fine-tuned on labelled camera motion, served by vLLM (preset `camerabench` of the chart). It is
asked about the camera alone; objects and scene keep their geometric captions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.captioner import Evidence
from dynamicverse.backends.captioner.qwen import QwenCaptioner
from dynamicverse.backends.vlm.usage import Usage
from dynamicverse.formats.captions import Captions


class CameraBenchCaptioner(QwenCaptioner):
    """The camera's caption from the served CameraBench model."""

    info = BackendInfo(
        name="camerabench",
        licence="of chancharikm/qwen2.5-vl-7b-cam-motion, see its card (Qwen2.5-VL-7B: Apache-2.0)",
        service="vlm",
    )
    prompts: ClassVar[tuple[str, ...]] = ("camera",)

    def caption(self, evidence: Evidence, progress: Callable[[int, int], None]) -> Captions:
        """See `Captioner`. Raises AnswerError, ServiceError, MissingModelError."""
        measured = self._geometric.caption(evidence, progress)
        if not evidence.keyframes:
            return measured
        usage = Usage()
        try:
            camera = self._camera(measured.camera, evidence, usage)
        finally:
            evidence.facts["vlm"] = usage.facts(self._vlm)
        return Captions(objects=measured.objects, scene=measured.scene, camera=camera)
