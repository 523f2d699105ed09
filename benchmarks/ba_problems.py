"""Bundle adjustment problems with known truth, for `bundle_adjustment.py`.

A camera (1280×720, focal length 1120 px) goes sideways, 3 units of length in 50 frames, and
turns; points lie 2.5 to 9 units away. Pixels have 0.5 px of noise and 3 % of them are up to
50 px off. The start is off by 12 % in the focal length, 10 % in the depths, 0.01 rad and 0.02
units in every camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Observations
from dynamicverse.dynamicba.bundle.solver import Structure, free_cameras
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.geometry.lie import se3, se3_inverse, so3_exp

SIZE, FOCAL, NOISE, OUTLIERS = (1280, 720), 1120.0, 0.5, 0.03
FOCAL_OFF, DEPTH_OFF, TURN_OFF, PLACE_OFF = 0.12, 0.1, 0.01, 0.02


@dataclass(frozen=True)
class Problem:
    """Where to start, what is seen, and the truth."""

    start: Structure
    observations: Observations
    truth: Structure

    @property
    def free_F6(self) -> npt.NDArray[np.bool_]:
        """The gauge: the first camera and one coordinate of the farthest are held."""
        distance = np.linalg.norm(self.truth.t_F3 - self.truth.t_F3[0], axis=1)
        return free_cameras(len(distance), 0, int(np.argmax(distance)), self.truth.t_F3)

    def ate(self, structure: Structure) -> float:
        """Absolute trajectory error in units of length, Sim(3) aligned."""
        return trajectory_error(_c2w(structure), _c2w(self.truth)).ate


def _c2w(structure: Structure) -> npt.NDArray[np.float64]:
    return se3_inverse(se3(structure.R_F33, structure.t_F3))


def path(frames: int) -> npt.NDArray[np.float64]:
    """Camera to world (F, 4, 4)."""
    s = np.arange(frames) / 50
    turn = np.stack([0.05 * np.sin(6 * s), 0.3 * np.sin(3 * s), 0.04 * np.sin(5 * s)], 1)
    place = np.stack([3 * s, 0.2 * np.sin(7 * s), 0.4 * np.sin(4 * s)], 1)
    return se3(so3_exp(turn), place)


def make(
    frames: int,
    tracks: int,
    longest: int,
    *,
    count: int | None = None,
    off: float = 1.0,
) -> Problem:
    """A problem whose tracks live for up to `longest` frames; cut to `count` observations.

    off: factor on how far the start is off.
    """
    rng = np.random.default_rng(0)
    c2w, w2c = path(frames), se3_inverse(path(frames))
    begin = rng.integers(1 - longest // 2, frames - longest // 2, tracks)
    middle = np.clip(begin + longest // 2, 0, frames - 1)
    depth = rng.uniform(2.5, 9, tracks)
    pixel = rng.uniform(-0.5, 0.5, (tracks, 2)) * SIZE
    local = np.concatenate([pixel / FOCAL, np.ones((tracks, 1))], 1) * depth[:, None]
    points = np.einsum("nij,nj->ni", c2w[middle, :3, :3], local) + c2w[middle, :3, 3]
    frame = begin[:, None] + np.arange(longest)
    inside = (frame >= 0) & (frame < frames)
    point, column = np.nonzero(inside)
    frame = frame[point, column]
    seen = np.einsum("mij,mj->mi", w2c[frame, :3, :3], points[point]) + w2c[frame, :3, 3]
    xy = FOCAL * seen[:, :2] / np.maximum(seen[:, 2:], 1e-3)
    keep = (seen[:, 2] > 0.1) & (np.abs(xy) < np.array(SIZE) / 2).all(1)
    if count is not None:
        chosen = rng.permutation(np.flatnonzero(keep))[:count]
        keep = np.isin(np.arange(len(keep)), chosen)
    frame, point, xy = frame[keep], point[keep], xy[keep]
    wrong = rng.random(len(xy)) < OUTLIERS
    noisy = xy + rng.normal(0, NOISE, xy.shape) + wrong[:, None] * rng.uniform(-50, 50, xy.shape)
    observations = Observations(frame, point, noisy, np.full(len(xy), NOISE**-2))
    R, t = w2c[:, :3, :3], w2c[:, :3, 3]
    turned = so3_exp(rng.normal(0, off * TURN_OFF, (frames, 3))) @ R
    moved = t + rng.normal(0, off * PLACE_OFF, (frames, 3))
    turned[0], moved[0] = R[0], t[0]
    eye = c2w[middle, :3, 3]
    moved_points = eye + (points - eye) * (1 + rng.normal(0, off * DEPTH_OFF, (tracks, 1)))
    return Problem(
        Structure(turned, moved, moved_points, (1 + off * FOCAL_OFF) * FOCAL),
        observations,
        Structure(R, t, points, FOCAL),
    )


def reference() -> Problem:
    """50 frames, 10,000 tracks, 321,000 observations."""
    return make(50, 10_000, 54, count=321_000)
