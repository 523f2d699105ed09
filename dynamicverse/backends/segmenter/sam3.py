"""SAM 3 for video in `transformers`: the names of the analysis become masks.

Carion et al., "SAM 3: Segment anything with concepts" (2025). One session a clip is asked for
all names at once; it finds every instance of each and follows it, and the boxes of the analysis
tell which instance is which object (`instances`). Objects without a name, and those that their
name does not find, are followed from their largest box by SAM 3's tracker, as SAM 2 does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import Network, Rgb, ahead, package, upload
from dynamicverse.backends.analysis import ClipReader, Labels
from dynamicverse.backends.segmenter import CoarseReader
from dynamicverse.backends.segmenter.instances import Instances, Mask
from dynamicverse.backends.segmenter.pictures import Pictures
from dynamicverse.backends.segmenter.sam2 import BATCH, INSTALL, Sam2, prompts_of
from dynamicverse.backends.segmenter.sam2_steps import Steps
from dynamicverse.config import SegmentationConfig
from dynamicverse.formats.objects import DynamicObject, DynamicObjects

MOST = 64  # instances followed at once: a name like "leaf" may find hundreds
UNNAMED = "unknown"  # category of an object that nothing named

Found = tuple[str, int, float, Mask]  # name, instance, how sure, where (H,W)


class Sam3(Sam2):
    """SAM 3, its large parts in bfloat16 on a GPU."""

    info = BackendInfo(
        name="sam3",
        licence=weights.REGISTRY["sam3"].licence,
        weights=weights.REGISTRY["sam3"].source,
        revision=weights.REGISTRY["sam3"].revision,
        device="cuda",
        memory_gb=16.0,
        batch_size=BATCH,
        packages=("transformers", "torchvision"),
    )

    def __init__(
        self, settings: SegmentationConfig, model: Any | None = None, processor: Any | None = None
    ) -> None:
        """model, processor: a `Sam3VideoModel` and its `Sam3VideoProcessor`; None: as pulled."""
        Network.__init__(self, BATCH)
        package("transformers.models.sam3_video.modeling_sam3_video", "sam3", INSTALL)
        from dynamicverse.backends.segmenter import sam3_session

        if model is None or processor is None:
            model, processor = _loaded()
        sam3_session.clean_masks()
        self._session = sam3_session.ClipSession
        self._model = model.float().to(self._where).eval()
        self._model.max_num_objects = MOST
        self._answers = processor
        # what follows boxes, as `Sam2` has it
        self._dtype = torch.float32
        self._side = model.config.image_size
        self._processor = processor.image_processor
        model.tracker_model.vision_encoder = sam3_session.TrackerEyes(model, self._mixed)
        self._steps = Steps(model.tracker_model)

    def segment(
        self,
        clip: ClipReader,
        objects: DynamicObjects,
        coarse: CoarseReader,
        write_mask: Callable[[int, Labels], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `SegmenterBackend`.

        Where two objects claim a pixel, the surer one has it, and a named one before one that
        was followed from its box.
        """
        boxes = prompts_of(objects)
        named = [item for item in objects.dynamic if item.category != UNNAMED]
        instances = Instances()
        if named:
            names = list(dict.fromkeys(item.name for item in named))
            with closing(ahead(self._asked(clip, names), self._thread)) as coming:
                for frame, found in coming:
                    for name, instance, score, inside_HW in found:
                        instances.add(frame, name, instance, score, inside_HW)
        owners = instances.owners(named)
        self._note([item for item in named if item.tracking_id not in owners.values()])
        rest = {
            frame: left
            for frame, those in boxes.items()
            if (left := [(i, box) for i, box in those if i not in owners.values()])
        }
        with closing(ahead(self._labels(clip, rest), self._thread)) as coming_labels:
            for done in coming_labels:
                if done is not None:
                    frame, label_HW = done[0], done[1].copy()
                    instances.draw(frame, owners, label_HW)
                    write_mask(frame, label_HW)
                    progress(frame + 1)

    def _note(self, lost: Sequence[DynamicObject]) -> None:
        for item in lost:
            then = "it is followed from its box" if item.position else "it has no box either"
            self.notes.append(f"{item.name} was not found by its name: {then}")

    @torch.inference_mode()
    def _asked(self, clip: ClipReader, names: Sequence[str]) -> Iterator[tuple[int, list[Found]]]:
        """Every frame in order, with the instances that the names find in it."""
        count = len(clip)
        with closing(Pictures(clip.rgb, count, self._pixels, BATCH, BATCH)) as pictures:
            session = self._session(
                clip.size, count, lambda t: pictures(t, 1), self._model.config, self._where
            )
            for name in names:
                self._ask(session, name)
            answers = self._model.propagate_in_video_iterator(session)
            while True:
                with self._mixed():
                    answer = next(answers, None)
                if answer is None:
                    break
                yield answer.frame_idx, self._found(session, answer)
            if len(session.obj_ids) >= MOST:
                self.notes.append(
                    f"the names found {MOST} instances: if there are more, they were left out"
                )

    def _ask(self, session: Any, name: str) -> None:
        """Add a prompt; of a long name the first words."""
        prompt = session.add_prompt(name)
        tokens = self._answers.tokenizer(
            name,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self._model.config.detector_config.text_config.max_position_embeddings,
        )
        session.prompt_input_ids[prompt] = tokens["input_ids"].to(self._where)
        session.prompt_attention_masks[prompt] = tokens["attention_mask"].to(self._where)

    def _found(self, session: Any, answer: Any) -> list[Found]:
        found = self._answers.postprocess_outputs(session, answer)
        names = {i: name for name, those in found["prompt_to_obj_ids"].items() for i in those}
        sure = answer.obj_id_to_tracker_score
        return [
            (names[i], i, float(sure.get(i, 0.0)), inside_HW)
            for i, inside_HW in zip(
                found["object_ids"].tolist(), found["masks"].cpu().numpy(), strict=True
            )
        ]

    def _pixels(self, frames: list[Rgb]) -> Iterator[list[Tensor]]:
        """Frames (3,side,side) as the network takes them."""
        made = self._processor(images=upload(frames, self._where), return_tensors="pt")
        yield list(made["pixel_values"].to(self._where))

    def _mixed(self) -> torch.autocast:
        """On a GPU bfloat16, by autocast as its authors do, with weights of single precision."""
        return torch.autocast(self._where.type, torch.bfloat16, enabled=self._where.type == "cuda")


def _loaded() -> tuple[Any, Any]:
    library = package("transformers", "sam3", INSTALL)
    folder = weights.folder(weights.REGISTRY["sam3"])
    model = library.Sam3VideoModel.from_pretrained(folder, local_files_only=True)
    return model, library.Sam3VideoProcessor.from_pretrained(folder, local_files_only=True)
