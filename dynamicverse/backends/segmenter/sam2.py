"""SAM 2.1 for video in `transformers`: the boxes of the analysis become masks.

Ravi et al., "SAM 2: Segment anything in images and videos" (2024). Every object is prompted
once, with its largest box, and followed from there to both ends of the clip. A frame is encoded
once, in batches ahead of the masks; all objects take their steps together (`sam2_steps`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Coming, Network, Rgb, ahead, package, upload
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.segmenter import CoarseReader
from dynamicverse.backends.segmenter.joined import Joined
from dynamicverse.backends.segmenter.pictures import Pictures
from dynamicverse.backends.segmenter.sam2_steps import TOGETHER, Followed, Picture, Steps
from dynamicverse.config import SegmentationConfig
from dynamicverse.errors import DynamicVerseError, Reason
from dynamicverse.formats.objects import DynamicObjects

BATCH = 8  # frames that the picture encoder sees together
HELD = 240  # frames whose features are held, 8.4 MB each; longer clips are encoded twice
BEHIND = 8  # labels that may be on their way while the next are computed
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
        super().__init__(BATCH, kernels=True)
        self._dtype = torch.bfloat16 if self._where.type == "cuda" else torch.float32
        library = package("transformers", "sam2", INSTALL)
        if model is None:
            folder = weights.folder(weights.REGISTRY["sam2"])
            model = library.Sam2VideoModel.from_pretrained(folder, local_files_only=True)
        self._side = model.config.image_size
        self._steps = Steps(model.to(self._where, self._dtype).eval())
        size = {"height": self._side, "width": self._side}
        self._processor = library.Sam2ImageProcessor(size=size)

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `SegmenterBackend`.

        Where two objects claim a pixel, one that was prompted before has it, else the surer one.
        """
        labels = self._labels(clip, prompts_of(objects))
        with closing(ahead(labels, self._thread)) as coming:
            for found in coming:
                if found is not None:
                    t, label_HW = found
                    write_mask(t, label_HW)
                    progress(t + 1)

    @torch.inference_mode()
    def _labels(self, clip: ClipReader, prompts: Prompts) -> Iterator[tuple[int, Labels] | None]:
        """The labels (H,W) of all frames, in order; None after each step, so that it can end."""
        count = len(clip)
        starts = [t for t, found in prompts.items() for _ in found]
        joined = Joined(starts, count, clip.size, self._where, packed=count > HELD)
        coming: deque[tuple[int, Coming]] = deque()
        held = count if count <= HELD else 2 * BATCH
        with closing(Pictures(clip.rgb, count, self._encoded, BATCH, held)) as pictures:
            turns = self._at_once if count <= HELD else self._there_and_back
            for _ in turns(_Clip(clip.size, count, prompts, pictures, joined)):
                for t, label_HW in joined.ready():
                    coming.append((t, Coming(label_HW)))
                    if len(coming) > BEHIND:  # they come while the next are launched
                        yield _arrived(*coming.popleft())
                yield None
            while coming:
                yield _arrived(*coming.popleft())

    def _at_once(self, clip: _Clip) -> Iterator[None]:
        """All objects take a step at a time; yields after each.

        Back first: then frames are complete from the beginning on, while the objects go forth.
        """
        both = [one for t in sorted(clip.prompts) for one in self._prompted(clip, t, 1)]
        yield
        for step in (-1, 1):
            passes = [one for one in both if one.step == step]
            while passes := [one for one in passes if 0 <= one.at + one.step < clip.count]:
                self._advance(clip, passes)
                yield

    def _there_and_back(self, clip: _Clip) -> Iterator[None]:
        """From the last prompt to the first frame, then through the clip; yields after each."""
        passes: list[Followed] = []
        for t in range(max(clip.prompts, default=-1), -1, -1):
            self._advance(clip, [one for one in passes if one.step < 0])
            passes += self._prompted(clip, t, -1)
            yield
        for t in range(clip.count):
            self._advance(clip, [one for one in passes if one.step > 0 and one.at == t - 1])
            yield

    def _prompted(self, clip: _Clip, t: int, step: int) -> Iterator[Followed]:
        """The objects whose prompt is in this frame, in both directions."""
        found = clip.prompts.get(t, [])
        scale_4 = torch.tensor([self._side / n for n in clip.size] * 2)
        for start in range(0, len(found), TOGETHER):
            part = found[start : start + TOGETHER]
            boxes_N4 = torch.tensor([box for _, box in part]) * scale_4
            scores_NHW, memories = self._steps.prompted(
                clip.pictures(t, step), boxes_N4.to(self._where)
            )
            for (i, _), scores_HW, memory in zip(part, scores_NHW, memories, strict=True):
                clip.joined.add(t, False, i, scores_HW)
                yield Followed(i, t, 1, memory)
                yield Followed(i, t, -1, memory)

    def _advance(self, clip: _Clip, passes: list[Followed]) -> None:
        pictures = [clip.pictures(one.at + one.step, one.step) for one in passes]
        for one, scores_HW in self._steps.followed(passes, pictures, clip.count):
            clip.joined.add(one.at, one.step < 0, one.id, scores_HW)

    def _encoded(self, frames: list[Rgb]) -> Iterator[list[Picture]]:
        yield from self._batches.parts(frames, self._encode)  # type: ignore[misc]

    def _encode(self, frames: list[Rgb]) -> list[Picture]:
        pictures = self._processor(images=upload(frames, self._where), return_tensors="pt")
        return self._steps.pictures(pictures["pixel_values"].to(self._where, self._dtype))


@dataclass(frozen=True)
class _Clip:
    """size: width and height of its `count` frames."""

    size: tuple[int, int]
    count: int
    prompts: Prompts
    pictures: Pictures[Picture]
    joined: Joined


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


def _arrived(frame: int, coming: Coming) -> tuple[int, Labels]:
    (label_HW,) = coming.arrived()
    return frame, label_HW


def _area(box: Any) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
