"""A synthetic clip with a depth prior, as a scene that waits for `reconstruction`.

Like the clip that the original engine was measured on: 854×480, a path of 3.14 m, focal length
800, a room with boxes, two of them moving on about 12 % of the pixels, 28,125 tracks on a grid
that is seeded five times, with 0.5 px of noise and 3 % outliers, a prior whose scale errs by a
smooth field of its own in every frame (AbsRel 0.085), and a focal length given 12 % off. Flow
is exact but for smooth noise of 0.5 px. Everything is computed from boxes in double precision;
neither a renderer nor a network takes part.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from os import sched_getaffinity
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.flow.consistency import consistency
from dynamicverse.formats import (
    depth_exr,
    flow_png,
    images,
    intrinsics,
    masks,
    poses,
    scene_info,
    tracks,
)
from dynamicverse.geometry import projection
from dynamicverse.geometry.lie import se3, so3_exp
from dynamicverse.scene import Scene

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

FOCAL_OF_WIDTH = 800 / 854
PATH_LENGTH = 3.14  # metres, over the whole clip
FOCAL_OFF, PRIOR_ABSREL = 0.12, 0.085
NOISE_PX, OUTLIERS, OUTLIER_PX = 0.5, 0.03, 50.0
FLOW_SMOOTH = 3.0  # px, standard deviation of what makes the noise of the flow smooth
QUERIES = 5  # frames in which the grid of tracks is seeded
FIELD_NODES = (4, 6)  # of the prior's error, rows and columns
SAME = 0.005  # relative depth: what is seen is the tracked point itself
ROOM = (np.array([0.0, -0.2, 4.0]), np.array([7.0, 1.6, 8.0]))  # centre, half extent; y is down
# centre on the floor (x, z), half extent, turn about y
STANDING = (
    (-2.6, 5.4, (0.5, 0.7, 0.5), 0.4),
    (-0.4, 8.2, (0.9, 0.5, 0.6), -0.3),
    (1.9, 7.0, (0.4, 0.9, 0.4), 0.8),
    (4.4, 5.2, (0.6, 0.4, 0.7), 0.1),
    (2.6, 3.6, (0.25, 0.35, 0.25), 0.5),
)
# the same, then motion over the clip: (x, z) and turn
MOVING = (
    (0.1, 4.5, (0.45, 0.6, 0.4), 0.2, (1.6, 0.6), 0.9),
    (3.0, 5.8, (0.5, 0.65, 0.45), -0.4, (0.6, 0.5), -0.8),
)


@dataclass(frozen=True)
class Surface:
    """What rays meet: body and point in its own frame, and the depth along the optical axis."""

    body_N: Indices
    local_N3: Floats
    depth_N: Floats


@dataclass(frozen=True)
class BoxClip:
    """The truth. Body 0 is the room, seen from inside; instance 0 stands still."""

    frames: int
    size: tuple[int, int]
    seed: int = 0

    @cached_property
    def K(self) -> Floats:
        return projection.intrinsics(
            FOCAL_OF_WIDTH * self.size[0], projection.image_centre(self.size)
        )

    @cached_property
    def c2w_F44(self) -> Floats:
        s = np.linspace(0, 1, self.frames)
        place = np.stack([3 * s, 0.15 * np.sin(7 * s), 0.4 * np.sin(4 * s)], 1)
        length = np.linalg.norm(np.diff(place, axis=0), axis=1).sum()
        turn = np.stack([0.05 * np.sin(6 * s), -0.25 * np.sin(3 * s), 0.04 * np.sin(5 * s)], 1)
        return se3(so3_exp(turn), place * PATH_LENGTH / length)

    @cached_property
    def half_B3(self) -> Floats:
        return np.array([ROOM[1], *(b[2] for b in (*STANDING, *MOVING))])

    @cached_property
    def instance_B(self) -> npt.NDArray[np.int32]:
        moving = range(1, len(MOVING) + 1)
        return np.array([0] * (1 + len(STANDING)) + list(moving), np.int32)

    @cached_property
    def o2w_BF44(self) -> Floats:
        floor = ROOM[0][1] + ROOM[1][1]
        still = np.zeros(self.frames)
        bodies = [se3(np.tile(np.eye(3), (self.frames, 1, 1)), np.tile(ROOM[0], (self.frames, 1)))]
        s = np.linspace(0, 1, self.frames)
        for x, z, half, angle, go, turn in [(*b, (0.0, 0.0), 0.0) for b in STANDING] + [*MOVING]:
            around = np.stack([still, angle + turn * s, still], 1)
            place = np.stack([x + go[0] * s, still + floor - half[1], z + go[1] * s], 1)
            bodies.append(se3(so3_exp(around), place))
        return np.stack(bodies)

    def cast(self, frame: int, pixels_N2: npt.ArrayLike) -> Surface:
        """What the pixels of a frame see."""
        rays_N3 = projection.rays(pixels_N2, self.K)
        near_N = np.full(len(rays_N3), np.inf)
        body_N = np.zeros(len(rays_N3), np.intp)
        for body, half_3 in enumerate(self.half_B3):
            c2o = np.linalg.inv(self.o2w_BF44[body, frame]) @ self.c2w_F44[frame]
            direction_N3 = rays_N3 @ c2o[:3, :3].T
            with np.errstate(divide="ignore"):
                one, other = (
                    (-c2o[:3, 3] - half_3) / direction_N3,
                    (-c2o[:3, 3] + half_3) / direction_N3,
                )
            enter_N = np.minimum(one, other).max(1)
            leave_N = np.maximum(one, other).min(1)
            hit_N = leave_N if body == 0 else np.where(enter_N < leave_N, enter_N, np.inf)
            nearer_N = (hit_N > 0) & (hit_N < near_N)
            near_N[nearer_N], body_N[nearer_N] = hit_N[nearer_N], body
        w2o_B44 = np.linalg.inv(self.o2w_BF44[:, frame])
        world_N3 = _moved(self.c2w_F44[frame], rays_N3 * near_N[:, None])
        local_N3 = np.einsum("nij,nj->ni", w2o_B44[body_N, :3, :3], world_N3)
        return Surface(body_N, local_N3 + w2o_B44[body_N, :3, 3], near_N)

    def see(self, frame: int, surface: Surface) -> tuple[Floats, Floats]:
        """Pixels (N,2) and depth (N) of points of the surface in another frame."""
        o2w_B44 = self.o2w_BF44[:, frame]
        world_N3 = np.einsum("nij,nj->ni", o2w_B44[surface.body_N, :3, :3], surface.local_N3)
        world_N3 += o2w_B44[surface.body_N, :3, 3]
        camera_N3 = _moved(np.linalg.inv(self.c2w_F44[frame]), world_N3)
        return projection.project(camera_N3, self.K), camera_N3[:, 2]

    def grid(self, across: int | None = None) -> Floats:
        """All pixels, or a grid of `across` × `across`; (N,2)."""
        width, height = self.size
        x, y = np.arange(width, dtype=float), np.arange(height, dtype=float)
        if across is not None:
            x, y = ((np.arange(across) + 0.5) * n / across - 0.5 for n in self.size)
        return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)

    def depth(self, frame: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Exact depth and instance ids (H,W)."""
        seen, shape = self.cast(frame, self.grid()), self.size[::-1]
        ids_HW = self.instance_B[seen.body_N].astype(np.uint8).reshape(shape)
        return seen.depth_N.astype(np.float32).reshape(shape), ids_HW

    def tracks(self, across: int) -> tracks.Tracks:
        """Noisy tracks of a grid seeded in QUERIES frames, followed both ways."""
        rng = np.random.default_rng(self.seed)
        queries = np.linspace(0, self.frames, QUERIES, endpoint=False).astype(int)
        grid_N2 = self.grid(across)
        seen = [self.cast(int(q), grid_N2) for q in queries]
        surface = Surface(*(np.concatenate(part) for part in zip(*map(_parts, seen), strict=True)))
        count = len(surface.depth_N)
        xy_FN2 = np.zeros((self.frames, count, 2), np.float32)
        visible_FN = np.zeros((self.frames, count), bool)
        for frame in range(self.frames):
            xy_N2, z_N = self.see(frame, surface)
            inside = np.flatnonzero(((xy_N2 >= 0) & (xy_N2 <= np.array(self.size) - 1)).all(1))
            near = self.cast(frame, xy_N2[inside]).depth_N
            visible_FN[frame, inside] = np.abs(z_N[inside] / near - 1) < SAME
            wrong_N1 = rng.random((count, 1)) < OUTLIERS
            off_N2 = rng.normal(0, NOISE_PX, (count, 2))
            off_N2 += wrong_N1 * rng.uniform(-OUTLIER_PX, OUTLIER_PX, (count, 2))
            xy_FN2[frame] = np.nan_to_num(xy_N2 + off_N2)
        return tracks.Tracks(
            xy_FN2,
            visible_FN,
            visible_FN.astype(np.float32),
            np.repeat(queries, len(grid_N2)).astype(np.int32),
            self.instance_B[surface.body_N],
            self.size,
        )

    def prior(self) -> list[npt.NDArray[np.float32]]:
        """Depth (H,W) of every frame times a smooth random field, AbsRel PRIOR_ABSREL."""
        rng = np.random.default_rng(self.seed + 1)
        nodes_Fhw = rng.normal(0, 1, (self.frames, *FIELD_NODES)).astype(np.float32)
        fields = [cv2.resize(n, self.size, interpolation=cv2.INTER_CUBIC) for n in nodes_Fhw]
        scale = PRIOR_ABSREL
        for _ in range(8):
            scale *= PRIOR_ABSREL / np.mean([np.abs(np.expm1(scale * f)).mean() for f in fields])
        return [np.exp(scale * f).astype(np.float32) for f in fields]

    def flow(self, source: int, target: int) -> npt.NDArray[np.float32]:
        """Flow (H,W,2) of all surfaces, hidden in the target or not, with smooth noise."""
        rng = np.random.default_rng([self.seed, source, target])
        pixels_N2, (width, height) = self.grid(), self.size
        ends_N2, _ = self.see(target, self.cast(source, pixels_N2))
        exact_HW2 = (ends_N2 - pixels_N2).reshape(height, width, 2)
        rough_HW2 = rng.normal(0, 1, exact_HW2.shape).astype(np.float32)
        noise_HW2 = np.asarray(cv2.GaussianBlur(rough_HW2, (0, 0), FLOW_SMOOTH))
        return (exact_HW2 + NOISE_PX / noise_HW2.std() * noise_HW2).astype(np.float32)


