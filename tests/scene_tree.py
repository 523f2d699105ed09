"""A whole output tree of one scene, written through `formats` from a rendered clip.

For tests of what comes after reconstruction: everything in it is the truth of the rendering,
so no stage has to run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from rendered import RenderedClip

from dynamicverse.formats import (
    depth_exr,
    flow_png,
    fused,
    images,
    keyframe_info,
    labels,
    manifest,
    masks,
    objects,
    poses,
    reconstruction_info,
    scene_info,
    tracks,
)
from dynamicverse.scene import Scene

RATE = 25.0
STAGES = {
    "ingest": ("scene_json", "rgb"),
    "keyframes": ("key_frames", "flow"),
    "analysis": ("analysis",),
    "segmentation": ("masks", "segmentation"),
    "tracks": ("tracks",),
    "depth": (),
    "reconstruction": ("cameras", "depth", "fused"),
}


def write_tree(
    root: Path,
    clip: RenderedClip,
    name: str = "box-room",
    without: Collection[str] = (),
    object_name: str = "moving object",
    category: str = "unknown",
    status: str = "full",
    accepted: bool = True,
    warnings: Collection[str] = (),
    source_name: str = "box room.mp4",
    rate: float | None = RATE,
) -> Scene:
    """Write all artifacts up to reconstruction, except those of the stages in `without`."""
    scene = Scene(root, "synthetic", name)
    write_ingest(scene, clip, accepted, list(warnings), source_name, rate)
    if "keyframes" not in without:
        _write_keyframes(scene, clip)
    if "analysis" not in without:
        _write_analysis(scene, clip, object_name, category)
    if "segmentation" not in without:
        _write_segmentation(scene, clip, object_name, category)
    if "tracks" not in without:
        _write_tracks(scene, clip)
    if "reconstruction" not in without:
        _write_reconstruction(scene, clip, status)
    for index, stage in enumerate(STAGES):
        if stage not in without:
            write_manifest(scene, stage, clip.frame_count, 1.5 + 2.0 * index, list(warnings))
    return scene


def write_ingest(
    scene: Scene,
    clip: RenderedClip,
    accepted: bool,
    warnings: list[str],
    source_name: str,
    rate: float | None,
) -> None:
    for i, rgb in enumerate(clip.rgb):
        images.write_jpeg(scene.rgb(i), rgb, 90)
    width, height = clip.size
    frames = clip.frame_count
    reasons = [] if accepted else ["blur 0.91 is above 0.8"]
    scores = {"blur": 0.12, "motion_px": 3.4, "parallax": 0.61, "moving_share": 0.05, "focal": None}
    scene_info.write(
        scene.scene_json,
        scene_info.SceneInfo(
            name=scene.name,
            dataset=scene.dataset,
            width=width,
            height=height,
            frame_count=frames,
            rate=rate,
            times_s=[i / RATE for i in range(frames)],
            source=scene_info.Source(
                name=source_name,
                kind="video",
                sha256="5e" * 32,
                bytes=1_234_567,
                width=width,
                height=height,
                rotation=0,
            ),
            shot=scene_info.Shot(
                index=0,
                count=1,
                first_frame=0,
                last_frame=frames - 1,
                start_s=0.0,
                end_s=frames / RATE,
            ),
            filter=scene_info.FilterReport(scores=scores, accepted=accepted, reasons=reasons),
            warnings=warnings,
        ),
    )


def _write_keyframes(scene: Scene, clip: RenderedClip) -> None:
    scores = []
    for i in range(clip.frame_count - 1):
        for source, target in ((i, i + 1), (i + 1, i)):
            flow_HW2, valid_HW = clip.flow(source, target)
            flow_png.write(scene.flow(source, target), flow_HW2, valid_HW)
            if source < target:
                length_HW = np.linalg.norm(flow_HW2, axis=2)
                scores.append(float(np.percentile(length_HW, 90)))
    chosen = list(range(0, clip.frame_count, 5))
    keyframe_info.write(
        scene.keyframe_info,
        keyframe_info.KeyframeInfo(
            score="p90", ratio=0.2, min_gap=3, flow_model="dis", scores=scores, keyframes=chosen
        ),
    )
    for i in chosen:
        images.write_jpeg(scene.key_frame(i), clip.rgb[i], 90)


def _boxes(clip: RenderedClip) -> dict[int, list[tuple[int, list[float], int]]]:
    """Instance id → (frame, box, area) where it is seen."""
    found: dict[int, list[tuple[int, list[float], int]]] = {}
    for frame, ids_HW in enumerate(clip.masks):
        for i in (int(i) for i in np.unique(ids_HW) if i):
            rows, columns = np.nonzero(ids_HW == i)
            box = [float(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())]
            found.setdefault(i, []).append((frame, box, len(rows)))
    return found


def _write_analysis(scene: Scene, clip: RenderedClip, name: str, category: str) -> None:
    dynamic = [
        objects.DynamicObject(
            name=f"{name} {i}",
            category=category,
            tracking_id=i,
            reasoning="its points leave the epipolar lines of the static scene",
            confidence=0.9,
            position=[objects.Position(frame=f, box=box) for f, box, _ in rows],
        )
        for i, rows in _boxes(clip).items()
    ]
    objects.write(
        scene.dynamic_objects,
        objects.DynamicObjects(
            dynamic=dynamic, static_scene=not dynamic, camera_motion="moving", notes=[]
        ),
    )


def _write_segmentation(scene: Scene, clip: RenderedClip, name: str, category: str) -> None:
    for i, ids_HW in enumerate(clip.masks):
        masks.write(scene.mask(i), ids_HW)
    found = _boxes(clip)
    instances = [
        labels.Instance(
            id=i,
            name=f"{name} {i}",
            category=category,
            colour=list(masks.colour(i)),
            first_frame=rows[0][0],
            last_frame=rows[-1][0],
        )
        for i, rows in found.items()
    ]
    labels.write(scene.instance_labels, labels.InstanceLabels(instances=instances))
    statistics = [
        labels.ObjectStatistics(
            id=i,
            frames=len(rows),
            mean_area_px=float(np.mean([a for _, _, a in rows])),
            max_area_px=float(np.max([a for _, _, a in rows])),
            mean_box=[float(v) for v in np.mean([b for _, b, _ in rows], axis=0)],
        )
        for i, rows in found.items()
    ]
    coverage = float(np.mean([np.mean(m > 0) for m in clip.masks]))
    labels.write_summary(
        scene.result_summary,
        labels.SegmentationSummary(
            frame_count=clip.frame_count,
            object_count=len(statistics),
            coverage=coverage,
            objects=statistics,
        ),
    )


def _write_tracks(scene: Scene, clip: RenderedClip) -> None:
    exact = clip.tracks(step=max(8, clip.size[0] // 24))
    tracks.write(
        scene.tracks,
        tracks.Tracks(
            exact.tracks_FN2.astype(np.float32),
            exact.visibility_FN,
            exact.visibility_FN.astype(np.float32),
            exact.query_frame_N,
            exact.instance_id_N,
            clip.size,
        ),
    )


def _write_reconstruction(scene: Scene, clip: RenderedClip, status: str) -> None:
    frames = clip.frame_count
    known = status == "full"
    registered_F = np.full(frames, status in ("full", "rotation_only", "static_camera"))
    c2w_F44 = np.where(registered_F[:, None, None], clip.c2w_F44, np.nan)
    if status in ("rotation_only", "static_camera"):
        c2w_F44[:, :3, 3] = 0
    scale = "relative" if known else "unobservable"
    K_F33 = np.tile(clip.K, (frames, 1, 1))
    poses.write(scene.poses, poses.Poses(c2w_F44, K_F33, clip.times, registered_F, scale))
    said = [] if known else ["depth unobservable: no parallax"]
    reconstruction_info.write(
        scene.reconstruction_json,
        reconstruction_info.ReconstructionInfo(
            status=status,
            scale=scale,
            focal_px=float(clip.K[0, 0]),
            focal_source="estimated",
            registered_frames=int(registered_F.sum()),
            frame_count=frames,
            points=4211 if known else 0,
            observations=51_090 if known else 0,
            reprojection_rmse_px=0.61 if known else None,
            depth_source="plane_sweep" if known else "none",
            path_length=1.9 if known else None,
            statements=[*said, "metric scale unknown: lengths are relative"],
        ),
    )
    for i in range(frames if known else 0):
        depth_HW = clip.depth[i].copy()
        depth_HW[::4, ::7] = 0  # unknown here and there
        depth_exr.write(scene.depth(i), depth_HW, (depth_HW > 0).astype(np.float32))
    _write_fused(scene, clip, K_F33, c2w_F44, scale, known)


def _write_fused(
    scene: Scene,
    clip: RenderedClip,
    K_F33: np.ndarray,
    c2w_F44: np.ndarray,
    scale: str,
    known: bool,
) -> None:
    static, moving, counts = [], [], [0]
    for i in range(clip.frame_count if known else 0):
        points, colours, ids = _lift(clip, i, step=2)
        if i % 6 == 0:
            static.append((points[ids == 0], colours[ids == 0]))
        moving.append((points[ids > 0], colours[ids > 0], ids[ids > 0]))
        counts.append(counts[-1] + int((ids > 0).sum()))
    ids = sorted(_boxes(clip)) if known else []
    centres = np.full((len(ids), clip.frame_count, 3), np.nan, np.float32)
    for f, (points, _, own) in enumerate(moving):
        for m, i in enumerate(ids):
            if (own == i).any():
                centres[m, f] = points[own == i].mean(0)
    if not known:
        counts = [0] * (clip.frame_count + 1)

    def joined(parts: Iterator[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
        found = list(parts)
        return np.concatenate(found).astype(dtype) if found else np.zeros(empty, dtype)

    static_points = joined((p for p, _ in static), (0, 3), np.float32)
    fused.write(
        scene.fused,
        fused.Fused(
            static_points=static_points,
            static_rgbs=joined((c for _, c in static), (0, 3), np.uint8),
            static_confidence=np.ones(len(static_points), np.float32),
            dyn_points=joined((p for p, _, _ in moving), (0, 3), np.float32),
            dyn_rgbs=joined((c for _, c, _ in moving), (0, 3), np.uint8),
            dyn_offsets=np.array(counts, np.int64),
            dyn_instance=joined((i for _, _, i in moving), (0,), np.int32),
            c2w=c2w_F44,
            Ks=K_F33,
            timestamps=clip.times,
            scale=scale,
            rgbs=np.stack([r[::4, ::4] for r in clip.rgb]),
            object_ids=np.array(ids, np.int32),
            object_centres=centres,
            object_model=np.array(["contact"] * len(ids), np.str_),
            object_poses=np.full((len(ids), clip.frame_count, 4, 4), np.nan),
        ),
    )


def _lift(clip: RenderedClip, frame: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points, colours and instance ids of every `step`-th pixel of a frame."""
    height, width = clip.depth[frame].shape
    v, u = np.mgrid[0:height:step, 0:width:step].reshape(2, -1)
    z = clip.depth[frame][v, u].astype(np.float64)
    K, c2w = clip.K, clip.c2w_F44[frame]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))], 1)
    points = (rays * z[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]
    return points, clip.rgb[frame][v, u], clip.masks[frame][v, u].astype(np.int32)


def write_manifest(
    scene: Scene, stage: str, frames: int, seconds: float, warnings: list[str]
) -> None:
    outputs = {
        artifact: [
            manifest.OutputFile(
                path=p.relative_to(scene.root).as_posix(), bytes=p.stat().st_size, sha256="ab" * 32
            )
            for p in scene.files(artifact)
        ]
        for artifact in STAGES.get(stage, ())
    }
    manifest.write(
        scene.manifest(stage),
        manifest.Manifest(
            stage=stage,
            version=1,
            key="0" * 64,
            inputs={},
            outputs=outputs,
            seconds=seconds,
            device="cpu",
            peak_memory_bytes=300_000_000 + int(seconds * 1e7),
            frames=frames,
            warnings=warnings,
            facts={},
            finished="2026-01-02T03:04:05+00:00",
            software={"dynamicverse": "0.1.0", "numpy": "2.4.0"},
        ),
    )
