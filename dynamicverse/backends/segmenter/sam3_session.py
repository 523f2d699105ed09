"""What the adapter of SAM 3 adds to `transformers`: flat memory, clean masks, one backbone.

Imported where `transformers` is known to be there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.sam3_video import modeling_sam3_video

MEMORY = ("maskmem_features", "maskmem_pos_enc")
POINTER = "object_pointer"


class ClipSession(modeling_sam3_video.Sam3VideoInferenceSession):  # type: ignore[misc]
    """A video session whose memory does not grow with the clip.

    That of `transformers` holds all frames in the network's size, and of every object in every
    frame the masks and the memory; here a frame is asked for when it is its turn, and what no
    later frame reads is forgotten. For clips that are followed forwards.
    """

    def __init__(
        self,
        size: tuple[int, int],
        count: int,
        frame: Callable[[int], Tensor],
        config: Any,
        where: torch.device,
    ) -> None:
        """size: width and height of the `count` frames; frame: one as the network takes it.

        config: of the `Sam3VideoModel`.
        """
        super().__init__(
            video_width=size[0],
            video_height=size[1],
            inference_device=where,
            inference_state_device=where,
            video_storage_device=where,
            dtype=torch.float32,
        )
        self._count, self._frame = count, frame
        self._tracker, self._patience = config.tracker_config, config.hotstart_delay
        self._leaving: list[int] = []

    @property
    def num_frames(self) -> int:
        return self._count

    def get_frame(self, frame_idx: int) -> Tensor:
        """The frame's pixels (3,H,W). Asking for them is the first thing that a frame does."""
        for obj_id in self._leaving:
            self.obj_ids = list(self._obj_id_to_idx)
            super().remove_object(obj_id)
        self._leaving.clear()
        self._forget(frame_idx)
        return self._frame(frame_idx)

    def remove_object(self, obj_id: int, strict: bool = False) -> None:
        """At the end of the frame: before that `transformers` numbers its masks by the objects
        that are there, and would give each one after this the mask of the one before."""
        self._leaving.append(obj_id)

    def _forget(self, now: int) -> None:
        """What frames from `now` on do not read."""
        for index, outputs in self.output_dict_per_obj.items():
            self.mask_inputs_per_obj[index].clear()
            self.frames_tracked_per_obj[index].clear()
            followed, prompted = outputs["non_cond_frame_outputs"], outputs["cond_frame_outputs"]
            for t in [
                t for t in followed if now - t >= self._tracker.max_object_pointers_in_encoder
            ]:
                del followed[t]
            most = self._tracker.max_cond_frame_num
            latest = sorted(prompted) if most < 0 else sorted(prompted)[-most:]
            for t, output in (*followed.items(), *prompted.items()):
                near = now - t < self._tracker.num_maskmem or t in latest
                for key in set(output) - {POINTER, *(MEMORY if near else ())}:
                    del output[key]
        for by_frame in (self.obj_id_to_tracker_score_frame_wise, self.suppressed_obj_ids):
            for t in [t for t in by_frame if t < now]:
                del by_frame[t]
        for frames in (
            *self.unmatched_frame_inds.values(),
            *self.overlap_pair_to_frame_inds.values(),
        ):
            del frames[self._patience :]  # more are not counted


class Cleaning:
    """Duplicates and specks of masks, as `transformers` wants them found.

    It would download compiled code for that from the hub while it runs, and leave them in the
    masks without.
    """

    def generic_nms(
        self, ious: Tensor, scores: Tensor, iou_threshold: float, use_iou_matrix: bool
    ) -> Tensor:
        """The detections that overlap no surer one, from their overlaps (N,N)."""
        assert use_iou_matrix
        alike = (ious > iou_threshold).cpu().numpy()
        kept: list[int] = []
        for i in scores.argsort(descending=True, stable=True).tolist():
            if not alike[i, kept].any():
                kept.append(i)
        return torch.tensor(kept, dtype=torch.long, device=ious.device)

    def cc_2d(self, masks: Tensor, get_counts: bool) -> tuple[Tensor, Tensor]:
        """The connected part that a pixel is in, and its area in px; masks (N,1,H,W) of uint8."""
        assert get_counts
        parts, areas = np.zeros((2, *masks.shape), np.int32)
        for n, mask_HW in enumerate(masks[:, 0].cpu().numpy()):
            _, parts[n, 0], found, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
            areas[n, 0] = np.where(mask_HW, found[parts[n, 0], cv2.CC_STAT_AREA], 0)
        return torch.from_numpy(parts).to(masks.device), torch.from_numpy(areas).to(masks.device)


def clean_masks() -> None:
    """Let `transformers` clean masks with `Cleaning`."""
    modeling_sam3_video.cv_utils_kernel = Cleaning()


class TrackerEyes(nn.Module):
    """The picture encoder of SAM 3's tracker, which shares its backbone with the detector."""

    def __init__(self, model: Any, mixed: Callable[[], torch.autocast]) -> None:
        """model: a `Sam3VideoModel`; mixed: the precision of its backbone."""
        super().__init__()
        self._model = (model,)  # in a tuple: a module in a module would make a circle
        self._mixed = mixed

    def forward(self, pixels_B3HW: Tensor, **_: Any) -> SimpleNamespace:
        (model,) = self._model
        with self._mixed():
            seen_BPC = model.detector_model.vision_encoder.backbone(pixels_B3HW).last_hidden_state
        size = tuple(model.tracker_model.prompt_encoder.image_embedding_size)
        maps, places = model.tracker_neck(seen_BPC.float().transpose(1, 2).unflatten(2, size))
        return SimpleNamespace(fpn_hidden_states=maps, fpn_position_encoding=places)