def write(clip: BoxClip, root: Path, across: int = 75) -> Scene:
    """The scene as the stages before `reconstruction` leave it, with a depth prior."""
    scene = Scene(root, "bench", f"boxes-{clip.seed}")
    camera = clip.K * np.array([[1 + FOCAL_OFF], [1 + FOCAL_OFF], [1]])
    fx, fy = float(camera[0, 0]), float(camera[1, 1])
    given = intrinsics.PriorIntrinsics(
        fx=fx, fy=fy, cx=float(clip.K[0, 2]), cy=float(clip.K[1, 2]), source="benchmark"
    )
    intrinsics.write(scene.prior_intrinsics, given)
    tracks.write(scene.tracks, clip.tracks(across))
    scene_info.write(scene.scene_json, _info(clip, scene.name))
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as pool:
        list(pool.map(partial(_write_frame, clip, scene), range(clip.frames), clip.prior()))
    return scene


def _write_frame(
    clip: BoxClip, scene: Scene, frame: int, error_HW: npt.NDArray[np.float32]
) -> None:
    depth_HW, ids_HW = clip.depth(frame)
    depth_exr.write(scene.depth_prior(frame), depth_HW * error_HW, np.ones_like(depth_HW))
    masks.write(scene.mask(frame), ids_HW)
    images.write_jpeg(scene.rgb(frame), _picture(clip, frame))
    if frame + 1 < clip.frames:
        there_HW2, back_HW2 = clip.flow(frame, frame + 1), clip.flow(frame + 1, frame)
        there_back = scene.flow(frame, frame + 1), scene.flow(frame + 1, frame)
        flow_png.write(there_back[0], there_HW2, consistency(there_HW2, back_HW2))
        flow_png.write(there_back[1], back_HW2, consistency(back_HW2, there_HW2))


