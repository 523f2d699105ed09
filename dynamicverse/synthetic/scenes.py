"""Worlds to render: a textured room with boxes in it, things that move, and a camera.

A clip follows from its `Recipe` alone. The kinds:

| kind | what is special |
|---|---|
| walk | hand-held camera, boxes that move over the floor |
| orbit, dolly | the camera circles, or drives ahead |
| rotation, static | the camera only turns, or stands: no parallax |
| articulated | a figure of six parts that walks |
| deforming | a ball that bends and swells while it moves |
| fast | hand-held, camera and boxes three times as fast |
| plain | walls and floor with almost no texture |
| zoom | the focal length changes |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from dynamicverse.geometry.lie import Array, se3, so3_exp
from dynamicverse.geometry.projection import image_centre, intrinsics
from dynamicverse.synthetic.cameras import CAMERAS, FOCAL_OF_WIDTH, pose, zoom_factor
from dynamicverse.synthetic.surfaces import (
    TEXTURE_SIZE,
    Body,
    Mesh,
    Pose,
    Texture,
    ball,
    box,
    texture,
)

Kind = Literal[
    "walk", "orbit", "dolly", "rotation", "static",
    "articulated", "deforming", "fast", "plain", "zoom",
]  # fmt: skip
Thing = Literal["box", "figure", "blob"]
Look = Callable[[], Texture]  # makes one more texture
KINDS: tuple[Kind, ...] = get_args(Kind)

RATE = 25.0  # frames a second of the timestamps
FRAMES_PER_UNIT = 30.0  # of the time that paths are functions of
STANDARD_WIDTH = 320  # px at which a texture px is about a pixel
SMALL_WIDTH = 128  # px up to which textures may be small too: quicker to make
TEXTURE_LEVELS = 5  # down to a sixteenth
FLOOR, CEILING = 1.4, -1.8
LEG_SWING = 0.5  # radians to either side
TILT = 0.22  # radians downwards: things are seen down to where they stand
STATIC_PLACES = ((-2.4, 4.2), (-0.7, 6.2), (1.2, 5.0), (2.8, 3.6), (0.3, 7.3))


@dataclass(frozen=True)
class Recipe:
    """All that a clip follows from.

    size: width, height in px; objects: how many things move, None = as the kind has it;
    noise: standard deviation of the pictures' grey levels.
    """

    kind: Kind = "walk"
    seed: int = 0
    frames: int = 60
    size: tuple[int, int] = (640, 384)
    objects: int | None = None
    noise: float = 1.0


@dataclass(frozen=True)
class World:
    """What is rendered: bodies, and a camera at every frame.

    c2w_F44: OpenCV axes, metres; K_F33: px, (0,0) the first pixel's centre; times_F: seconds.
    """

    bodies: tuple[Body, ...]
    c2w_F44: Array
    K_F33: Array
    times_F: Array
    size: tuple[int, int]
    seed: int
    noise: float = 0.0

    @property
    def frame_count(self) -> int:
        return len(self.times_F)

    @property
    def moving(self) -> tuple[Body, ...]:
        """The bodies that belong to an instance, by id, the root of each first."""
        return tuple(sorted((b for b in self.bodies if b.instance), key=lambda b: b.instance))


@dataclass(frozen=True)
class _Kind:
    camera: str
    thing: Thing = "box"
    objects: int = 2
    pace: float = 1.0
    contrast: float = 1.0
    zoom: bool = False


_KINDS: Mapping[Kind, _Kind] = MappingProxyType(
    {
        "walk": _Kind("handheld"),
        "orbit": _Kind("orbit", objects=3),
        "dolly": _Kind("dolly"),
        "rotation": _Kind("rotation", objects=1),
        "static": _Kind("static"),
        "articulated": _Kind("handheld", "figure", objects=1),
        "deforming": _Kind("orbit", "blob", objects=1),
        "fast": _Kind("handheld", pace=3.0),
        "plain": _Kind("handheld", contrast=0.12),
        "zoom": _Kind("handheld", zoom=True),
    }
)


def make_world(recipe: Recipe) -> World:
    """The world of a recipe."""
    kind = _KINDS[recipe.kind]
    objects = kind.objects if recipe.objects is None else recipe.objects
    frames_per_unit = FRAMES_PER_UNIT / kind.pace
    bodies = room(
        recipe.size,
        recipe.seed,
        kind.thing,
        objects,
        contrast=kind.contrast,
        frames_per_unit=frames_per_unit,
        levels=TEXTURE_LEVELS,
    )
    zoom = zoom_factor if kind.zoom else None
    return film(
        bodies,
        kind.camera,
        recipe.frames,
        recipe.size,
        recipe.seed,
        frames_per_unit=frames_per_unit,
        zoom=zoom,
        tilt=TILT,
        noise=recipe.noise,
    )


def film(
    bodies: tuple[Body, ...],
    camera: str,
    frames: int,
    size: tuple[int, int],
    seed: int,
    *,
    frames_per_unit: float = FRAMES_PER_UNIT,
    zoom: Callable[[float], float] | None = None,
    tilt: float = 0.0,
    noise: float = 0.0,
) -> World:
    """Bodies before a camera of `cameras.CAMERAS` that moves for so many frames.

    tilt: radians that the camera looks down.
    """
    down = se3(so3_exp([-tilt, 0.0, 0.0]), np.zeros(3))
    times = np.arange(frames) / frames_per_unit
    focal = FOCAL_OF_WIDTH * size[0]
    focals = [focal * (zoom(t) if zoom else 1.0) for t in times]
    return World(
        bodies,
        np.array([CAMERAS[camera](t, seed) @ down for t in times]),
        np.array([intrinsics(f, image_centre(size)) for f in focals]),
        np.arange(frames) / RATE,
        size,
        seed,
        noise,
    )


def room(
    size: tuple[int, int],
    seed: int,
    thing: Thing = "box",
    objects: int = 1,
    *,
    contrast: float = 1.0,
    frames_per_unit: float = FRAMES_PER_UNIT,
    levels: int = 1,
) -> tuple[Body, ...]:
    """A room with five boxes that stand, and things that move over its floor.

    size: of the pictures, which decides how fine the textures are; contrast: of what stands;
    levels: of the textures.
    """
    rng = np.random.default_rng(seed)
    detail = max(1.0, size[0] / STANDARD_WIDTH)
    small = TEXTURE_SIZE if size[0] > SMALL_WIDTH else TEXTURE_SIZE // 2
    side = small if detail == 1.0 else 2 * small  # repeats after some metres
    shell = box([4.0, (FLOOR - CEILING) / 2, 5.5], detail)
    place = pose(np.array([0.0, (FLOOR + CEILING) / 2, 2.5]))
    bodies = [Body("room", shell, texture(rng, contrast, side, levels), _always(place))]
    for index, (x, z) in enumerate(STATIC_PLACES):
        half = rng.uniform((0.25, 0.3, 0.25), (0.6, 1.0, 0.6))
        where = np.array([x + rng.uniform(-0.2, 0.2), FLOOR - half[1], z])
        o2w = pose(where, rng.uniform(-0.6, 0.6))
        covering = texture(rng, contrast, small, levels)
        bodies.append(Body(f"box {index + 1}", box(half, detail), covering, _always(o2w)))
    for index in range(objects):
        look = partial(texture, rng, 1.0, small, levels)
        bodies += _THINGS[thing](index, rng, detail, frames_per_unit, look)
    return tuple(bodies)


def _always(o2w: Array) -> Pose:
    return lambda frame: o2w


def _start(index: int, height: float) -> Array:
    """Where a thing stands, its centre so far above the floor."""
    return np.array([(-1.2, 1.0, 0.0)[index % 3], FLOOR - height, 2.9 + 0.8 * (index % 4)])


def _moving_box(
    index: int, rng: np.random.Generator, detail: float, frames_per_unit: float, look: Look
) -> list[Body]:
    """A box that slides and turns."""
    half = rng.uniform((0.25, 0.4, 0.25), (0.4, 0.6, 0.4))
    start = _start(index, half[1])
    phase, turn = rng.uniform(-0.3, 0.3), rng.uniform(-0.8, 0.8)
    direction = (1.0, -1.0)[index % 2]

    def o2w(frame: float) -> Array:
        u = frame / frames_per_unit
        way = direction * 0.9 * np.sin(0.9 * u + phase)
        return pose(start + np.array([way, 0, 0.3 * np.sin(0.7 * u)]), turn * u)

    return [Body(f"moving box {index + 1}", box(half, detail), look(), o2w, index + 1)]


def _figure(
    index: int, rng: np.random.Generator, detail: float, frames_per_unit: float, look: Look
) -> list[Body]:
    """A walker 1.7 m tall: body, head, arms and legs that swing about shoulders and hips.

    One foot is always on the floor.
    """
    phase, heading = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
    start = _start(index, 0.0) + np.array([0.0, 0.0, 0.5])
    stride = (1.0, -1.0)[index % 2]
    hip, leg_3 = 0.3, np.array([0.07, 0.415, 0.07])

    def swung(frame: float) -> float:
        return float(np.sin(6 * frame / frames_per_unit + phase))

    def root(frame: float) -> Array:
        u, angle = frame / frames_per_unit, abs(LEG_SWING * swung(frame))
        height = hip + 2 * leg_3[1] * np.cos(angle) + leg_3[2] * np.sin(angle)
        walked = start + np.array([stride * 0.7 * u, -height, 0.2 * u])
        return pose(walked, stride * np.pi / 2 + heading + 0.15 * np.sin(2 * u))

    def limb(joint: tuple[float, float, float], length: float, swing: float) -> Pose:
        def o2w(frame: float) -> Array:
            angle = swing * swung(frame)
            hinge = se3(so3_exp([angle, 0.0, 0.0]), np.array(joint))
            return np.asarray(root(frame) @ hinge @ pose(np.array([0.0, length / 2, 0.0])))

        return o2w

    def head(frame: float) -> Array:
        return np.asarray(root(frame) @ pose(np.array([0.0, -0.44, 0.0])))

    parts: list[tuple[str, Mesh, Pose]] = [("body", box([0.19, 0.3, 0.11], detail), root)]
    parts.append(("head", ball([0.11, 0.14, 0.12], detail), head))
    for name, sign in (("left", -1.0), ("right", 1.0)):
        arm = limb((0.24 * sign, -0.28, 0.0), 0.56, 0.7 * sign)
        leg = limb((0.1 * sign, hip, 0.0), 2 * leg_3[1], -LEG_SWING * sign)
        parts.append((f"{name} arm", box([0.05, 0.28, 0.05], detail), arm))
        parts.append((f"{name} leg", box(leg_3, detail), leg))
    looks = look(), look()
    return [
        Body(f"figure {index + 1}: {name}", mesh, looks[i % 2], o2w, index + 1)
        for i, (name, mesh, o2w) in enumerate(parts)
    ]


def _blob(
    index: int, rng: np.random.Generator, detail: float, frames_per_unit: float, look: Look
) -> list[Body]:
    """A ball on the floor that swells, shrinks the other way and bends, while it moves."""
    radius = rng.uniform(0.45, 0.55)
    start, phase = _start(index, 0.0), rng.uniform(0, 2 * np.pi)

    def swollen(frame: float) -> float:
        return float(1.0 + 0.2 * np.sin(3 * frame / frames_per_unit + phase))

    def o2w(frame: float) -> Array:
        u = frame / frames_per_unit
        height = radius / swollen(frame)
        return pose(start + np.array([0.8 * np.sin(0.9 * u), -height, 0.4 * u]), 0.5 * u)

    def shape(frame: float, rest_V3: Array) -> Array:
        swell, bend = swollen(frame), 0.35 * np.sin(2.2 * frame / frames_per_unit)
        x, y, z = rest_V3.T
        return np.stack([x * swell + bend * y**2 / radius, y / swell, z + 0.5 * bend * x], 1)

    mesh = ball([radius] * 3, detail, cells=10)
    return [Body(f"blob {index + 1}", mesh, look(), o2w, index + 1, shape)]


_THINGS: Mapping[Thing, Callable[[int, np.random.Generator, float, float, Look], list[Body]]] = (
    MappingProxyType({"box": _moving_box, "figure": _figure, "blob": _blob})
)
