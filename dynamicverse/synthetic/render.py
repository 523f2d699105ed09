"""Pictures, depth and masks of a world: one ray a pixel, more where surfaces meet.

A triangle that is seen from the origin of a camera is a plane w·d = det/z over the rays d,
so texture coordinates and inverse depth are ratios of linear functions of the pixel. They are
computed in double precision; only which triangle is in front comes from the tracer.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array
from dynamicverse.geometry.projection import rays
from dynamicverse.synthetic.rays import Tracer
from dynamicverse.synthetic.scenes import World
from dynamicverse.synthetic.surfaces import Floats32, Texture

Integers = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

OCCLUSION = 1e-4  # a surface nearer than so much (of the depth, and m) hides a point
REMAP_COLUMNS = 1024  # cv2.remap takes at most 32767 rows


@dataclass(frozen=True)
class Frame:
    """rgb_HW3: uint8; depth_HW: metres along the optical axis; ids_HW: instances, uint8."""

    rgb_HW3: npt.NDArray[np.uint8]
    depth_HW: Floats32
    ids_HW: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Surface:
    """Material points: triangles of the world and weights of their corners."""

    triangle_N: Integers
    weights_N3: Array


class View:
    """The world at one frame, seen by the camera of that frame."""

    def __init__(self, world: World, frame: int) -> None:
        bodies = world.bodies
        offsets = np.cumsum([0, *(len(b.mesh.vertices_V3) for b in bodies)])
        faces = [b.mesh.faces_T3 + o for b, o in zip(bodies, offsets[:-1], strict=True)]
        self.world, self.frame = world, frame
        self.c2w, self.K = world.c2w_F44[frame], world.K_F33[frame]
        self.faces_T3 = np.concatenate(faces).astype(np.int32)
        self.body_T = np.repeat(np.arange(len(bodies)), [len(f) for f in faces])
        self.vertices_V3 = np.concatenate([b.vertices(frame) for b in bodies])
        self._tracer = Tracer(self.vertices_V3, self.faces_T3)
        camera_V3 = (self.vertices_V3 - self.c2w[:3, 3]) @ self.c2w[:3, :3]
        a, b, c = (camera_V3[self.faces_T3[:, i]] for i in range(3))
        self._edges_T33 = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], 1)
        self._volume_T = np.sum(a * self._edges_T33[:, 0], 1)

    def trace(self, pixels_N2: Array) -> Integers:
        """The triangle seen at each pixel. Raises ValueError where there is none."""
        directions = rays(pixels_N2, self.K) @ self.c2w[:3, :3].T
        triangle_N = self._tracer.first(self.c2w[:3, 3], directions)
        if len(triangle_N) and triangle_N.min() < 0:
            raise ValueError(f"frame {self.frame}: a ray leaves the world")
        return triangle_N

    def surface(self, pixels_N2: Array) -> Surface:
        """The material points seen at pixels."""
        triangle_N = self.trace(pixels_N2)
        weights_N3 = np.einsum("nij,nj->ni", self._edges_T33[triangle_N], rays(pixels_N2, self.K))
        return Surface(triangle_N, weights_N3 / weights_N3.sum(1, keepdims=True))

    def depth(self, triangle_N: Integers, pixels_N2: Array) -> Array:
        """Depth (N) of triangles at pixels."""
        normal_T3 = self._edges_T33.sum(1)
        across_N = np.sum(normal_T3[triangle_N] * rays(pixels_N2, self.K), 1)
        return np.asarray(self._volume_T[triangle_N] / across_N)

    def points(self, surface: Surface) -> Array:
        """World positions (N,3) of material points at this frame."""
        corners_N33 = self.vertices_V3[self.faces_T3[surface.triangle_N]]
        return np.asarray(np.einsum("ni,nij->nj", surface.weights_N3, corners_N33))

    def see(self, points_N3: Array) -> tuple[Array, Mask]:
        """Pixels (N,2) of world points, and which are in the picture with nothing before them."""
        camera_N3 = (points_N3 - self.c2w[:3, 3]) @ self.c2w[:3, :3]
        z_N = camera_N3[:, 2]
        safe_N = np.where(np.abs(z_N) < 1e-6, 1e-6, z_N)
        pixels_N2 = (camera_N3 / safe_N[:, None]) @ self.K.T[:, :2]
        width, height = self.world.size
        inside_N = (z_N > 1e-3) & (pixels_N2 >= -0.5).all(1)
        inside_N &= (pixels_N2[:, 0] < width - 0.5) & (pixels_N2[:, 1] < height - 0.5)
        seen_N2 = pixels_N2[inside_N]
        front = self.depth(self.trace(seen_N2), seen_N2)
        visible_N = inside_N.copy()
        visible_N[inside_N] = front > z_N[inside_N] * (1 - OCCLUSION) - OCCLUSION
        return pixels_N2, visible_N

    def render(self, supersample: int = 2) -> Frame:
        """The picture with its depth and masks. supersample: samples a pixel and direction."""
        width, height = self.world.size
        pixels_N2 = grid(self.world.size)
        triangle_N = self.trace(pixels_N2)
        instances = np.array([b.instance for b in self.world.bodies], np.uint8)
        ids_N = instances[self.body_T[triangle_N]]
        depth_N = self.depth(triangle_N, pixels_N2).astype(np.float32)
        rgb_N3 = self._shade(pixels_N2, triangle_N, supersample)
        if self.world.noise:
            rng = np.random.default_rng((self.world.seed, self.frame))
            noise_N3 = rng.standard_normal(rgb_N3.shape, np.float32)
            rgb_N3 = rgb_N3 + np.float32(self.world.noise) * noise_N3
        return Frame(
            np.clip(np.rint(rgb_N3), 0, 255).astype(np.uint8).reshape(height, width, 3),
            depth_N.reshape(height, width),
            ids_N.reshape(height, width),
        )

    def _shade(self, pixels_N2: Array, triangle_N: Integers, supersample: int) -> Floats32:
        """Mean colour (N,3) of the samples of each pixel."""
        offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
        mixed_N = self._mixed(triangle_N)
        to_texture_T33 = self._to_texture()
        total_N3 = np.zeros((len(pixels_N2), 3), np.float32)
        for shift in np.stack(np.meshgrid(offsets, offsets), -1).reshape(-1, 2):
            sample_N2 = pixels_N2 + shift
            own_N = triangle_N.copy()
            if supersample > 1:
                own_N[mixed_N] = self.trace(sample_N2[mixed_N])
            total_N3 += self._colours(sample_N2, own_N, to_texture_T33, 1 / supersample)
        return total_N3 / np.float32(supersample**2)

    def _mixed(self, triangle_N: Integers) -> Mask:
        """Pixels next to one that shows another triangle: only there samples may differ."""
        width, height = self.world.size
        front_HW = triangle_N.reshape(height, width)
        mixed_HW = np.zeros((height, width), np.uint8)
        mixed_HW[:, 1:] |= front_HW[:, 1:] != front_HW[:, :-1]
        mixed_HW[1:] |= front_HW[1:] != front_HW[:-1]
        return np.asarray(cv2.dilate(mixed_HW, np.ones((3, 3), np.uint8)).reshape(-1) > 0)

    def _to_texture(self) -> Array:
        """Homographies (T,3,3) from pixels to texture coordinates."""
        corners_T32 = np.concatenate([b.mesh.corners_T32 for b in self.world.bodies])
        homogeneous_T33 = np.concatenate([corners_T32, np.ones((len(corners_T32), 3, 1))], 2)
        return np.asarray(homogeneous_T33.swapaxes(1, 2) @ self._edges_T33 @ np.linalg.inv(self.K))

    def _colours(
        self, pixels_N2: Array, triangle_N: Integers, to_texture_T33: Array, spacing: float
    ) -> Floats32:
        """Colours (N,3) of the triangles at pixels; spacing: of the samples, px."""
        rows_N33 = to_texture_T33[triangle_N]
        uvw_N3 = rows_N33[..., 0] * pixels_N2[:, :1] + rows_N33[..., 1] * pixels_N2[:, 1:]
        uvw_N3 += rows_N33[..., 2]
        uv_N2 = uvw_N3[:, :2] / uvw_N3[:, 2:]
        light_T = np.concatenate([b.mesh.light_T for b in self.world.bodies])
        colour_N3 = np.empty((len(pixels_N2), 3), np.float32)
        body_N = self.body_T[triangle_N]
        for index, body in enumerate(self.world.bodies):
            own = np.flatnonzero(body_N == index)
            if not len(own):
                continue
            if len(body.texture) == 1:
                colour_N3[own] = _sample(body.texture[0], uv_N2[own])
            else:
                reach_N = spacing * _footprint(rows_N33[own], uvw_N3[own])
                colour_N3[own] = _sample_pyramid(body.texture, uv_N2[own], reach_N)
        return colour_N3 * light_T[triangle_N].astype(np.float32)[:, None]


def _footprint(rows_N33: Array, uvw_N3: Array) -> Array:
    """Texture px (N) between two neighbouring pixels, in the direction where they are more."""
    uv_N2, w_N = uvw_N3[:, :2], uvw_N3[:, 2]
    across, down = (rows_N33[:, :2, i] - uv_N2 * rows_N33[:, 2:, i] for i in (0, 1))
    longest_N = np.sqrt(np.maximum(np.sum(across**2, 1), np.sum(down**2, 1)))
    return np.asarray(longest_N / np.abs(w_N))


def _sample_pyramid(texture: Texture, uv_N2: Array, reach_N: Array) -> Floats32:
    """Samples between the two levels whose px are just finer and just coarser than `reach_N`."""
    level_N = np.clip(np.log2(np.maximum(reach_N, 1e-6)), 0, len(texture) - 1)
    total_N3 = np.zeros((len(uv_N2), 3), np.float32)
    for level, image in enumerate(texture):
        weight_N = 1 - np.abs(level_N - level)
        own = np.flatnonzero(weight_N > 0)
        if len(own):
            at_N2 = (uv_N2[own] + 0.5) / 2**level - 0.5
            total_N3[own] += _sample(image, at_N2) * weight_N[own, None].astype(np.float32)
    return total_N3


def _sample(image_SS3: Floats32, uv_N2: Array) -> Floats32:
    """Bilinear samples (N,3) of an image that wraps around."""
    count, side = len(uv_N2), len(image_SS3)
    rows = -(-count // REMAP_COLUMNS)
    maps = np.zeros((2, rows * REMAP_COLUMNS), np.float32)
    maps[:, :count] = (uv_N2 % side).T
    u, v = maps.reshape(2, rows, REMAP_COLUMNS)
    sampled = cv2.remap(image_SS3, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(sampled.reshape(-1, 3)[:count], np.float32)


def grid(size: tuple[int, int], step: int = 1) -> Array:
    """Pixel centres (N,2), row by row; with a step, the middle of each cell of step px."""
    xs, ys = (np.arange(step // 2, n, step, dtype=np.float64) for n in size)
    return np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
