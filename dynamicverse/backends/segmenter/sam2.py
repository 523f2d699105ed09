"""SAM 2.1 for video in `transformers`: the boxes of the analysis become masks.

Ravi et al., "SAM 2: Segment anything in images and videos" (2024). Every object is prompted
once, with its largest box, and followed from there to both ends of the clip; all objects
share the features of a frame. Pictures are encoded in batches, ahead of the masks; what then
runs for every object and frame is many small kernels, which are replayed as CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Network, ahead, package, upload
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.cuda_graphs import Graphed
from dynamicverse.backends.segmenter import CoarseReader
from dynamicverse.config import SegmentationConfig
from dynamicverse.errors import DynamicVerseError, Reason
from dynamicverse.formats.objects import DynamicObjects

MEMORY = 32  # frames that the model may still look back to; it uses 7, and 16 pointers
BATCH = 8  # frames that the picture encoder sees together
MAX_ID = 255  # of an 8-bit mask
INSTALL = "pip install 'dynamicverse[gpu]'"

Prompts = dict[int, list[tuple[int, list[float]]]]  # frame → (id, box) of its objects


class Sam2(Network):
    """SAM 2.1, in bfloat16 on a GPU."""

    info = BackendInfo(
        name="sam2",
        licence=weights.REGISTRY["sam2"].licence,
        weights=weights.REGISTRY["sam2"].source,
        revision=weights.REGISTRY["sam2"].revision,
        device="cuda",
        memory_gb=12.0,
        batch_size=BATCH,
        packages=("transformers", "torchvision"),
    )

    def __init__(self, settings: SegmentationConfig, model: Any | None = None) -> None:
        """model: a `Sam2VideoModel`; None: with the pulled weights."""
        super().__init__(BATCH)
        self._dtype = torch.bfloat16 if self._where.type == "cuda" else torch.float32
        self._library = package("transformers", "sam2", INSTALL)
        if model is None:
            folder = weights.folder(weights.REGISTRY["sam2"])
            model = self._library.Sam2VideoModel.from_pretrained(folder, local_files_only=True)
        self._model = model.to(self._where, self._dtype).eval()
        if self._where.type == "cuda":
            _replay_graphs(self._model)
        side = model.config.image_size
        size = {"height": side, "width": side}
        self._processor = self._library.Sam2VideoProcessor(
            image_processor=self._library.Sam2ImageProcessor(size=size),
            video_processor=self._library.Sam2VideoVideoProcessor(size=size),
            target_size=side,
        )

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `SegmenterBackend`. Where two objects claim a pixel, the surer one has it."""
        count = len(clip)
        prompts = prompts_of(objects)
        backward = self._backward(clip, prompts)
        for t, label_HW in ahead(self._run(clip, prompts, range(count), reverse=False)):
            if t in backward:
                earlier_HW = cv2.imdecode(backward.pop(t), cv2.IMREAD_UNCHANGED)
                label_HW = np.where(label_HW > 0, label_HW, np.asarray(earlier_HW, np.uint8))
            write_mask(t, label_HW)
            progress(t + 1)

    def _backward(self, clip: ClipReader, prompts: Prompts) -> dict[int, Any]:
        """The labels before the prompts, as PNG: a clip of them would not fit memory."""
        later = {t: found for t, found in prompts.items() if t > 0}
        order = range(max(later, default=0), -1, -1)
        kept = {}
        for t, label_HW in ahead(self._run(clip, later, order, reverse=True)):
            prompted = [i for i, _ in later.get(t, [])]
            label_HW[np.isin(label_HW, prompted)] = 0  # from here on the forward pass has it
            kept[t] = cv2.imencode(".png", label_HW)[1]
        return kept

    @torch.inference_mode()
    def _run(
        self, clip: ClipReader, prompts: Prompts, order: range, reverse: bool
    ) -> Iterator[tuple[int, Labels]]:
        """Frames in this order with the labels (H,W) of the objects prompted so far."""
        width, height = clip.size
        session = self._library.Sam2VideoInferenceSession(
            video_height=height,
            video_width=width,
            inference_device=self._where,
            inference_state_device=self._where,
            video_storage_device=self._where,
            dtype=self._dtype,
        )
        session.processed_frames = range(len(clip))  # only counted: the features are given
        shown = [t for t in order if reverse or t >= min(prompts, default=len(clip))]
        session.cache = _Features(shown, self._encoded(clip, shown))
        waiting: _Coming | None = None
        for t in order:
            if t in prompts:
                self._processor.add_inputs_to_inference_session(
                    session,
                    frame_idx=t,
                    obj_ids=[i for i, _ in prompts[t]],
                    input_boxes=[[box for _, box in prompts[t]]],
                )
            if not session.obj_ids:
                yield t, np.zeros((height, width), np.uint8)
                continue
            coming = _Coming(t, self._labels(session, t, reverse))
            _forget(session, t)
            if waiting is not None:  # it came while this frame was launched
                yield waiting.arrived()
            waiting = coming
        if waiting is not None:
            yield waiting.arrived()

    def _labels(self, session: Any, t: int, reverse: bool) -> torch.Tensor:
        output = self._model(inference_session=session, frame_idx=t, reverse=reverse)
        logits_O1HW = self._processor.post_process_masks(
            [output.pred_masks.float()],
            original_sizes=[[session.video_height, session.video_width]],
            binarize=False,
        )[0]
        best_HW, owner_HW = logits_O1HW[:, 0].max(dim=0)
        ids_O = torch.tensor(output.object_ids, device=best_HW.device, dtype=torch.uint8)
        return torch.where(best_HW > 0, ids_O[owner_HW], 0)

    def _encoded(self, clip: ClipReader, order: list[int]) -> Iterator[dict[str, Any]]:
        """What the model sees in these frames, encoded in batches when asked for."""
        frames = iter(ahead(clip.rgb(t) for t in order))
        while batch := list(islice(frames, BATCH)):
            for found in self._batches.parts(batch, self._encode):
                yield from found

    def _encode(self, frames: list[Any]) -> list[dict[str, Any]]:
        pictures = self._processor.image_processor(
            images=upload(frames, self._where), return_tensors="pt"
        )
        pixels_B3HW = pictures["pixel_values"].to(self._where, self._dtype)
        found = self._model.get_image_features(pixels_B3HW, return_dict=True)
        kinds = {
            "vision_feats": found.fpn_hidden_states,
            "vision_pos_embeds": found.fpn_position_encoding,
        }
        return [
            {kind: [level[:, b : b + 1] for level in levels] for kind, levels in kinds.items()}
            for b in range(len(frames))
        ]


