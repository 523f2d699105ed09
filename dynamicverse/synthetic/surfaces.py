"""Surfaces of rendered scenes: triangle meshes with procedural textures.

A texture is a colour noise that wraps around; a triangle carries the texture coordinates of
its corners and a brightness, both fixed to the material, so that it looks the same wherever
it moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.geometry.lie import Array

Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Pose = Callable[[float], Array]  # frame -> 4x4 object-to-world
Shape = Callable[[float, Array], Array]  # frame, rest vertices (V,3) -> vertices (V,3)
Texture = tuple[Floats32, ...]  # (S,S,3) RGB 0..255, and the same at half the size, and so on

TEXTURE_SIZE = 1024
TEXTURE_PX_PER_METRE = 110.0
LIGHT = np.array([0.8, 0.95, 0.7, 1.0, 0.9, 0.85])  # of surfaces facing -x +x -y +y -z +z


@dataclass(frozen=True)
class Mesh:
    """vertices_V3: metres, object frame; faces_T3: counter-clockwise from outside;
    corners_T32: texture coordinates in texture px; light_T: brightness."""

    vertices_V3: Array
    faces_T3: Integers
    corners_T32: Array
    light_T: Array


@dataclass(frozen=True)
class Body:
    """A surface in the world, rigid unless it has a `shape` of its own over time.

    Bodies of one instance are the parts of one object, the first of them its root;
    instance 0 is the static scene.
    """

    name: str
    mesh: Mesh
    texture: Texture
    o2w: Pose
    instance: int = 0
    shape: Shape | None = None

    def vertices(self, frame: float) -> Array:
        """World positions (V,3) at a frame."""
        local = self.mesh.vertices_V3
        local_V3 = local if self.shape is None else self.shape(frame, local)
        pose = self.o2w(frame)
        return np.asarray(local_V3 @ pose[:3, :3].T + pose[:3, 3])


def box(half_3: npt.ArrayLike, detail: float = 1.0) -> Mesh:
    """An axis-aligned box about the origin. detail: texture px per px at the standard size."""
    vertices = np.array(list(product((-1.0, 1.0), repeat=3))) * np.asarray(half_3, np.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return _unwrapped(vertices, _triangles(np.array(quads)), detail)


def ball(radius_3: npt.ArrayLike, detail: float = 1.0, cells: int = 8) -> Mesh:
    """An ellipsoid about the origin: a cube of cells × cells quads a side, blown up."""
    cube, quads = _cube(cells)
    angles = np.tan(cube * np.pi / 4)  # cells of nearly equal size
    sphere = angles / np.linalg.norm(angles, axis=1, keepdims=True)
    return _unwrapped(sphere * np.asarray(radius_3, np.float64), _triangles(quads), detail)


def texture(
    rng: np.random.Generator, contrast: float = 1.0, size: int = TEXTURE_SIZE, levels: int = 1
) -> Texture:
    """Multi-scale colour noise of `size` px that wraps around, and smaller versions of it, from
    which what is far away is sampled without aliasing."""
    image = np.zeros((size, size, 3), np.float32)
    for share, weight in ((8, 0.5), (32, 0.7), (128, 1.0), (400, 0.7)):
        cells = share * size // TEXTURE_SIZE
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        grey = noise.mean(2, keepdims=True) * 1.4 + 0.4 * noise
        wrapped = np.pad(grey, ((2, 2), (2, 2), (0, 0)), mode="wrap")
        scale = size / cells
        big = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        edge = round(2 * scale)
        image += weight * big[edge : edge + size, edge : edge + size]
    tint = rng.uniform(90, 165, 3).astype(np.float32)
    pyramid = [np.asarray(np.clip(tint + 32.0 * contrast * image, 2, 253), np.float32)]
    while len(pyramid) < levels:
        half = cv2.resize(pyramid[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        pyramid.append(np.asarray(half, np.float32))
    return tuple(pyramid)


def _unwrapped(vertices_V3: Array, faces_T3: Integers, detail: float) -> Mesh:
    """Each triangle is textured along the axis it faces, with another part of the texture."""
    corners_T33 = vertices_V3[faces_T3]
    one, two = corners_T33[:, 1] - corners_T33[:, 0], corners_T33[:, 2] - corners_T33[:, 0]
    normal_T3 = np.cross(one, two)
    normal_T3 /= np.linalg.norm(normal_T3, axis=1, keepdims=True)
    rows = np.arange(len(faces_T3))
    axis_T = np.argmax(np.abs(normal_T3), 1)
    side_T = axis_T * 2 + (normal_T3[rows, axis_T] > 0)
    first_T, second_T = np.where(axis_T == 0, 1, 0), np.where(axis_T == 2, 1, 2)
    density = TEXTURE_PX_PER_METRE * detail
    u_T3 = corners_T33[rows, :, first_T] * density + side_T[:, None] * 171.0
    v_T3 = corners_T33[rows, :, second_T] * density + side_T[:, None] * 97.0
    sides = np.arange(3) * 2 + (normal_T3 > 0)
    light_T = np.sum(normal_T3**2 * LIGHT[sides], 1)
    return Mesh(vertices_V3, faces_T3, np.stack([u_T3, v_T3], -1), light_T)


def _triangles(quads_Q4: npt.NDArray[np.int64]) -> Integers:
    return np.concatenate([quads_Q4[:, [0, 1, 2]], quads_Q4[:, [0, 2, 3]]]).astype(np.int32)


def _cube(cells: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """The surface of the cube [-1, 1]³ as vertices without duplicates and quads."""
    line = np.linspace(-1, 1, cells + 1)
    u, v = (g.ravel() for g in np.meshgrid(line, line, indexing="ij"))
    corner = np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)
    quad = np.stack([corner, corner + cells + 1, corner + cells + 2, corner + 1], -1).reshape(-1, 4)
    points: list[Array] = []
    quads: list[npt.NDArray[np.int64]] = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            face = np.empty((len(u), 3))
            face[:, axis], face[:, (axis + 1) % 3], face[:, (axis + 2) % 3] = side, u, v
            quads.append((quad if side > 0 else quad[:, ::-1]) + len(points) * len(u))
            points.append(face)
    unique, index = np.unique(np.round(np.concatenate(points), 12), axis=0, return_inverse=True)
    return np.asarray(unique), index.reshape(-1)[np.concatenate(quads)]
