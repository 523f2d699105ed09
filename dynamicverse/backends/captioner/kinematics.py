"""How fast a camera turns and travels, and how much it shakes.

Velocities are the slopes of a local linear fit to the pose path, the shake is what a local
quadratic fit leaves over: with a window of about one second, what is slower than some 1 Hz
counts as movement and what is faster as shake. Times may be irregular.

Directions are those of a person on the ground: a camera that looks down a little while it is
carried forward travels forward, not up, and one that is turned about the vertical pans and
does not roll. The vertical is estimated from the trajectory (see `vertical`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

HALF_WINDOW_S = 0.5
MAX_GAP_S = 0.5  # unregistered frames are bridged over at most so long
MIN_SHAKE_SAMPLES = 7  # a quadratic through fewer poses leaves too little over
UP_PRIOR = 0.01  # how much the mean up of the pictures weighs against level horizontal axes
UP_LEAST = np.cos(np.deg2rad(50))  # an estimate further from that mean up is not believed
STEEP = np.sin(np.deg2rad(60))  # looking up or down more than this, the camera's own axes count


@dataclass(frozen=True)
class Trajectory:
    """Camera path of one clip.

    c2w_F44: camera-to-world, OpenCV axes (x right, y down, z forward); NaN where unknown.
    focal_F: focal length, pixels. times_F: seconds, ascending. registered_F: pose known.
    width: picture width, pixels.
    depth: median distance of the static scene from the camera, in the unit of c2w; None
    where it is not known, and then translation has a direction but no size.
    translation_observable: False for a recovered rotation without parallax.
    """

    c2w_F44: Array
    focal_F: Array
    times_F: Array
    registered_F: NDArray[np.bool_]
    width: int
    depth: float | None = None
    translation_observable: bool = True


@dataclass(frozen=True)
class Motion:
    """Velocities of the camera in levelled axes; NaN rows where the pose is not known.

    turn_F3: deg/s of tilt up, pan right, roll clockwise.
    travel_F3: scene depths/s to the right, down, forward.
    travel_scaled: False where `travel_F3` is in units of the fastest travel of the clip.
    pitch_deg: mean elevation of the optical axis over the estimated horizon.
    shake: RMS of the fast picture displacement, share of the picture width; None where the
    poses are too few or too sparse in time.
    """

    turn_F3: Array
    travel_F3: Array
    travel_scaled: bool
    shake: float | None
    pitch_deg: float | None


def measure(path: Trajectory) -> Motion:
    """Velocities and shake of a camera path."""
    frames = len(path.c2w_F44)
    turn_F3 = np.full((frames, 3), np.nan)
    travel_F3 = np.full((frames, 3), np.nan)
    squares: list[float] = []
    up = vertical(path)
    for run in registered_runs(path):
        if len(run) < 2:
            continue
        for i in run:
            turn, travel, left_over = _fit(path, run, int(i))
            turn_F3[i], travel_F3[i] = _levelled(path.c2w_F44[i, :3, :3], up, turn, travel)
            if left_over is not None:
                squares.append(left_over)
        _bridge(turn_F3, path.times_F, run)
        _bridge(travel_F3, path.times_F, run)
    shake = float(np.sqrt(np.mean(squares))) if squares else None
    travel_F3, scaled = _in_depths(path, travel_F3)
    return Motion(np.rad2deg(turn_F3), travel_F3, scaled, shake, _pitch(path, up))


def _in_depths(path: Trajectory, travel_F3: Array) -> tuple[Array, bool]:
    if not path.translation_observable:
        return np.where(np.isnan(travel_F3), np.nan, 0.0), True
    if path.depth is not None:
        return travel_F3 / path.depth, True
    speed_F = np.linalg.norm(travel_F3, axis=1)
    fastest = float(np.nanpercentile(speed_F, 95)) if np.isfinite(speed_F).any() else 0.0
    return (travel_F3 / fastest if fastest > 0 else travel_F3), False


def vertical(path: Trajectory) -> Array:
    """Unit vector upwards in the world (3,), as far as a trajectory tells.

    People hold cameras level: the vertical is what the horizontal axes of all pictures are
    square to. Without a pan they hardly differ, and the mean up of the pictures decides.
    """
    known = path.registered_F
    if not known.any():
        return np.array([0.0, -1.0, 0.0])
    mean_up = -path.c2w_F44[known, :3, 1].mean(axis=0)
    if np.linalg.norm(mean_up) < 1e-6:
        mean_up = -path.c2w_F44[known, :3, 1][0]
    mean_up = mean_up / np.linalg.norm(mean_up)
    x_N3 = path.c2w_F44[known, :3, 0]
    cost = x_N3.T @ x_N3 / len(x_N3) + UP_PRIOR * (np.eye(3) - np.outer(mean_up, mean_up))
    up = np.linalg.eigh(cost)[1][:, 0]
    up = up if up @ mean_up > 0 else -up
    return np.asarray(up if up @ mean_up >= UP_LEAST else mean_up)


def _pitch(path: Trajectory, up: Array) -> float | None:
    if not path.registered_F.any():
        return None
    forward_N3 = path.c2w_F44[path.registered_F, :3, 2]
    return float(np.degrees(np.arcsin(np.clip(forward_N3 @ up, -1, 1))).mean())


def _levelled(R: Array, up: Array, turn: Array, travel: Array) -> tuple[Array, Array]:
    """Turn and travel in camera axes → tilt, pan, roll rates and travel in levelled axes."""
    down = -R.T @ up  # in camera axes
    if abs(down[2]) > STEEP:
        return turn, travel
    right = np.cross(down, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    forward = np.cross(right, down)
    # the turn is a sum of turns about the level right axis, the vertical and the optical axis
    rates = np.linalg.solve(np.stack([right, down, [0.0, 0.0, 1.0]], axis=1), turn)
    return rates, np.stack([right, down, forward]) @ travel


def frame_seconds(times_F: Array) -> Array:
    """How long each frame stands for (F,): half-way to both neighbours."""
    if len(times_F) < 2:
        return np.zeros(len(times_F))
    edges = np.concatenate([times_F[:1], (times_F[1:] + times_F[:-1]) / 2, times_F[-1:]])
    return np.asarray(np.diff(edges))


def registered_runs(path: Trajectory) -> list[NDArray[np.int64]]:
    """Indices of known poses, split where more than MAX_GAP_S lies between two."""
    known = np.flatnonzero(path.registered_F)
    if len(known) == 0:
        return []
    steps = np.diff(known)
    gaps = np.diff(path.times_F[known])
    return np.split(known, np.flatnonzero((steps > 1) & (gaps > MAX_GAP_S)) + 1)


def _fit(path: Trajectory, run: NDArray[np.int64], i: int) -> tuple[Array, Array, float | None]:
    """Turn rate (rad/s), travel (units/s) and squared shake at frame i of a run."""
    t_run = path.times_F[run]
    near = run[np.abs(t_run - path.times_F[i]) <= HALF_WINDOW_S]
    if len(near) < 3:  # few frames a second: at least the neighbours
        at = int(np.searchsorted(run, i))
        near = run[max(0, at - 1) : at + 2]
    R_i = path.c2w_F44[i, :3, :3]
    turned_n3 = Rotation.from_matrix(R_i.T @ path.c2w_F44[near, :3, :3]).as_rotvec()
    moved_n3 = (path.c2w_F44[near, :3, 3] - path.c2w_F44[i, :3, 3]) @ R_i
    dt = path.times_F[near] - path.times_F[i]
    reach = max(HALF_WINDOW_S, float(np.abs(dt).max())) * 1.05
    weights = (1 - np.abs(dt / reach) ** 3) ** 1.5  # square root of the tricube
    both_n6 = np.concatenate([turned_n3, moved_n3], axis=1)
    slope = _solve(dt, both_n6, weights, degree=1)[1]
    if len(near) < MIN_SHAKE_SAMPLES:
        return slope[:3], slope[3:], None
    # the pose of frame i itself is the origin, so the fitted value there is minus its shake
    offset = _solve(dt, both_n6, weights, degree=2)[0]
    return slope[:3], slope[3:], _picture_shift(offset, path, i) ** 2


def _solve(dt: Array, values: Array, weights: Array, degree: int) -> Array:
    design = np.vander(dt, degree + 1, increasing=True) * weights[:, None]
    return np.asarray(np.linalg.lstsq(design, values * weights[:, None], rcond=None)[0])


def _picture_shift(pose6: Array, path: Trajectory, i: int) -> float:
    """How far a small pose change moves the picture, as a share of its width."""
    focal = float(path.focal_F[i])
    near = 0.0 if path.depth is None or not path.translation_observable else 1.0 / path.depth
    across = focal * (pose6[1] + pose6[3] * near)
    along = focal * (pose6[0] - pose6[4] * near)
    spin = pose6[2] * path.width / 4  # a roll moves a pixel half-way out so far
    return float(np.sqrt(across**2 + along**2 + spin**2)) / path.width


def _bridge(values_F3: Array, times_F: Array, run: NDArray[np.int64]) -> None:
    """Linear interpolation over the unregistered frames inside a run, in place."""
    missing = np.setdiff1d(np.arange(run[0], run[-1] + 1), run)
    for axis in range(3):
        values_F3[missing, axis] = np.interp(times_F[missing], times_F[run], values_F3[run, axis])