class _Coming:
    """The labels (H,W) of a frame on their way from the device."""

    def __init__(self, t: int, label_HW: torch.Tensor) -> None:
        self._t = t
        self._host_HW = label_HW
        self._ready: torch.cuda.Event | None = None
        if label_HW.is_cuda:
            self._host_HW = torch.empty(label_HW.shape, dtype=torch.uint8, pin_memory=True)
            self._host_HW.copy_(label_HW, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()

    def arrived(self) -> tuple[int, Labels]:
        if self._ready is not None:
            self._ready.synchronize()
        return self._t, np.asarray(self._host_HW.numpy(), np.uint8)


class _Features:
    """Takes the place of a session's cache: the features of frames in a known order."""

    def __init__(self, order: list[int], encoded: Iterator[dict[str, Any]]) -> None:
        self._order, self._encoded = iter(order), encoded
        self._at = -1
        self._present: dict[str, Any] = {}

    def get_vision_features(self, frame_idx: int) -> dict[str, Any]:
        while self._at != frame_idx:
            self._at, self._present = next(self._order), next(self._encoded)
        return self._present


def _replay_graphs(model: Any) -> None:
    """What runs once an object and frame, as CUDA graphs."""
    model.memory_attention.forward = Graphed(model.memory_attention.forward)
    model._single_frame_forward = Graphed(model._single_frame_forward)
    model._encode_new_memory = Graphed(model._encode_new_memory)


def _forget(session: Any, t: int) -> None:
    """Drop what the model does not look back to; the prompted frames stay."""
    for kept in session.output_dict_per_obj.values():
        for old in [f for f in kept["non_cond_frame_outputs"] if abs(f - t) > MEMORY]:
            del kept["non_cond_frame_outputs"][old]


def prompts_of(objects: DynamicObjects) -> Prompts:
    """Frame → (id, box) of the objects whose largest box is there; raises DynamicVerseError."""
    prompts: Prompts = {}
    for item in objects.dynamic:
        if item.tracking_id > MAX_ID:
            raise DynamicVerseError(
                f"tracking id {item.tracking_id} does not fit an 8-bit mask",
                Reason.INVALID_ARTIFACT,
            )
        if item.position:
            best = max(item.position, key=lambda p: _area(p.box))
            prompts.setdefault(best.frame, []).append((item.tracking_id, list(best.box)))
    return prompts


def _area(box: Any) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
