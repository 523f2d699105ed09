"""Ingest: a video or frame folder becomes scenes, one a shot.

One pass over the source: decode → find cuts → score → write JPEGs and video. Clips lie
aside until the source has ended, then take their places; a killed ingest leaves no scene.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicverse.config import Config, IngestConfig
from dynamicverse.curation import shots
from dynamicverse.curation.scores import verdict
from dynamicverse.curation.sources import local_sha256
from dynamicverse.curation.staging import Encoders, StagedClip, staging
from dynamicverse.errors import InputError, Reason
from dynamicverse.formats import scene_info
from dynamicverse.formats.scene_info import FilterReport, SceneInfo, Shot, Source
from dynamicverse.media import Frame, FrameFolder, Limits, MediaInfo, VideoReader
from dynamicverse.media.folder import NOMINAL_RATE
from dynamicverse.scene import MAX_NAME, Scene
from dynamicverse.stages.base import StageContext

VERSION = 1
WRITES = ("scene_json", "rgb", "video")
MAX_SOURCE_NAME = 200

Reader = VideoReader | FrameFolder


def settings(config: Config) -> Mapping[str, Any]:
    """What decides the outputs: all of `ingest` but how others treat a rejected clip."""
    return config.ingest.model_dump(mode="json", exclude={"filter": {"on_reject"}})


def ingest(
    source: Path, name: str, make_scene: Callable[[str], Scene], context: StageContext
) -> list[Scene]:
    """Make the scenes of a local video or frame folder; returns them in order.

    name: of the scene, sanitised; several shots give `name-000`, `name-001`, …
    make_scene: gives the place of a scene; called with `name` before anything is decoded.
    Sets `context.frames`, and `context.facts`: scenes, accepted (scene → verdict), cuts.

    Raises InputError with the reason why the source cannot be used.
    """
    options = context.config.ingest
    place = make_scene(name)
    with _open(source, options) as reader, staging(place) as root:
        clips = _Splitter(reader, options, Scene(root, place.dataset, "shots"), context).run()
        digest, size = local_sha256(source)
        origin = Source(
            name=_label(source),
            kind=reader.info.kind,
            sha256=digest,
            bytes=size,
            width=reader.info.stored_width,
            height=reader.info.stored_height,
            rotation=reader.info.rotation,
        )
        for warning in reader.warnings:
            context.warn(f"{origin.name}: {warning}")
        return _publish(clips, name, make_scene, context, reader, origin)


def _open(source: Path, options: IngestConfig) -> Reader:
    limits = Limits(options.max_pixels, options.min_side, options.truncated)
    try:
        is_folder = source.is_dir()
    except OSError:  # a symbolic link that leads to itself: the reader says so
        is_folder = False
    if is_folder:
        return FrameFolder(source, limits, options.max_side, options.frame_rate)
    return VideoReader(source, limits, options.max_side)


class _Splitter:
    """The one pass: frames flow through a short queue, in which cuts are recognised."""

    def __init__(
        self, reader: Reader, options: IngestConfig, aside: Scene, context: StageContext
    ) -> None:
        self.reader, self.options, self.aside, self.context = reader, options, aside, context
        splits = options.split_shots and reader.info.kind == "video"
        self.detector = shots.ShotDetector() if splits else None
        self.encoders = Encoders()
        self.queue: deque[tuple[Frame, NDArray[np.uint8]]] = deque()
        self.clips: list[StagedClip] = []
        self.kept = 0

    def run(self) -> list[StagedClip]:
        with closing(self.encoders):
            try:
                for frame in self._frames():
                    self._push(frame)
                self._flush()
            except BaseException:
                self.encoders.close()
                if self.clips:
                    self.clips[-1].abort()
                raise
        return self.clips

    def _frames(self) -> Iterator[Frame]:
        """The frames that are kept, at most `fps` a second; reports progress."""
        estimate, slot = self.reader.info.frames or 0, -1
        for done, frame in enumerate(self.reader, start=1):
            self.context.progress(done, max(done, estimate))
            if self.options.fps is not None:
                here = int(frame.time_s * self.options.fps + 1e-6)
                if here == slot:
                    continue
                slot = here
            self.kept += 1
            if self.options.max_frames is not None and self.kept > self.options.max_frames:
                raise InputError(
                    f"{self.reader.path}: more than ingest.max_frames = "
                    f"{self.options.max_frames} frames",
                    Reason.TOO_LARGE,
                )
            yield frame

    def _push(self, frame: Frame) -> None:
        small = shots.small(frame.rgb_HW3)
        self.queue.append((frame, small))
        if self.detector is None:
            self._write(starts=False)
            return
        cut = self.detector.push(small)
        if len(self.queue) > shots.LOOK_AHEAD:
            self._write(starts=cut is not None)

    def _flush(self) -> None:
        cuts = set(self.detector.finish()) if self.detector else set()
        index = self.kept - len(self.queue)
        while self.queue:
            self._write(starts=index in cuts)
            index += 1
        if self.clips:
            self.clips[-1].finish()

    def _write(self, starts: bool) -> None:
        """Write the oldest frame of the queue, to a new clip if a shot starts there."""
        frame, small = self.queue.popleft()
        if starts or not self.clips:
            if self.clips:
                self.clips[-1].finish()
            scene = Scene(self.aside.root, self.aside.dataset, f"shot-{len(self.clips):06d}")
            rate = self.options.fps or self.reader.info.rate or NOMINAL_RATE
            quality = self.options.jpeg_quality
            self.clips.append(StagedClip(scene, frame, rate, quality, self.encoders))
        self.clips[-1].add(frame, small)


def _publish(
    clips: list[StagedClip],
    name: str,
    make_scene: Callable[[str], Scene],
    context: StageContext,
    reader: Reader,
    origin: Source,
) -> list[Scene]:
    """Move the clips into the tree, each scene.json last."""
    scenes = []
    accepted: dict[str, bool] = {}
    for index, clip in enumerate(clips):
        scene = make_scene(shot_name(name, index, len(clips)))
        report = _judge(clip, len(clips), context.config.ingest)
        clip.move_to(scene)
        info = _describe(scene, clip, index, len(clips), reader, origin, report)
        scene_info.write(scene.scene_json, info)
        scenes.append(scene)
        accepted[scene.name] = report.accepted
        context.log(
            f"{scene.name}: {info.frame_count} frames {info.width}x{info.height}, "
            + ("accepted" if report.accepted else "rejected: " + "; ".join(report.reasons))
        )
    context.frames = sum(len(clip.times_s) for clip in clips)
    context.facts.update(
        scenes=[scene.name for scene in scenes],
        accepted=accepted,
        cuts=[clip.first for clip in clips[1:]],
    )
    return scenes


def shot_name(name: str, index: int, count: int) -> str:
    """`name` for a single shot, else `name-000`…; a long name is shortened to make room."""
    if count == 1:
        return name
    suffix = f"-{index:0{max(3, len(str(count - 1)))}d}"
    return name[: MAX_NAME - len(suffix)].rstrip("._-") + suffix


def _judge(clip: StagedClip, count: int, options: IngestConfig) -> FilterReport:
    reasons = verdict(clip.scores, options.filter)
    times = clip.times_s
    interval = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    length = times[-1] - times[0] + interval
    if count > 1 and length < options.min_shot_s:
        reasons.insert(
            0,
            f"too short a shot: {len(times)} frames, {length:.2f} s is below "
            f"{options.min_shot_s:g} s",
        )
    return FilterReport(scores=clip.scores, accepted=not reasons, reasons=reasons)


def _describe(
    scene: Scene,
    clip: StagedClip,
    index: int,
    count: int,
    reader: Reader,
    origin: Source,
    report: FilterReport,
) -> SceneInfo:
    times = clip.times_s
    return SceneInfo(
        name=scene.name,
        dataset=scene.dataset,
        width=clip.width,
        height=clip.height,
        frame_count=len(times),
        rate=_rate(times, reader.info),
        times_s=[round(time_s - times[0], 9) for time_s in times],
        source=origin,
        shot=Shot(
            index=index,
            count=count,
            first_frame=clip.first,
            last_frame=clip.last,
            start_s=times[0],
            end_s=times[-1],
        ),
        filter=report,
        warnings=reader.warnings,
    )


def _rate(times: list[float], info: MediaInfo) -> float | None:
    """Mean frames a second; None for a folder whose rate is not known."""
    if info.rate is None and info.kind == "frames":
        return None
    if len(times) > 1:
        return round((len(times) - 1) / (times[-1] - times[0]), 6)
    return info.rate


def _label(source: Path) -> str:
    """How scene.json names the source: `clip.mp4`, `X` or `X/rgb`; never its place."""
    label = f"{source.parent.name}/rgb" if source.name == "rgb" else source.name
    return label[-MAX_SOURCE_NAME:]
