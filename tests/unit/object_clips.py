"""Tracks of moving objects before moving cameras with their truth, without pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamicverse.dynamicba.motion.contact import Anchor
from dynamicverse.dynamicba.motion.object_scale import Cameras
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.lie import nearest_rotation, rotation_angle, se3
from dynamicverse.synthetic.cameras import pose
from dynamicverse.synthetic.scenes import FLOOR, Thing, film, room
from dynamicverse.synthetic.surfaces import Body, box, texture
from dynamicverse.synthetic.truth import Truth
from dynamicverse.synthetic.writer import object_poses

SIZE = (320, 192)
NOISE_PX = 0.3


@dataclass(frozen=True)
class ObjectClip:
    """Noisy tracks under exact cameras. depth_FN: true depth of every point in every frame."""

    truth: Truth
    tracks: Tracks
    cameras: Cameras
    depth_FN: np.ndarray
    points_FN3: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.depth_FN)

    def poses_F44(self, instance: int) -> np.ndarray:
        ids_M, poses_MF44 = object_poses(self.truth.world)
        return poses_MF44[ids_M.tolist().index(instance)]

    def anchors(self, noise: float = 0.02) -> list[dict[int, Anchor | None]]:
        """What a depth prior would say of each object, too far or too near as a whole."""
        rng = np.random.default_rng(1)
        anchors: list[dict[int, Anchor | None]] = []
        for frame in range(self.frames):
            found: dict[int, Anchor | None] = {}
            for instance in np.unique(self.tracks.instance_id_N[self.tracks.instance_id_N > 0]):
                mine = self.tracks.visibility_FN[frame] & (self.tracks.instance_id_N == instance)
                if mine.any():
                    pixels = self.tracks.tracks_FN2[frame, mine].astype(float)
                    depth = self.depth_FN[frame, mine] * np.exp(rng.normal(0, noise))
                    found[int(instance)] = Anchor(pixels, depth)
            anchors.append(found)
        return anchors


def follow(
    bodies: tuple[Body, ...],
    camera: str,
    frames: int,
    seed: int = 0,
    step: int = 5,
    noise: float = NOISE_PX,
    tilt: float = 0.15,
) -> ObjectClip:
    """Film bodies and follow points of a grid, seeded every ten frames."""
    world = film(bodies, camera, frames, SIZE, seed, tilt=tilt)
    truth = Truth(world)
    exact = truth.tracks(step, 10)
    rng = np.random.default_rng(seed)
    xy = exact.tracks_FN2 + rng.normal(0, noise, exact.tracks_FN2.shape)
    kept = exact.visibility_FN.sum(0) >= 5
    w2c_F44 = np.linalg.inv(world.c2w_F44)
    depth = np.einsum("fj,fnj->fn", w2c_F44[:, 2, :3], exact.points_FN3) + w2c_F44[:, 2, 3:]
    return ObjectClip(
        truth,
        Tracks(
            xy[:, kept].astype(np.float32),
            exact.visibility_FN[:, kept],
            exact.visibility_FN[:, kept].astype(np.float32),
            exact.query_frame_N[kept].astype(np.int32),
            exact.instance_id_N[kept].astype(np.int32),
            SIZE,
        ),
        Cameras(world.c2w_F44, world.K_F33),
        depth[:, kept],
        exact.points_FN3[:, kept],
    )


def things(thing: Thing, camera: str, frames: int, objects: int = 1, seed: int = 0) -> ObjectClip:
    """Things of `dynamicverse synth` in their room."""
    return follow(room(SIZE, seed, thing, objects), camera, frames, seed)


def hinged(frames: int, seed: int = 0) -> ObjectClip:
    """A box on the floor that turns, with a door that swings on it; one instance."""
    rng = np.random.default_rng(seed)
    start = np.array([-0.4, FLOOR - 0.4, 3.6])

    def root(frame: float) -> np.ndarray:
        u = frame / 30
        return pose(start + np.array([0.7 * np.sin(0.8 * u), 0.0, 0.2 * u]), 0.8 * u)

    def door(frame: float) -> np.ndarray:
        swing = pose(np.zeros(3), 0.9 * np.sin(2.5 * frame / 30))
        hinge = se3(np.eye(3), np.array([0.3, 0.0, -0.05]))
        return np.asarray(root(frame) @ hinge @ swing @ pose(np.array([0.3, 0.0, 0.0])))

    bodies = (
        Body("box", box([0.3, 0.4, 0.1]), texture(rng), root, 1),
        Body("door", box([0.28, 0.4, 0.08]), texture(rng), door, 1),
    )
    return follow(room(SIZE, seed, "box", 0) + bodies, "handheld", frames, seed)


def rotation_errors(found_F33: np.ndarray, true_F33: np.ndarray) -> np.ndarray:
    """Degrees (F,), after the constant turn of the object's axes that fits best."""
    turn = nearest_rotation(np.einsum("fji,fjk->ik", true_F33, found_F33))
    return np.degrees(rotation_angle(found_F33 @ np.swapaxes(true_F33 @ turn, 1, 2)))
