"""Small valid values of every format, and a whole scene made of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from hypothesis import settings

from dynamicverse.formats import (
    atomic,
    captions,
    depth_exr,
    flow_png,
    fused,
    html,
    images,
    intrinsics,
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

# the same examples on every machine, however slow it is
property_test = settings(deadline=None, derandomize=True, max_examples=50)

WIDTH, HEIGHT, FRAMES = 32, 24, 4


def scene_value(frames: int = FRAMES) -> scene_info.SceneInfo:
    return scene_info.SceneInfo(
        name="clip",
        dataset="set",
        width=WIDTH,
        height=HEIGHT,
        frame_count=frames,
        rate=30.0,
        times_s=[i / 30 for i in range(frames)],
        source=scene_info.Source(
            name="clip.mp4",
            kind="video",
            sha256="0" * 64,
            bytes=9,
            width=WIDTH,
            height=HEIGHT,
            rotation=90,
        ),
        shot=scene_info.Shot(
            index=0, count=1, first_frame=0, last_frame=frames - 1, start_s=0, end_s=1
        ),
        filter=scene_info.FilterReport(
            scores={"blur": 0.5, "focal": None}, accepted=True, reasons=[]
        ),
        warnings=["one"],
    )


def keyframes_value() -> keyframe_info.KeyframeInfo:
    return keyframe_info.KeyframeInfo(
        score="p90",
        ratio=0.2,
        min_gap=3,
        flow_model="dis",
        scores=[1.0, 2.5, 0.0][: FRAMES - 1],
        keyframes=[0, 3],
    )


def objects_value() -> objects.DynamicObjects:
    box = objects.Position(frame=1, box=[0, 1, 20.5, 23])
    one = objects.DynamicObject(
        name="object 1",
        category="unknown",
        tracking_id=1,
        reasoning="moves against the background",
        confidence=0.5,
        position=[box],
    )
    return objects.DynamicObjects(
        dynamic=[one], static_scene=False, camera_motion="moving", notes=[]
    )


def labels_value() -> labels.InstanceLabels:
    instance = labels.Instance(
        id=1, name="object 1", category="unknown", colour=[128, 0, 0], first_frame=0, last_frame=3
    )
    return labels.InstanceLabels(instances=[instance])


def summary_value() -> labels.SegmentationSummary:
    item = labels.ObjectStatistics(
        id=1, frames=4, mean_area_px=16, max_area_px=16, mean_box=[4, 4, 7, 7]
    )
    return labels.SegmentationSummary(
        frame_count=FRAMES, object_count=1, coverage=0.02, objects=[item]
    )


def intrinsics_value() -> intrinsics.PriorIntrinsics:
    return intrinsics.PriorIntrinsics(fx=30.0, fy=30.0, cx=15.5, cy=11.5, source="unidepth")


def reconstruction_value() -> reconstruction_info.ReconstructionInfo:
    return reconstruction_info.ReconstructionInfo(
        status="full",
        scale="relative",
        focal_px=30.0,
        focal_source="estimated",
        registered_frames=FRAMES - 1,
        frame_count=FRAMES,
        points=10,
        observations=40,
        reprojection_rmse_px=0.5,
        depth_source="plane_sweep",
        path_length=1.0,
        statements=["scale is relative"],
    )


def captions_value() -> captions.Captions:
    return captions.Captions(
        objects=[
            captions.ObjectCaption(
                instance_id=1, text='=moves "left",\nthen stops', source="geometric", facts={}
            )
        ],
        scene=captions.Caption(text="a scene", source="geometric", facts={"depth": [1, 2.5]}),
        camera=captions.CameraCaption(
            text="pans left",
            source="geometric",
            facts={},
            labels=["pan-left"],
            segments=[captions.CameraSegment(first_frame=0, last_frame=3, labels=["pan-left"])],
        ),
    )


def manifest_value() -> manifest.Manifest:
    return manifest.Manifest(
        stage="keyframes",
        version=1,
        key="k",
        inputs={"rgb": "d"},
        outputs={"flow": [manifest.OutputFile(path="set/clip/a.png", bytes=1, sha256="a" * 64)]},
        seconds=1.5,
        device="cpu",
        peak_memory_bytes=1,
        frames=4,
        warnings=[],
        facts={"objects": np.int64(3), "share": np.float32(0.5)},
        finished="2026-01-02T03:04:05+00:00",
        software={"dynamicverse": "0.1.0"},
    )


MODELS = {
    "scene": scene_value,
    "keyframe_info": keyframes_value,
    "dynamic_objects": objects_value,
    "instance_labels": labels_value,
    "result_summary": summary_value,
    "intrinsics": intrinsics_value,
    "reconstruction": reconstruction_value,
    "captions": captions_value,
    "manifest": manifest_value,
}


def tracks_value(frames: int = FRAMES, count: int = 5) -> tracks.Tracks:
    random = np.random.default_rng(0)
    visible_FN = random.random((frames, count)) > 0.3
    tracks_FN2 = random.uniform(0, 20, (frames, count, 2)).astype(np.float32)
    tracks_FN2[~visible_FN] = np.nan
    return tracks.Tracks(
        tracks_FN2,
        visible_FN,
        random.random((frames, count)).astype(np.float32),
        np.zeros(count, np.int32),
        np.arange(-1, count - 1, dtype=np.int32),
        (WIDTH, HEIGHT),
    )


def poses_value(frames: int = FRAMES) -> poses.Poses:
    """The last frame is not registered."""
    c2w_F44 = np.tile(np.eye(4), (frames, 1, 1))
    c2w_F44[:, 0, 3] = np.arange(frames)
    registered_F = np.arange(frames) < frames - 1
    c2w_F44[~registered_F] = np.nan
    K_F33 = np.tile(np.array([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]]), (frames, 1, 1))
    sigma_F6 = np.where(registered_F[:, None], 0.01, np.nan) * np.ones((frames, 6))
    sigma_F = np.full(frames, 0.5)
    times_F = np.arange(frames) / 30
    return poses.Poses(c2w_F44, K_F33, times_F, registered_F, "relative", 0.01, sigma_F6, sigma_F)


def fused_value(frames: int = FRAMES) -> fused.Fused:
    cameras = poses_value(frames)
    random = np.random.default_rng(0)
    offsets = np.arange(frames + 1, dtype=np.int64) * 2
    moving = int(offsets[-1])
    centres = np.full((1, frames, 3), np.nan, np.float32)
    centres[0, 0] = 1
    return fused.Fused(
        static_points=random.normal(size=(7, 3)).astype(np.float32),
        static_rgbs=random.integers(0, 256, (7, 3), np.uint8),
        static_confidence=random.random(7).astype(np.float32),
        dyn_points=random.normal(size=(moving, 3)).astype(np.float32),
        dyn_rgbs=random.integers(0, 256, (moving, 3), np.uint8),
        dyn_offsets=offsets,
        dyn_instance=np.ones(moving, np.int32),
        c2w=cameras.c2w_F44,
        Ks=cameras.K_F33,
        timestamps=cameras.timestamps_F,
        scale="relative",
        rgbs=random.integers(0, 256, (frames, 6, 8, 3), np.uint8),
        object_ids=np.array([1], np.int32),
        object_centres=centres,
        object_model=np.array(["rigid"]),
        object_poses=np.tile(np.eye(4), (1, frames, 1, 1)),
    )


def flow_value() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    flow_HW2 = random.normal(0, 5, (HEIGHT, WIDTH, 2)).astype(np.float32)
    return flow_HW2, random.random((HEIGHT, WIDTH)) > 0.3


def mask_value() -> np.ndarray:
    ids_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids_HW[4:8, 4:8] = 1
    return ids_HW


def depth_value() -> tuple[np.ndarray, np.ndarray]:
    depth_HW = np.linspace(0, 9, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    return depth_HW, np.full((HEIGHT, WIDTH), 0.5, np.float32)


def rgb_value() -> np.ndarray:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 8, columns * 8, rows + columns], 2).astype(np.uint8)


def mp4_bytes() -> bytes:
    """The boxes of an MP4 without a picture in it."""
    boxes = ((b"ftyp", b"isom\0\0\0\0"), (b"moov", b"\0" * 16), (b"mdat", b"\1" * 20))
    return b"".join(struct.pack(">I4s", 8 + len(body), kind) + body for kind, body in boxes)


def write_tree(root: Path) -> Scene:
    """Every artifact of a scene of four frames, all valid."""
    scene = Scene(root, "set", "clip")
    scene_info.write(scene.scene_json, scene_value())
    keyframe_info.write(scene.keyframe_info, keyframes_value())
    objects.write(scene.dynamic_objects, objects_value())
    labels.write(scene.instance_labels, labels_value())
    labels.write_summary(scene.result_summary, summary_value())
    intrinsics.write(scene.prior_intrinsics, intrinsics_value())
    reconstruction_info.write(scene.reconstruction_json, reconstruction_value())
    captions.write(scene.captions, captions_value())
    captions.write_csv(scene.object_captions, captions_value())
    tracks.write(scene.tracks, tracks_value())
    poses.write(scene.poses, poses_value())
    fused.write(scene.fused, fused_value())
    html.write(scene.report, "<!doctype html>\n<title>t</title>\n</html>\n")
    for video in (scene.video, scene.segmentation_video("overlay")):
        atomic.write_bytes(video, mp4_bytes())
    for frame in range(FRAMES):
        images.write_jpeg(scene.rgb(frame), rgb_value())
        images.write_jpeg(scene.segmentation_frame("overlay", frame), rgb_value())
        masks.write(scene.segmentation_frame("masks", frame), mask_value())
        masks.write(scene.mask(frame), mask_value())
        masks.write(scene.motion(frame), mask_value())
        depth_exr.write(scene.depth_prior(frame), *depth_value())
        if frame < FRAMES - 1:
            flow_png.write(scene.flow(frame, frame + 1), *flow_value())
            flow_png.write(scene.flow(frame + 1, frame), *flow_value())
            depth_exr.write(scene.depth(frame), *depth_value())
    for frame in keyframes_value().keyframes:
        images.write_jpeg(scene.key_frame(frame), rgb_value())
    return scene
