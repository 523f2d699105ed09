"""The steps of SAM 2 for video in `transformers`, for many objects at once.

`transformers` runs the memory and the mask decoder object after object; with one picture of
4096 places each, that leaves most of a large GPU idle. Objects do not depend on each other, and
neither do the two directions in which one is followed, so here all that are followed take a step
together, each in its own frame. The sums are the network's own; a test holds them to its loop
for one object at a time. (With several, `transformers` remembers the masks of all as prompted
ones in a frame where any is prompted; here only that one's, as SAM 2 itself does.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, unflatten
from torch.nn.functional import interpolate

from dynamicverse.backends.accelerator import fuse_norms
from dynamicverse.backends.cuda_graphs import Graphed

TOGETHER = 16  # objects in a step; more are cut up
NO_OBJECT = -1024.0  # the network's score where an object is not seen
CORNERS = (2, 3)  # the network's labels of a box's corners


@dataclass(frozen=True)
class Picture:
    """Features of a frame, (1,C,h,w) of every level, the finest first."""

    levels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Memory:
    """What is remembered of an object in a frame: features (places,1,c), pointer (1,1,C)."""

    features: Tensor
    pointer: Tensor


@dataclass
class Followed:
    """An object on its way through the frames; step: +1 or -1. Its first memory stays."""

    id: int
    at: int
    step: int
    first: Memory
    age: int = 0
    recent: deque[Memory] = field(default_factory=deque)


class Steps:
    """A `Sam2VideoModel` that prompts and follows several objects at once."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tools = import_module(type(model).__module__)
        self._most_pointers = model.config.max_object_pointers_in_encoder
        # what follows an object has few shapes, and runs often enough to be replayed
        self._decoded = Graphed(self._decode_followed)
        self._remembered = Graphed(self._remember)
        self._attended = Graphed(self._attend)
        fuse_norms(model.vision_encoder)
        self._place: Tensor | None = None
        self._memory_place: Tensor | None = None

    def pictures(self, pixels_B3HW: Tensor) -> list[Picture]:
        """Features of frames in the network's size and scale."""
        found = self._model.get_image_features(pixels_B3HW, return_dict=True)
        if self._place is None:
            self._place = found.fpn_position_encoding[-1][:, :1].clone()
        maps = [
            level_PBC.permute(1, 2, 0).unflatten(2, tuple(size))
            for level_PBC, size in zip(
                found.fpn_hidden_states, self._model.backbone_feature_sizes, strict=True
            )
        ]
        return [
            Picture(tuple(map_BChw[b : b + 1].contiguous() for map_BChw in maps))
            for b in range(len(pixels_B3HW))
        ]

    def prompted(self, picture: Picture, boxes_N4: Tensor) -> tuple[Tensor, list[Memory]]:
        """Scores (N,h,w) of the objects in these boxes, px of the network, and their memories."""
        count = len(boxes_N4)
        labels_2 = torch.tensor(CORNERS, dtype=torch.int32, device=boxes_N4.device)
        labels_N12 = labels_2.expand(count, 1, 2)
        maps = [map_1Chw.expand(count, -1, -1, -1) for map_1Chw in picture.levels]
        seen_NChw = maps[-1] + self._model.no_memory_embedding.view(1, -1, 1, 1)
        several = self._model._use_multimask(True, {"point_labels": labels_N12})
        scores_NHW, pointer, sure = self._decode(
            [*maps[:-1], seen_NChw], boxes_N4.view(-1, 1, 2, 2), labels_N12, several
        )
        return scores_NHW, _memories(self._remember(maps[-1], scores_NHW, sure, True), pointer)

    def followed(
        self, passes: Sequence[Followed], pictures: Sequence[Picture], frames: int
    ) -> Iterator[tuple[Followed, Tensor]]:
        """Each with its scores (h,w), one frame on; pictures: of those frames.

        frames: of the clip; how old pointers are told apart depends on it.
        """
        pairs = sorted(zip(passes, pictures, strict=True), key=lambda pair: pair[0].age)
        for start in range(0, len(pairs), TOGETHER):
            part = pairs[start : start + TOGETHER]
            levels = zip(*(picture.levels for _, picture in part), strict=True)
            maps = [torch.cat(level) for level in levels]
            seen: list[Tensor] = []
            for _, alike in groupby(part, lambda pair: self._remembers(pair[0], frames)):
                group = [one for one, _ in alike]
                first = sum(len(found) for found in seen)
                here_NChw = maps[-1][first : first + len(group)]
                seen.append(self._with_memory(group, here_NChw, frames))
            scores_NHW, pointer, sure = self._decoded([*maps[:-1], torch.cat(seen)])
            features_PNc = self._remembered(maps[-1], scores_NHW, sure, False)
            memories = _memories(features_PNc, pointer)
            for (one, _), scores_HW, memory in zip(part, scores_NHW, memories, strict=True):
                self._keep(one, memory)
                yield one, scores_HW

    def _keep(self, one: Followed, memory: Memory) -> None:
        one.age += 1
        one.at += one.step
        one.recent.append(memory)
        if len(one.recent) == self._most_pointers:
            one.recent.popleft()

    def _remembers(self, one: Followed, frames: int) -> tuple[int, int]:
        """How many memories and pointers this object has besides its first."""
        pointers = min(frames, self._most_pointers) - 1
        return min(one.age, self._model.num_maskmem - 1), min(one.age, pointers)

    def _with_memory(self, group: Sequence[Followed], here_NChw: Tensor, frames: int) -> Tensor:
        """The features (N,C,h,w), having looked at what is remembered; all remember as much."""
        memories, pointers = self._remembers(group[0], frames)
        kept, told = [], []
        for one in group:
            latest = list(one.recent)[::-1]
            kept.append([one.first, *latest[:memories][::-1]])
            told.append([one.first, *latest[:pointers]])
        memory_MNc = torch.cat([torch.cat([m.features for m in one]) for one in kept], dim=1)
        pointer_QNC = torch.cat([torch.cat([m.pointer for m in one]) for one in told], dim=1)
        ages = [[one.age + 1 for one in group]]
        ages += [[q] * len(group) for q in range(1, pointers + 1)]
        age_QN = torch.tensor(ages, dtype=torch.float32)
        if here_NChw.is_cuda:
            age_QN = age_QN.pin_memory().to(here_NChw.device, non_blocking=True)
        longest = min(frames, self._most_pointers) - 1
        full = (memories, pointers) == (self._model.num_maskmem - 1, self._most_pointers - 1)
        attend = self._attended if full else self._attend
        found: Tensor = attend(here_NChw, memory_MNc, pointer_QNC, age_QN / longest, memories)
        return found

    def _attend(
        self,
        here_NChw: Tensor,
        memory_MNc: Tensor,
        pointer_QNC: Tensor,
        age_QN: Tensor,
        memories: int,
    ) -> Tensor:
        """The memory attention; gives (N,C,h,w)."""
        assert self._place is not None  # pictures come first
        count, _, height, width = here_NChw.shape
        here_PNC = here_NChw.flatten(2).permute(2, 0, 1)
        pointer_qNc, when_qNc = self._pointers(pointer_QNC, age_QN)
        found = self._model.memory_attention(
            here_PNC,
            torch.cat([memory_MNc.to(here_PNC.dtype), pointer_qNc]),
            self._place.expand(-1, count, -1),
            torch.cat([self._memory_places(memories).expand(-1, count, -1), when_qNc]),
            len(pointer_qNc),
        )
        tokens_NPC: Tensor = found.reshape(count, height * width, -1)
        return unflatten(tokens_NPC.transpose(1, 2), 2, (height, width))

    def _memory_places(self, memories: int) -> Tensor:
        """Where and when (M,1,c) the memories are: the prompted one, then from old to new."""
        assert self._memory_place is not None  # prompts come first
        when = self._model.memory_temporal_positional_encoding
        return torch.cat([self._memory_place + when[i] for i in (-1, *range(memories)[::-1])])

    def _pointers(self, pointer_QNC: Tensor, age_QN: Tensor) -> tuple[Tensor, Tensor]:
        """The pointers cut into tokens (q,N,c) as wide as memories, and when they are from."""
        model = self._model
        count, channels = pointer_QNC.shape[1:]
        parts = channels // model.mem_dim
        if model.config.enable_temporal_pos_encoding_for_object_pointers:
            waves = self._tools.get_1d_sine_pe(age_QN, dim=channels).to(pointer_QNC.dtype)
            when_QNc = model.temporal_positional_encoding_projection_layer(waves)
        else:
            when_QNc = pointer_QNC.new_zeros(len(pointer_QNC), count, model.mem_dim)
        tokens = unflatten(pointer_QNC, 2, (parts, model.mem_dim)).transpose(1, 2).flatten(0, 1)
        return tokens, when_QNc.repeat_interleave(parts, dim=0)

    def _decode_followed(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        count = len(maps[-1])
        nowhere_N112 = maps[-1].new_zeros(count, 1, 1, 2)
        none_N11 = -torch.ones(count, 1, 1, dtype=torch.int32, device=maps[-1].device)
        return self._decode(maps, nowhere_N112, none_N11, self._model._use_multimask(False, None))

    def _decode(
        self, maps: list[Tensor], points_N1K2: Tensor, labels_N1K: Tensor, several: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (N,h,w), pointers (N,1,C) and how surely each is seen (N,1,1).

        maps: features (N,C,h,w), the last with memory; several: choose the best of three masks.
        """
        model = self._model
        sparse, dense = model.prompt_encoder(points_N1K2, labels_N1K, None, None)
        place = model.get_image_wide_positional_embeddings().repeat(len(maps[-1]), 1, 1, 1)
        scores_N1KHW, quality_N1K, token_N1KC, sure_N11 = model.mask_decoder(
            image_embeddings=maps[-1],
            image_positional_embeddings=place,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            high_resolution_features=maps[:-1],
        )
        shown_N11 = sure_N11 > 0
        scores_NKHW = torch.where(shown_N11[..., None], scores_N1KHW[:, 0], NO_OBJECT)
        row_N = torch.arange(len(scores_NKHW), device=scores_NKHW.device)
        best_N = quality_N1K[:, 0].argmax(dim=-1)
        token_N1C = token_N1KC[row_N, :, best_N if token_N1KC.shape[2] > 1 else 0]
        shown = shown_N11.to(token_N1C.dtype)
        pointer_N1C = shown * model.object_pointer_proj(token_N1C)
        pointer_N1C = pointer_N1C + (1 - shown) * model.no_object_pointer
        return scores_NKHW[row_N, best_N], pointer_N1C, sure_N11

    def _remember(
        self, here_NChw: Tensor, scores_NHW: Tensor, sure_N11: Tensor, prompted: bool
    ) -> Tensor:
        """The memory (P,N,c) of masks in a picture."""
        size = (self._model.image_size, self._model.image_size)
        mask_N1HW = interpolate(
            scores_NHW[:, None].float(), size=size, mode="bilinear", align_corners=False
        ).to(scores_NHW.dtype)
        features_PNc, place_PNc = self._model._encode_new_memory(
            current_vision_feats=here_NChw.flatten(2).permute(2, 0, 1),
            pred_masks_high_res=mask_N1HW,
            object_score_logits=sure_N11,
            is_mask_from_pts=prompted,
        )
        if self._memory_place is None:
            self._memory_place = place_PNc[:, :1].clone()
        found: Tensor = features_PNc
        return found


def _memories(features_PNc: Tensor, pointer_N1C: Tensor) -> list[Memory]:
    return [
        Memory(features_PNc[:, n : n + 1], pointer_N1C[n : n + 1]) for n in range(len(pointer_N1C))
    ]
