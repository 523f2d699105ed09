"""Rendered clips with exact truth, for tests only: a textured room, boxes that stand in it,
boxes that move over its floor, and a camera. Rays are intersected with boxes analytically.

World frame: x right, y down, z forward, metres. Cameras: OpenCV axes, camera-to-world,
pixel (0,0) is the centre of the first pixel. Everything follows from the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

Motion = Literal["orbit", "dolly", "handheld", "rotation", "static"]

FRAMES_PER_UNIT = 30.0  # the paths below are functions of frame / FRAMES_PER_UNIT
RATE = 25.0
FLOOR, CEILING = 1.4, -1.8
TEXTURE_SIZE = 1024
TEXTURE_PX_PER_METRE = 110.0


@dataclass(frozen=True)
class Box:
    """An oriented box; the room is one that is seen from inside. instance 0 = static."""

    half_3: np.ndarray
    o2w: Callable[[float], np.ndarray]  # frame -> 4x4 object-to-world
    texture: np.ndarray
    instance: int = 0
    inside: bool = False


@dataclass(frozen=True)
class ExactTracks:
    """Points on surfaces followed exactly.

    points_FN3 are world positions in metres at every frame; visibility_FN is occlusion-aware.
    """

    tracks_FN2: np.ndarray
    visibility_FN: np.ndarray
    query_frame_N: np.ndarray
    instance_id_N: np.ndarray
    points_FN3: np.ndarray


@dataclass(frozen=True)
class RenderedClip:
    """Frames with their truth. depth is along the optical axis in metres; masks hold ids."""

    rgb: list[np.ndarray]
    depth: list[np.ndarray]
    masks: list[np.ndarray]
    c2w_F44: np.ndarray
    K: np.ndarray
    times: np.ndarray
    boxes: list[Box]
    size: tuple[int, int]  # width, height

    @property
    def frame_count(self) -> int:
        return len(self.rgb)

    @property
    def object_poses_MF44(self) -> np.ndarray:
        """Object-to-world of the moving boxes, in the order of their ids (1, 2, …)."""
        moving = [b for b in self.boxes if b.instance]
        poses = [[b.o2w(f) for f in range(self.frame_count)] for b in moving]
        return np.array(poses).reshape(len(moving), self.frame_count, 4, 4)

    def flow(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact flow in px and where its end is inside the picture and not occluded."""
        height, width = self.depth[source].shape
        pixels_N2 = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
        pixels_N2 = pixels_N2.astype(np.float64)
        points_N3, owner_N = self._surface(source, pixels_N2)
        moved_N3 = self._carry(points_N3, owner_N, source, target)
        end_N2, visible_N = self._see(moved_N3, target)
        flow_HW2 = (end_N2 - pixels_N2).reshape(height, width, 2).astype(np.float32)
        return flow_HW2, visible_N.reshape(height, width)

    def tracks(self, step: int = 16, interval: int = 10) -> ExactTracks:
        """Points on a grid of `step` px, seeded every `interval` frames, followed both ways."""
        width, height = self.size
        xs, ys = np.arange(step // 2, width, step), np.arange(step // 2, height, step)
        grid_N2 = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(np.float64)
        parts = [self._follow(grid_N2, q) for q in range(0, self.frame_count, interval)]
        return ExactTracks(
            np.concatenate([p.tracks_FN2 for p in parts], 1),
            np.concatenate([p.visibility_FN for p in parts], 1),
            np.concatenate([p.query_frame_N for p in parts]),
            np.concatenate([p.instance_id_N for p in parts]),
            np.concatenate([p.points_FN3 for p in parts], 1),
        )

    def write_frames(self, folder: Path) -> Path:
        """Write 00001.png … without loss; returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, rgb in enumerate(self.rgb):
            if not cv2.imwrite(str(folder / f"{index + 1:05d}.png"), rgb[..., ::-1]):
                raise OSError(f"{folder}: cannot write frame {index}")
        return folder

    def _follow(self, pixels_N2: np.ndarray, query: int) -> ExactTracks:
        points_N3, owner_N = self._surface(query, pixels_N2)
        tracks, visible, points = [], [], []
        for frame in range(self.frame_count):
            moved_N3 = self._carry(points_N3, owner_N, query, frame)
            end_N2, seen_N = self._see(moved_N3, frame)
            tracks.append(end_N2)
            visible.append(seen_N)
            points.append(moved_N3)
        instances = np.array([b.instance for b in self.boxes])
        return ExactTracks(
            np.array(tracks, np.float32),
            np.array(visible),
            np.full(len(pixels_N2), query, np.int32),
            instances[owner_N].astype(np.int32),
            np.array(points),
        )

    def _surface(self, frame: int, pixels_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points under pixels, and the box each lies on."""
        rays_N3 = _rays(self.K, pixels_N2)
        z_N, owner_N, _ = _trace(self.boxes, frame, self.c2w_F44[frame], rays_N3)
        c2w = self.c2w_F44[frame]
        return (rays_N3 * z_N[:, None]) @ c2w[:3, :3].T + c2w[:3, 3], owner_N

    def _carry(
        self, points_N3: np.ndarray, owner_N: np.ndarray, source: int, target: int
    ) -> np.ndarray:
        moved_N3 = points_N3.copy()
        for index, box in enumerate(self.boxes):
            if box.instance:
                on = owner_N == index
                motion = box.o2w(target) @ np.linalg.inv(box.o2w(source))
                moved_N3[on] = points_N3[on] @ motion[:3, :3].T + motion[:3, 3]
        return moved_N3

    def _see(self, points_N3: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Project world points; visible = in front, inside the picture, nothing before it."""
        c2w = self.c2w_F44[frame]
        camera_N3 = (points_N3 - c2w[:3, 3]) @ c2w[:3, :3]
        z_N = camera_N3[:, 2]
        safe_N = np.where(np.abs(z_N) < 1e-6, 1e-6, z_N)
        pixels_N2 = (camera_N3 / safe_N[:, None]) @ self.K.T[:, :2]
        width, height = self.size
        inside_N = (z_N > 1e-3) & (pixels_N2 >= -0.5).all(1)
        inside_N &= (pixels_N2[:, 0] < width - 0.5) & (pixels_N2[:, 1] < height - 0.5)
        surface_N, _, _ = _trace(self.boxes, frame, c2w, camera_N3 / safe_N[:, None])
        return pixels_N2, inside_N & (surface_N > z_N * (1 - 1e-4) - 1e-4)


def render(
    frames: int = 20,
    size: tuple[int, int] = (320, 192),
    motion: Motion = "orbit",
    objects: int = 1,
    seed: int = 0,
    supersample: int = 2,
) -> RenderedClip:
    """Render a clip.

    size: width, height in px. objects: how many boxes move over the floor (0 = static scene).
    """
    width, height = size
    focal = 0.85 * width
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    boxes = _scene(objects, seed)
    c2w_F44 = np.array([_camera(motion, f / FRAMES_PER_UNIT, seed) for f in range(frames)])
    rgb, depth, masks = [], [], []
    instances = np.array([b.instance for b in boxes])
    for frame in range(frames):
        z_N, owner_N, _ = _trace(boxes, frame, c2w_F44[frame], _rays(K, _grid(size, 1)))
        depth.append(z_N.reshape(height, width).astype(np.float32))
        masks.append(instances[owner_N].reshape(height, width).astype(np.uint8))
        rgb.append(_shade(boxes, frame, c2w_F44[frame], K, size, supersample))
    return RenderedClip(rgb, depth, masks, c2w_F44, K, np.arange(frames) / RATE, boxes, size)


def _grid(size: tuple[int, int], supersample: int) -> np.ndarray:
    """Sample positions in px, row by row."""
    offsets = [(np.arange(n * supersample) + 0.5) / supersample - 0.5 for n in size]
    return np.stack(np.meshgrid(*offsets), -1).reshape(-1, 2)


def _rays(K: np.ndarray, pixels_N2: np.ndarray) -> np.ndarray:
    """Camera-frame directions with z = 1, so that a ray's parameter is the depth."""
    xy_N2 = (pixels_N2 - K[:2, 2]) / np.array([K[0, 0], K[1, 1]])
    return np.concatenate([xy_N2, np.ones((len(xy_N2), 1))], 1)


def _trace(
    boxes: list[Box], frame: float, c2w: np.ndarray, rays_N3: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest hit along camera rays: parameter (N), box index (N), object-frame point (N,3)."""
    best_N = np.full(len(rays_N3), np.inf)
    owner_N = np.zeros(len(rays_N3), np.int64)
    local_N3 = np.zeros_like(rays_N3)
    for index, box in enumerate(boxes):
        c2o = np.linalg.inv(box.o2w(frame)) @ c2w
        near = _candidates(box, c2o, rays_N3)
        direction_N3 = rays_N3[near] @ c2o[:3, :3].T
        direction_N3[np.abs(direction_N3) < 1e-12] = 1e-12
        first_N3 = (-box.half_3 - c2o[:3, 3]) / direction_N3
        second_N3 = (box.half_3 - c2o[:3, 3]) / direction_N3
        enter_N = np.minimum(first_N3, second_N3).max(1)
        leave_N = np.maximum(first_N3, second_N3).min(1)
        t_N = leave_N if box.inside else enter_N
        hit_N = (t_N > 1e-3) & (enter_N <= leave_N) & (t_N < best_N[near])
        hit = near[hit_N]
        best_N[hit] = t_N[hit_N]
        owner_N[hit] = index
        local_N3[hit] = direction_N3[hit_N] * t_N[hit_N, None] + c2o[:3, 3]
    return best_N, owner_N, local_N3


def _candidates(box: Box, c2o: np.ndarray, rays_N3: np.ndarray) -> np.ndarray:
    """Indices of the rays that can meet a box: those inside its projected bounds."""
    corners_83 = np.array(list(product((-1.0, 1.0), repeat=3))) * box.half_3
    camera_83 = (corners_83 - c2o[:3, 3]) @ c2o[:3, :3]
    if box.inside or camera_83[:, 2].min() < 1e-3:
        return np.arange(len(rays_N3))
    xy_82 = camera_83[:, :2] / camera_83[:, 2:]
    low, high = xy_82.min(0) - 1e-6, xy_82.max(0) + 1e-6
    x_N, y_N = rays_N3[:, 0], rays_N3[:, 1]
    return np.flatnonzero((x_N >= low[0]) & (x_N <= high[0]) & (y_N >= low[1]) & (y_N <= high[1]))


def _shade(
    boxes: list[Box],
    frame: int,
    c2w: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
    supersample: int,
) -> np.ndarray:
    width, height = size
    rays_N3 = _rays(K, _grid(size, supersample))
    _, owner_N, local_N3 = _trace(boxes, frame, c2w, rays_N3)
    colour_N3 = np.zeros((len(rays_N3), 3), np.float32)
    for index, box in enumerate(boxes):
        on = np.flatnonzero(owner_N == index)
        if len(on):
            colour_N3[on] = _texture(box, local_N3[on])
    image = colour_N3.reshape(height * supersample, width * supersample, 3)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def _texture(box: Box, local_N3: np.ndarray) -> np.ndarray:
    """Colours of points on the faces: one texture, another part and brightness a face."""
    axis_N = np.argmax(np.abs(local_N3) / box.half_3, 1)
    side_N = local_N3[np.arange(len(local_N3)), axis_N] > 0
    face_N = axis_N * 2 + side_N
    first_N = np.where(axis_N == 0, 1, 0)
    second_N = np.where(axis_N == 2, 1, 2)
    rows = np.arange(len(local_N3))
    u_N = local_N3[rows, first_N] * TEXTURE_PX_PER_METRE + face_N * 171.0
    v_N = local_N3[rows, second_N] * TEXTURE_PX_PER_METRE + face_N * 97.0
    maps = [(m % TEXTURE_SIZE).astype(np.float32).reshape(-1, 1) for m in (u_N, v_N)]
    out = np.empty((len(rows), 3), np.float32)
    for start in range(0, len(rows), 32000):  # remap takes at most 32767 rows
        part = slice(start, start + 32000)
        sampled = cv2.remap(
            box.texture, maps[0][part], maps[1][part], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        out[part] = sampled.reshape(-1, 3)
    light = np.array([0.8, 0.95, 0.7, 1.0, 0.9, 0.85], np.float32)
    return np.asarray(out * light[face_N][:, None])


def _make_texture(rng: np.random.Generator) -> np.ndarray:
    """Multi-scale colour noise that wraps around; float32 RGB 0..255."""
    image = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 3), np.float32)
    for cells, weight in ((8, 0.5), (32, 0.7), (128, 1.0), (400, 0.7)):
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        grey = noise.mean(2, keepdims=True) * 1.4 + 0.4 * noise
        wrapped = np.pad(grey, ((2, 2), (2, 2), (0, 0)), mode="wrap")
        scale = TEXTURE_SIZE / cells
        big = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        edge = round(2 * scale)
        image += weight * big[edge : edge + TEXTURE_SIZE, edge : edge + TEXTURE_SIZE]
    tint = rng.uniform(90, 165, 3).astype(np.float32)
    return np.clip(tint + 32.0 * image, 2, 253)


def _pose(position_3: np.ndarray, yaw: float = 0.0) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = position_3
    return pose


def _always(pose: np.ndarray) -> Callable[[float], np.ndarray]:
    return lambda frame: pose


def _scene(objects: int, seed: int) -> list[Box]:
    rng = np.random.default_rng(seed)
    room = _pose(np.array([0.0, (FLOOR + CEILING) / 2, 2.5]))
    half = np.array([4.0, (FLOOR - CEILING) / 2, 5.5])
    boxes = [Box(half, _always(room), _make_texture(rng), inside=True)]
    for x, z in ((-2.4, 4.2), (-0.7, 6.2), (1.2, 5.0), (2.8, 3.6), (0.3, 7.3)):
        half = rng.uniform((0.25, 0.3, 0.25), (0.6, 1.0, 0.6))
        place = np.array([x + rng.uniform(-0.2, 0.2), FLOOR - half[1], z])
        pose = _pose(place, rng.uniform(-0.6, 0.6))
        boxes.append(Box(half, _always(pose), _make_texture(rng)))
    for index in range(objects):
        boxes.append(_moving_box(index, rng))
    return boxes


def _moving_box(index: int, rng: np.random.Generator) -> Box:
    half = rng.uniform((0.25, 0.4, 0.25), (0.4, 0.6, 0.4))
    start = np.array([(-1.2, 1.0, 0.0)[index % 3], FLOOR - half[1], 2.9 + 0.8 * (index % 4)])
    phase, turn = rng.uniform(-0.3, 0.3), rng.uniform(-0.8, 0.8)
    direction = (1.0, -1.0)[index % 2]

    def o2w(frame: float) -> np.ndarray:
        u = frame / FRAMES_PER_UNIT
        way = direction * 0.9 * np.sin(0.9 * u + phase)
        return _pose(start + np.array([way, 0, 0.3 * np.sin(0.7 * u)]), turn * u)

    return Box(half, o2w, _make_texture(rng), index + 1)


def _camera(motion: Motion, u: float, seed: int) -> np.ndarray:
    """Camera-to-world at path parameter `u` (30 frames = 1)."""
    if motion == "orbit":
        angle = 0.6 * np.sin(0.8 * u)
        centre, radius = np.array([0.0, 0.0, 4.0]), 3.8
        place = centre + radius * np.array([np.sin(angle), -0.03 * angle, -np.cos(angle)])
        return _pose(place, -angle)
    if motion == "dolly":
        return _pose(np.array([0.25 * np.sin(0.5 * u), -0.1, 2.2 * np.sin(0.9 * u) - 0.4]))
    if motion == "handheld":
        return _handheld(u, np.random.default_rng(seed + 1000))
    if motion == "rotation":
        pose = _pose(np.array([0.0, -0.2, 0.0]), 0.35 * np.sin(u))
        pose[:3, :3] = pose[:3, :3] @ cv2.Rodrigues(np.array([0.08 * np.sin(1.3 * u), 0, 0]))[0]
        return pose
    if motion == "static":
        return _pose(np.array([0.0, -0.2, 0.0]))
    raise ValueError(f"unknown motion: {motion}")


def _handheld(u: float, rng: np.random.Generator) -> np.ndarray:
    """A walk sideways and forward with a hand's sway and shake."""
    slow, fast = rng.uniform(0.8, 1.2, 6), rng.uniform(5.0, 8.0, 6)
    phase = rng.uniform(0, 2 * np.pi, 6)
    sway = np.sin(fast * u + phase)
    walk = np.sin(slow[:3] * u)
    place = np.array([0.9, 0.12, 0.6]) * walk + 0.02 * sway[:3] + [0, -0.2, 0]
    turn = np.array([0.05, -0.16, 0.03]) * np.sin(slow[3:] * u) + 0.012 * sway[3:]
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(turn)[0]
    pose[:3, 3] = place
    return pose
