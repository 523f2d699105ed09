"""What a reconstruction leaves besides cameras and depth: the fused scene, and its summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.assemble import Scene4D
from dynamicverse.dynamicba.dense.depth_sources import Clip
from dynamicverse.dynamicba.frame_pool import in_order
from dynamicverse.formats import fused, poses
from dynamicverse.formats.npz import ArrayStream
from dynamicverse.formats.reconstruction_info import ReconstructionInfo
from dynamicverse.scene import Scene
from dynamicverse.stages.unit import focal_sigma

if TYPE_CHECKING:
    from dynamicverse.dynamicba.cameras.solve import CameraSolution
    from dynamicverse.dynamicba.motion.moving_objects import MovingObject

Bytes = npt.NDArray[np.uint8]


def write_fused(
    scene: Scene,
    clip: Clip,
    cameras: poses.Poses,
    built: Scene4D,
    objects: Sequence[MovingObject],
) -> None:
    """Write `fused_4d.npz`: the scene, its cameras, small pictures and the poses of its objects."""
    solved = {item.instance: item for item in objects}
    found = [solved.get(int(instance)) for instance in built.ids_M]
    poses_MF44 = np.full((len(found), *cameras.c2w_F44.shape), np.nan)
    for row, item in enumerate(found):
        if item is not None:
            poses_MF44[row] = item.o2w_F44
    fused.write(
        scene.fused,
        fused.Fused(
            static_points=built.static.points_N3,
            static_rgbs=built.static.rgbs_N3,
            static_confidence=built.static.confidence_N,
            dyn_points=built.moving_points_Q3,
            dyn_rgbs=built.moving_rgbs_Q3,
            dyn_offsets=built.offsets,
            dyn_instance=built.moving_instance_Q,
            c2w=cameras.c2w_F44,
            Ks=cameras.K_F33,
            timestamps=cameras.timestamps_F,
            scale=cameras.scale,
            rgbs=_thumbnails(clip),
            object_ids=built.ids_M,
            object_centres=built.centres_MF3,
            object_model=np.array([i.model if i else "unknown" for i in found], np.str_),
            object_poses=poses_MF44,
        ),
    )


def _thumbnails(clip: Clip) -> ArrayStream:
    """Small pictures of all frames, a few in memory at a time."""
    factor = min(1.0, fused.MAX_PICTURE_SIDE / max(clip.tracks.size))
    width, height = (max(1, round(side * factor)) for side in clip.tracks.size)
    frames = len(clip.registered_F)

    def small(frame: int) -> Bytes:
        rgb_HW3 = clip.frames.rgb(frame)
        resized = cv2.resize(rgb_HW3, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(resized[None], np.uint8)

    return ArrayStream(np.uint8, (frames, height, width, 3), in_order(small, range(frames)))


def summarise(
    solution: CameraSolution,
    cameras: poses.Poses,
    kind: str,
    told: list[str],
    objects: Sequence[MovingObject],
) -> ReconstructionInfo:
    """What `reconstruction.json` says, but for the labels that were changed.

    kind: where depth comes from; told: what was found, in plain words.
    """
    centres_R3 = cameras.c2w_F44[cameras.registered_F, :3, 3]
    length = float(np.linalg.norm(np.diff(centres_R3, axis=0), axis=1).sum())
    measured = solution.observations > 0
    return ReconstructionInfo.model_validate(
        {
            "status": solution.status,
            "scale": cameras.scale,
            "focal_px": float(solution.K_F33[0, 0, 0]),
            "focal_source": solution.focal_source,
            "focal_sigma_px": focal_sigma(solution),
            "registered_frames": int(solution.registered_F.sum()),
            "frame_count": len(solution.registered_F),
            "points": int(solution.static_N.sum()),
            "observations": int(solution.observations),
            "reprojection_rmse_px": float(solution.reprojection_rmse_px) if measured else None,
            "depth_source": kind,
            "path_length": length if solution.status == "full" else None,
            "statements": told,
            "objects": [_facts(item) for item in objects],
        }
    )


def _facts(item: MovingObject) -> dict[str, object]:
    return {
        "instance_id": item.instance,
        "model": item.model,
        "scale_source": item.scale_source,
        "tracks": len(item.track_T),
        "posed_frames": int(np.isfinite(item.o2w_F44[:, 0, 0]).sum()),
        "residual_px": item.residual_px,
        "explained": item.explained,
        "scale_spread": item.scale_spread,
        "strain": item.strain,
    }
