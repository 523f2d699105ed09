"""One check an artifact: the right files are there, and each is what it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dynamicverse.errors import ArtifactError, Reason
from dynamicverse.formats import (
    captions,
    depth_exr,
    flow_png,
    fused,
    html,
    images,
    intrinsics,
    keyframe_info,
    labels,
    masks,
    mp4,
    objects,
    poses,
    reconstruction_info,
    scene_info,
    tracks,
)
from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.scene_info import SceneInfo
from dynamicverse.scene import ARTIFACTS, Scene

# visual copies of the segmentation; each is there for all frames or for none
FRAME_KINDS = ("original", "masks", "overlay", "segmented")

Check = Callable[[Scene, SceneInfo, bool], None]


def validate_artifact(scene: Scene, artifact: str, thorough: bool = False) -> None:
    """Check all files of an artifact against scene.json and against each other.

    Without `thorough`, pictures, flow and depth are checked by header, size and end.
    Raises ArtifactError (MISSING_ARTIFACT, INVALID_ARTIFACT); ValueError for a name that is
    not an artifact.
    """
    if artifact not in ARTIFACTS:
        raise ValueError(f"no artifact '{artifact}'")
    info = scene_info.read(scene.scene_json)
    if (info.dataset, info.name) != (scene.dataset, scene.name):
        raise invalid(scene.scene_json, f"is of the scene {info.dataset}/{info.name}")
    CHECKS[artifact](scene, info, thorough)


def _scene_json(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    """Read by every check."""


def _rgb(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    for path in _exactly(scene, "rgb", map(scene.rgb, range(info.frame_count))):
        images.validate(path, info.width, info.height, thorough)


def _video(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    """A frame folder need not become a video: it may have no frame rate."""
    if scene.video.exists() or info.source.kind == "video":
        mp4.validate(scene.video)


def _key_frames(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    keyframe_info.validate(scene.keyframe_info, info.frame_count)
    chosen = keyframe_info.read(scene.keyframe_info).keyframes
    pictures = [scene.key_frame(frame) for frame in chosen]
    _exactly(scene, "key_frames", [scene.keyframe_info, *pictures])
    for path in pictures:
        images.validate(path, info.width, info.height, thorough)


def _flow(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    forward = [scene.flow(f, f + 1) for f in range(info.frame_count - 1)]
    backward = [scene.flow(f + 1, f) for f in range(info.frame_count - 1)]
    for path in _exactly(scene, "flow", forward + backward):
        flow_png.validate(path, info.width, info.height, thorough)


def _analysis(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    objects.validate(scene.dynamic_objects, info.frame_count, info.width, info.height)


def _motion(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    """Coarse labels may be there for some frames only."""
    allowed = {scene.motion(frame) for frame in range(info.frame_count)}
    for path in scene.files("motion"):
        if path not in allowed:
            raise invalid(path, "does not belong to a frame of the scene")
        masks.validate(path, info.width, info.height, thorough)


def _masks(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    known = _instances(scene) if thorough else set()
    for path in _exactly(scene, "masks", map(scene.mask, range(info.frame_count))):
        masks.validate(path, info.width, info.height)
        if thorough:
            unknown = masks.present(masks.read(path)) - known
            if unknown:
                raise invalid(path, f"ids {sorted(unknown)} are not in instance_labels.json")


def _segmentation(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    labels.validate(scene.instance_labels, info.frame_count)
    labels.validate_summary(scene.result_summary, info.frame_count)
    known = _instances(scene)
    counted = {item.id for item in labels.read_summary(scene.result_summary).objects}
    if known != counted:
        raise invalid(scene.result_summary, f"objects {sorted(counted)}, labels {sorted(known)}")
    found = set(scene.files("segmentation"))
    expected = [scene.instance_labels, scene.result_summary]
    for kind in FRAME_KINDS:
        if scene.segmentation_frame(kind, 0) in found:
            frames = [scene.segmentation_frame(kind, f) for f in range(info.frame_count)]
            expected += frames
        if scene.segmentation_video(kind) in found:
            expected.append(scene.segmentation_video(kind))
    for path in _exactly(scene, "segmentation", expected):
        if path.suffix == ".mp4":
            mp4.validate(path)
        elif path.suffix in (".jpg", ".png"):
            images.validate(path, info.width, info.height, thorough)


def _tracks(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    tracks.validate(scene.tracks, info.frame_count, info.width, info.height, thorough)


def _depth_prior(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    """Empty where the depth backend is `none`."""
    if not scene.files("depth_prior"):
        return
    maps = [scene.depth_prior(frame) for frame in range(info.frame_count)]
    _exactly(scene, "depth_prior", [scene.prior_intrinsics, *maps])
    intrinsics.validate(scene.prior_intrinsics)
    for path in maps:
        depth_exr.validate(path, info.width, info.height, thorough)


def _cameras(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    poses.validate(scene.poses, info.frame_count)
    reconstruction_info.validate(scene.reconstruction_json, info.frame_count)
    cameras = poses.read(scene.poses)
    told = reconstruction_info.read(scene.reconstruction_json)
    registered = int(cameras.registered_F.sum())
    if told.registered_frames != registered:
        problem = f"{told.registered_frames} registered frames, poses.npz has {registered}"
        raise invalid(scene.reconstruction_json, problem)
    if told.scale != cameras.scale:
        problem = f"scale '{told.scale}', poses.npz has '{cameras.scale}'"
        raise invalid(scene.reconstruction_json, problem)
    if not np.allclose(cameras.timestamps_F, info.times_s, rtol=0, atol=1e-6):
        raise invalid(scene.poses, "timestamps are not the times in scene.json")


def _depth(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    """One map a registered frame, or none at all where reconstruction.json says so."""
    told = reconstruction_info.read(scene.reconstruction_json)
    frames: list[int] = []
    if told.depth_source != "none":
        registered_F = poses.read(scene.poses).registered_F
        frames = [int(frame) for frame in registered_F.nonzero()[0]]
    for path in _exactly(scene, "depth", map(scene.depth, frames)):
        depth_exr.validate(path, info.width, info.height, thorough)


def _fused(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    fused.validate(scene.fused, info.frame_count, thorough)


def _captions(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    captions.validate(scene.captions, info.frame_count)
    told = {o.instance_id: o.text for o in captions.read(scene.captions).objects}
    if captions.read_csv(scene.object_captions) != told:
        raise invalid(scene.object_captions, "does not say what captions.json says")
    unknown = set(told) - _instances(scene) if told else set()
    if unknown:
        raise invalid(scene.captions, f"ids {sorted(unknown)} are not in instance_labels.json")


def _report(scene: Scene, info: SceneInfo, thorough: bool) -> None:
    html.validate(scene.report)


def _instances(scene: Scene) -> set[int]:
    return {instance.id for instance in labels.read(scene.instance_labels).instances}


def _exactly(scene: Scene, artifact: str, expected: Iterable[Path]) -> list[Path]:
    """The expected files, after checking that they and no others are there."""
    wanted = list(expected)
    found = set(scene.files(artifact))
    for path in wanted:
        if path not in found:
            raise ArtifactError(f"{path}: no such file", Reason.MISSING_ARTIFACT)
    unexpected = found.difference(wanted)
    if unexpected:
        raise invalid(min(unexpected), f"does not belong to the {artifact} of this scene")
    return wanted


CHECKS: dict[str, Check] = {
    "scene_json": _scene_json,
    "rgb": _rgb,
    "video": _video,
    "key_frames": _key_frames,
    "flow": _flow,
    "analysis": _analysis,
    "motion": _motion,
    "masks": _masks,
    "segmentation": _segmentation,
    "tracks": _tracks,
    "depth_prior": _depth_prior,
    "cameras": _cameras,
    "depth": _depth,
    "fused": _fused,
    "captions": _captions,
    "report": _report,
}
