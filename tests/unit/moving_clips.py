"""Clips of a texture that moves by known maps, and scenes made of frames, for tests only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dynamicverse import config, stages
from dynamicverse.formats import images, scene_info
from dynamicverse.scene import Scene
from dynamicverse.stages.base import StageContext


def texture(seed: int = 0, height: int = 120, width: int = 200, sigma: float = 2.0) -> np.ndarray:
    """Smoothed noise, (H,W,3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    grey = np.clip(128 + 50 * smooth / max(smooth.std(), 1e-3), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def shift(x: float, y: float) -> np.ndarray:
    """The homography of a translation by (x, y) px."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def turn(degrees: float, zoom: float, centre: tuple[float, float]) -> np.ndarray:
    """The homography of a rotation and zoom about a point."""
    angle = np.radians(degrees)
    rotation = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    homography = np.eye(3)
    homography[:2, :2] = rotation
    homography[:2, 2] = np.array(centre) - rotation @ np.array(centre)
    return homography


def moved(image: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """The image in which what was at x is at homography(x)."""
    size = (image.shape[1], image.shape[0])
    return cv2.warpPerspective(
        image, homography, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def carried(homography: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Points (N,2) moved by a homography."""
    ones = np.ones((len(points_N2), 1))
    target = np.concatenate([points_N2, ones], axis=1) @ homography.T
    return target[:, :2] / target[:, 2:]


def true_flow(homography: np.ndarray, height: int, width: int) -> np.ndarray:
    """The flow (H,W,2) that a homography makes."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    at = np.stack([x.ravel(), y.ravel()], axis=1)
    return (carried(homography, at) - at).reshape(height, width, 2)


def make_scene(root: Path, frames: Sequence[np.ndarray], name: str = "clip") -> Scene:
    """A scene with frames and scene.json, as ingest leaves it."""
    scene = Scene(root, "test", name)
    for index, frame in enumerate(frames):
        images.write_jpeg(scene.rgb(index), frame)
    count, (height, width) = len(frames), frames[0].shape[:2]
    scene_info.write(
        scene.scene_json,
        scene_info.SceneInfo(
            name=name,
            dataset="test",
            width=width,
            height=height,
            frame_count=count,
            rate=25.0,
            times_s=[index / 25 for index in range(count)],
            source=scene_info.Source(
                name=name,
                kind="frames",
                sha256="0" * 64,
                bytes=1,
                width=width,
                height=height,
                rotation=0,
            ),
            shot=scene_info.Shot(
                index=0,
                count=1,
                first_frame=0,
                last_frame=count - 1,
                start_s=0.0,
                end_s=count / 25,
            ),
            filter=scene_info.FilterReport(scores={}, accepted=True, reasons=[]),
            warnings=[],
        ),
    )
    return scene


@dataclass
class Recorder:
    """A reporter that remembers."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def log(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def run_stage(
    name: str, scene: Scene, overrides: Sequence[str] = (), backend: Any = None
) -> tuple[StageContext, Recorder]:
    """Run a stage on a scene, with its own backend unless one is given."""
    stage, settings, recorder = stages.get(name), config.load(overrides=overrides), Recorder()
    context = StageContext(settings, recorder, backend or stage.load(settings))
    stage.run(scene, context)
    return context, recorder
