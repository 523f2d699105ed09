"""dynamicBA: cameras, dense depth, moving points and the fused 4D scene."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dynamicverse.config import Config, ReconstructionConfig
from dynamicverse.dynamicba.assemble import Assembler, FrameClouds, Scene4D
from dynamicverse.dynamicba.dense.depth_sources import Clip, DepthSource, PriorDepth, swept_depth
from dynamicverse.dynamicba.dense.flow_refinement import ReadFlow
from dynamicverse.dynamicba.dense.views import SparsePoints
from dynamicverse.dynamicba.frame_pool import compute_device, in_order
from dynamicverse.formats import (
    depth_exr,
    flow_png,
    images,
    intrinsics,
    masks,
    poses,
    reconstruction_info,
    scene_info,
    tracks,
)
from dynamicverse.formats.reconstruction_info import ReconstructionInfo, Relabelled
from dynamicverse.scene import Scene
from dynamicverse.stages.base import Stage, StageContext
from dynamicverse.stages.reconstructed import summarise, write_fused
from dynamicverse.stages.unit import in_metres

if TYPE_CHECKING:
    from dynamicverse.dynamicba.cameras.solve import CameraSolution

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

DOUBTFUL_FOCAL = 0.05  # of the focal length: a larger standard deviation is a warning
CAMERAS, SEARCH, FUSION = (0, 40), (40, 80), (80, 100)  # per cent of the progress bar


@dataclass(frozen=True)
class SceneViews:
    """Pictures and masks of a scene; no masks means that nothing moves."""

    scene: Scene
    size: tuple[int, int]
    has_masks: bool

    def rgb(self, frame: int) -> Bytes:
        return images.read_rgb(self.scene.rgb(frame))

    def ids(self, frame: int) -> Bytes:
        if not self.has_masks:
            return np.zeros(self.size[::-1], np.uint8)
        return masks.read(self.scene.mask(frame))


def run(scene: Scene, context: StageContext) -> None:
    """Write poses, depth and the fused scene; reads rgb, masks, tracks, a depth prior and flow."""
    # the solver needs torch, which takes seconds to import: only when there is work
    from dynamicverse.dynamicba.cameras.solve import solve_cameras

    settings = context.config.reconstruction
    steps = Steps(context)
    info = scene_info.read(scene.scene_json)
    tracked = tracks.read(scene.tracks)
    has_prior = bool(scene.files("depth_prior"))
    steps.done("read")
    solution = solve_cameras(
        tracked,
        settings,
        prior=intrinsics.read(scene.prior_intrinsics) if has_prior else None,
        progress=lambda done, total: _advance(context, CAMERAS, done, total),
    )
    context.log(
        f"cameras: {solution.status}, {int(solution.registered_F.sum())} of {info.frame_count} "
        f"frames, {int(solution.static_N.sum())} points"
    )
    steps.done("cameras")
    solution, scale = in_metres(scene, solution, tracked)
    labels = _labels(tracked, solution, settings)
    clip = _clip(SceneViews(scene, tracked.size, bool(scene.files("masks"))), solution, labels)
    cameras = poses.Poses(
        solution.c2w_F44,
        solution.K_F33,
        np.array(info.times_s, np.float64),
        solution.registered_F,
        scale,
        solution.distortion,
        solution.pose_sigma_F6,
        solution.focal_sigma_F,
        solution.segment_F,
        solution.segment_c2w_F44,
    )
    steps.done("labels")
    with depth_source(scene, clip, solution, settings, has_prior, context) as source:
        steps.done("search and moving objects")
        built = _assemble(scene, clip, source, settings, context)
        told = solution.statements + labels.statements + (source.statements if source else [])
    steps.done("depth and fusion")
    poses.write(scene.poses, cameras)
    objects = source.moving.objects if source else []
    write_fused(scene, clip, cameras, built, objects)
    kind = "none" if source is None else "prior" if has_prior else "plane_sweep"
    summary = summarise(solution, cameras, kind, told, objects).model_copy(
        update={"relabelled": labels.counts}
    )
    reconstruction_info.write(scene.reconstruction_json, summary)
    steps.done("write the scene")
    _report(context, summary, built)


class Steps:
    """Wall seconds of the steps of a reconstruction, among the facts of the stage."""

    def __init__(self, context: StageContext) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()
        context.facts["seconds"] = self._seconds

    def done(self, name: str) -> None:
        """A step ends here, the next one begins."""
        now = time.perf_counter()
        self._seconds[name], self._last = round(now - self._last, 3), now


@dataclass(frozen=True)
class Labels:
    """Tracks with the labels that their motion agrees with, and how many were changed.

    points_N3: world, of tracks that an object's mask covers and that stand still; else NaN.
    """

    tracks: tracks.Tracks
    points_N3: Floats
    counts: Relabelled
    statements: list[str]


def _labels(
    tracked: tracks.Tracks, solution: CameraSolution, settings: ReconstructionConfig
) -> Labels:
    """Labels against motion, where the cameras are known well enough to tell."""
    if solution.status != "full":
        return Labels(tracked, np.full_like(solution.points_N3, np.nan), Relabelled(), [])
    from dynamicverse.dynamicba.cameras.mapping import Tolerances
    from dynamicverse.dynamicba.motion.object_scale import Cameras
    from dynamicverse.dynamicba.motion.relabel import relabel

    limits = settings.cameras
    found = relabel(
        tracked,
        solution.static_N,
        Cameras(solution.c2w_F44, solution.K_F33, solution.distortion),
        Tolerances(
            limits.inlier_px,
            np.radians(limits.min_angle),
            limits.loss_px,
            compute_device(settings.device),
        ),
    )
    counts = Relabelled(
        to_static=found.to_static, to_moving=found.to_moving, set_aside=found.set_aside
    )
    labelled = replace(tracked, instance_id_N=found.instance_id_N)
    return Labels(labelled, found.points_N3, counts, found.statements)


def _clip(views: SceneViews, solution: CameraSolution, labels: Labels) -> Clip:
    """The clip for dense depth; tracks found to stand still join the static points."""
    known_N = np.isfinite(labels.points_N3[:, 0])
    points_N3 = np.where(known_N[:, None], labels.points_N3, solution.points_N3)
    static_N = solution.static_N | known_N
    return Clip(
        views,
        labels.tracks,
        SparsePoints(points_N3, labels.tracks.visibility_FN & static_N),
        solution.c2w_F44,
        solution.K_F33,
        solution.registered_F,
        solution.distortion,
    )


@contextmanager
def depth_source(
    scene: Scene,
    clip: Clip,
    solution: CameraSolution,
    settings: ReconstructionConfig,
    has_prior: bool,
    context: StageContext,
) -> Iterator[DepthSource | None]:
    """A prior if there is one, else parallax if there is any, else nothing."""
    if not solution.registered_F.any():
        yield None
    elif has_prior:
        prior = PriorDepth(
            clip,
            settings,
            lambda frame: depth_exr.read(scene.depth_prior(frame)),
            _flow_reader(scene) if settings.refine_depth and scene.files("flow") else None,
        )
        if solution.status != "full":
            prior.statements.append("depth rests on the prior alone, not on parallax")
        yield prior
    elif solution.status == "full":
        with swept_depth(
            clip, settings, lambda done, total: _advance(context, SEARCH, done, total)
        ) as swept:
            yield swept
    else:
        yield None


def _flow_reader(scene: Scene) -> ReadFlow:
    """Flow between two frames, None where there is no file."""

    def read(source: int, target: int) -> npt.NDArray[np.float32] | None:
        path = scene.flow(source, target)
        return flow_png.read(path)[0] if path.exists() else None

    return read


def _assemble(
    scene: Scene,
    clip: Clip,
    source: DepthSource | None,
    settings: ReconstructionConfig,
    context: StageContext,
) -> Scene4D:
    """Write the depth of every registered frame and fuse all frames."""
    moving = source.moving if source else None
    assembler = Assembler(clip, settings.fuse, moving, compute_device(settings.device))
    context.frames = frames = len(clip.registered_F)

    def look(frame: int) -> FrameClouds:
        rgb_HW3, ids_HW = clip.frames.rgb(frame), clip.frames.ids(frame)
        depth = None
        if source is not None and clip.registered_F[frame]:
            depth = source.depth(frame, rgb_HW3, ids_HW)
            depth_exr.write(scene.depth(frame), *depth)
        return assembler.look(frame, rgb_HW3, ids_HW, depth)

    for frame, seen in enumerate(in_order(look, range(frames))):
        assembler.put(frame, seen)
        _advance(context, FUSION, frame + 1, frames)
    return assembler.result()


def _report(context: StageContext, summary: ReconstructionInfo, built: Scene4D) -> None:
    for statement in summary.statements:
        context.log(statement)
    sigma_px = summary.focal_sigma_px
    if summary.focal_px and sigma_px and sigma_px > DOUBTFUL_FOCAL * summary.focal_px:
        share = 100 * sigma_px / summary.focal_px
        context.warn(
            f"focal length {summary.focal_source}, not well determined: "
            f"{summary.focal_px:.0f} px ± {share:.0f} %"
        )
    if summary.registered_frames < summary.frame_count:
        missing = summary.frame_count - summary.registered_frames
        context.warn(f"{missing} of {summary.frame_count} frames have no camera in the world")
    if built.dropped:
        context.warn(f"{built.dropped} static points too far away for the fused cloud")
    context.facts |= {
        "status": summary.status,
        "registered": summary.registered_frames,
        "focal_px": summary.focal_px,
        "focal_source": summary.focal_source,
        "points": summary.points,
        "reprojection_rmse_px": summary.reprojection_rmse_px,
        "depth_source": summary.depth_source,
        "static_points": len(built.static.points_N3),
        "moving_points": len(built.moving_points_Q3),
    }


def _advance(context: StageContext, part: tuple[int, int], done: int, total: int) -> None:
    first, last = part
    context.progress(first + (last - first) * done // max(total, 1), 100)


def settings(config: Config) -> Mapping[str, Any]:
    """All but the device: what is computed does not depend on where."""
    return config.reconstruction.model_dump(exclude={"device"})


STAGE = Stage(
    name="reconstruction",
    version=6,
    reads=("scene_json", "rgb", "masks", "tracks", "depth_prior"),
    optional=("flow",),
    writes=("cameras", "depth", "fused"),
    settings=settings,
    run=run,
)