def _picture(clip: BoxClip, frame: int) -> npt.NDArray[np.uint8]:
    """Every body in its own colours, a chequered pattern on it."""
    seen = clip.cast(frame, clip.grid())
    cell_N = np.floor(seen.local_N3 * 5 + 1e-6).astype(np.int64) @ np.array([1, 7, 3])
    base_N3 = 60 + 37 * ((seen.body_N[:, None] + np.array([0, 2, 5])) % 5)
    return (base_N3 + 12 * (cell_N[:, None] % 4)).astype(np.uint8).reshape(*clip.size[::-1], 3)


def _info(clip: BoxClip, name: str) -> scene_info.SceneInfo:
    width, height = clip.size
    return scene_info.SceneInfo(
        name=name,
        dataset="bench",
        width=width,
        height=height,
        frame_count=clip.frames,
        rate=25.0,
        times_s=[frame / 25 for frame in range(clip.frames)],
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
            last_frame=clip.frames - 1,
            start_s=0.0,
            end_s=clip.frames / 25,
        ),
        filter=scene_info.FilterReport(scores={}, accepted=True, reasons=[]),
        warnings=[],
    )


def true_poses(clip: BoxClip) -> poses.Poses:
    """The exact cameras."""
    return poses.Poses(
        clip.c2w_F44,
        np.tile(clip.K, (clip.frames, 1, 1)),
        np.arange(clip.frames) / 25,
        np.ones(clip.frames, np.bool_),
        "metric",
    )


def _parts(surface: Surface) -> tuple[Indices, Floats, Floats]:
    return surface.body_N, surface.local_N3, surface.depth_N


def _moved(transform_44: Floats, points_N3: Floats) -> Floats:
    return np.asarray(points_N3 @ transform_44[:3, :3].T + transform_44[:3, 3])
