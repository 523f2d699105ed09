"""Camera-motion labels of synthetic trajectories whose motion is known by construction."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.camera_motion import CameraMotion, describe
from dynamicverse.backends.captioner.kinematics import Trajectory, measure

WIDTH, FOCAL, DEPTH, FPS, FRAMES = 640, 560.0, 4.0, 30.0, 60
PRIMITIVES = set(v.PRIMITIVES)


def trajectory(
    turn_deg_s: tuple[float, float, float] = (0, 0, 0),
    travel_s: tuple[float, float, float] = (0, 0, 0),
    frames: int = FRAMES,
    fps: float = FPS,
    start: Rotation | None = None,
    **changes: object,
) -> Trajectory:
    """Constant velocity in the camera's own axes; travel in scene depths a second."""
    turn = Rotation.from_rotvec(np.deg2rad(np.array(turn_deg_s, float)) / fps)
    step = np.array(travel_s, float) * DEPTH / fps
    R, C = start or Rotation.from_euler("xyz", [10, -35, 5], degrees=True), np.zeros(3)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(frames):
        c2w[i, :3, :3], c2w[i, :3, 3] = R.as_matrix(), C
        C = C + R.apply(step)
        R = R * turn
    return with_poses(c2w, fps, **changes)


def with_poses(c2w: np.ndarray, fps: float = FPS, **changes: object) -> Trajectory:
    frames = len(c2w)
    values: dict[str, object] = {
        "c2w_F44": c2w,
        "focal_F": np.full(frames, FOCAL),
        "times_F": np.arange(frames) / fps,
        "registered_F": np.isfinite(c2w).all((1, 2)),
        "width": WIDTH,
        "depth": DEPTH,
    }
    return Trajectory(**{**values, **changes})  # type: ignore[arg-type]


def primitives(motion: CameraMotion) -> set[str]:
    return set(motion.labels) & PRIMITIVES


@pytest.mark.parametrize(
    ("turn", "travel", "label"),
    [
        ((0, 20, 0), (0, 0, 0), "pan-right"),
        ((0, -20, 0), (0, 0, 0), "pan-left"),
        ((12, 0, 0), (0, 0, 0), "tilt-up"),
        ((-12, 0, 0), (0, 0, 0), "tilt-down"),
        ((0, 0, 15), (0, 0, 0), "roll-CW"),
        ((0, 0, -15), (0, 0, 0), "roll-CCW"),
        ((0, 0, 0), (0, 0, 0.4), "dolly-in"),
        ((0, 0, 0), (0, 0, -0.4), "dolly-out"),
        ((0, 0, 0), (0.4, 0, 0), "truck-right"),
        ((0, 0, 0), (-0.4, 0, 0), "truck-left"),
        ((0, 0, 0), (0, 0.4, 0), "pedestal-down"),
        ((0, 0, 0), (0, -0.4, 0), "pedestal-up"),
    ],
)
def test_each_primitive_alone(turn, travel, label):
    motion = describe(trajectory(turn, travel))
    assert primitives(motion) == {label}
    assert len(motion.segments) == 1
    assert "complex-motion" in motion.labels
    assert "no-shaking" in motion.labels


def test_directions_agree_with_what_the_picture_does():
    """An independent look: project a fixed point and see which way it moves."""
    point = np.array([0.2, 0.1, 5.0])

    def moved(label_path: Trajectory) -> np.ndarray:
        first, last = label_path.c2w_F44[0], label_path.c2w_F44[5]
        p_cam = (point @ first[:3, :3].T + first[:3, 3] - last[:3, 3]) @ last[:3, :3]
        return p_cam[:2] / p_cam[2] - point[:2] / point[2]

    pan_right = trajectory((0, 20, 0))
    assert moved(pan_right)[0] < 0  # the picture slides to the left
    assert primitives(describe(pan_right)) == {"pan-right"}
    tilt_up = trajectory((12, 0, 0))
    assert moved(tilt_up)[1] > 0  # the picture slides down
    assert primitives(describe(tilt_up)) == {"tilt-up"}
    roll = trajectory((0, 0, 15))
    right_of_centre = np.array([1.0, 0.0, 5.0])
    last = roll.c2w_F44[5]
    p_cam = (right_of_centre @ roll.c2w_F44[0][:3, :3].T) @ last[:3, :3]
    assert p_cam[1] < 0  # the camera turns clockwise, so the picture turns counter-clockwise
    assert primitives(describe(roll)) == {"roll-CW"}


@pytest.mark.parametrize(
    ("turn", "travel", "labels"),
    [
        ((0, 20, 0), (0, 0, 0.4), {"pan-right", "dolly-in"}),
        ((12, -15, 0), (0, 0, 0), {"pan-left", "tilt-up"}),
        ((0, 0, 10), (0, -0.3, 0.3), {"roll-CW", "pedestal-up", "dolly-in"}),
        # a truck and a pan the same way are no arc: the axes never meet in front
        ((0, 20, 0), (0.4, 0, 0), {"pan-right", "truck-right"}),
    ],
)
def test_combinations(turn, travel, labels):
    assert primitives(describe(trajectory(turn, travel))) == labels


def orbit(degrees: float, frames: int = 90) -> Trajectory:
    """Round a point in view; positive degrees move the camera to the left."""
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    for i, angle in enumerate(np.linspace(0, np.deg2rad(degrees), frames)):
        R = Rotation.from_euler("y", angle).as_matrix()  # pan right …
        c2w[i, :3, :3], c2w[i, :3, 3] = R, R @ [0, 0, -DEPTH]  # … and keep the origin in view
    return with_poses(c2w)


@pytest.mark.parametrize(("degrees", "label"), [(60, "arc-CW"), (-60, "arc-CCW"), (250, "arc-CW")])
def test_arc(degrees, label):
    path = orbit(degrees)
    moved_left = (path.c2w_F44[5, :3, 3] - path.c2w_F44[0, :3, 3])[0] < 0
    assert moved_left == (label == "arc-CW")  # CameraBench: clockwise arcs to the left
    motion = describe(path)
    assert primitives(motion) == {label}
    assert motion.segments[0].arc_deg == pytest.approx(degrees, abs=2)


def test_two_motions_in_turn_become_two_segments():
    first = trajectory((0, 20, 0), frames=46)
    second = trajectory(travel_s=(0, 0, 0.5), frames=45)
    joint = first.c2w_F44[-1] @ np.linalg.inv(second.c2w_F44[0])
    path = with_poses(np.concatenate([first.c2w_F44, (joint @ second.c2w_F44)[1:]]))
    motion = describe(path)
    assert motion.segments[0].labels == ("pan-right",)
    assert motion.segments[-1].labels == ("dolly-in",)
    change = motion.segments[-1].first_frame
    assert abs(change - 45) <= 12  # within the smoothing window
    assert motion.segments[0].turn_deg[1] == pytest.approx(30, abs=6)
    assert sum(s.seconds for s in motion.segments) == pytest.approx(90 / FPS - 1 / FPS)
    spans = [(s.first_frame, s.last_frame) for s in motion.segments]
    assert spans[0][0] == 0
    assert spans[-1][1] == 89
    assert all(a[1] + 1 == b[0] for a, b in pairwise(spans))


def jittered(path: Trajectory, share_of_width: float, seed: int = 3) -> Trajectory:
    """White rotation noise that moves the picture by so much (RMS per axis)."""
    noise = np.random.default_rng(seed).normal(size=(len(path.times_F), 3))
    angle = noise * share_of_width * WIDTH / FOCAL * np.array([1, 1, 0])
    c2w = path.c2w_F44.copy()
    c2w[:, :3, :3] = c2w[:, :3, :3] @ Rotation.from_rotvec(angle).as_matrix()
    return with_poses(c2w)


@pytest.mark.parametrize(
    ("jitter", "label"),
    [(0.0, "no-shaking"), (0.002, "minimal-shaking"), (0.007, "unsteady"), (0.03, "very-unsteady")],
)
def test_steadiness(jitter, label):
    motion = describe(jittered(trajectory((0, 20, 0)), jitter))
    assert [n for n in motion.labels if n in v.STEADINESS] == [label]
    assert "pan-right" in motion.labels
    assert not primitives(motion) & {"truck-left", "truck-right", "dolly-in", "dolly-out"}


def test_static_and_static_with_shake():
    still = describe(trajectory())
    assert still.labels == ("static", "no-motion", "no-shaking")
    shaken = describe(jittered(trajectory(), 0.003))
    assert "no-motion" in shaken.labels
    assert "static" not in shaken.labels
    assert "minimal-shaking" in shaken.labels


def test_small_motion_is_minor():
    motion = describe(trajectory(travel_s=(0.06, 0, 0), frames=30))
    assert motion.labels[:2] == ("minor-motion", "truck-right")


@pytest.mark.parametrize(
    ("deg_s", "label"), [(4, "slow-speed"), (20, "regular-speed"), (70, "fast-speed")]
)
def test_speed(deg_s, label):
    assert label in describe(trajectory((0, deg_s, 0))).labels


def test_no_speed_or_shake_without_true_times():
    motion = describe(trajectory((0, 20, 0)), rate_known=False)
    assert not set(motion.labels) & {*v.SPEEDS, *v.STEADINESS}
    assert motion.speed is None
    assert "pan-right" in motion.labels


def test_rotation_only_never_says_travel():
    path = trajectory((0, 20, 0), (0, 0, 0.5), translation_observable=False, depth=None)
    motion = describe(path)
    assert primitives(motion) == {"pan-right"}
    assert motion.segments[0].travel == (0, 0, 0)


def test_without_a_scene_depth_travel_has_direction_but_no_speed():
    motion = describe(trajectory(travel_s=(0, 0, 0.3), depth=None))
    assert primitives(motion) == {"dolly-in"}
    assert not motion.travel_scaled
    assert motion.speed is None


def test_zoom_needs_a_focal_length_per_frame():
    frames = FRAMES
    path = trajectory(focal_F=FOCAL * 1.5 ** (np.arange(frames) / frames))
    motion = describe(path)
    assert primitives(motion) == {"zoom-in"}
    assert motion.zoom_observable
    assert not describe(trajectory()).zoom_observable


def test_unregistered_stretch_is_unknown_not_static():
    path = trajectory((0, 20, 0), frames=120)
    c2w = path.c2w_F44.copy()
    c2w[40:80] = np.nan
    motion = describe(with_poses(c2w))
    assert [s.known for s in motion.segments] == [True, False, True]
    assert motion.segments[1].labels == ()
    c2w = path.c2w_F44.copy()
    c2w[40:44] = np.nan  # a short gap is bridged
    assert [s.labels for s in describe(with_poses(c2w)).segments] == [("pan-right",)]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_clips(frames):
    motion = describe(trajectory((0, 30, 0), frames=frames, fps=5))
    assert [s.first_frame for s in motion.segments] == [0]
    assert motion.shake is None
    expected = set() if frames == 1 else {"pan-right"}
    assert primitives(motion) == expected


def test_no_pose_at_all():
    motion = describe(with_poses(np.full((10, 4, 4), np.nan)))
    assert motion.labels == ()
    assert [s.known for s in motion.segments] == [False]


def test_irregular_times_give_the_true_rate():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.02, 0.08, 50))
    c2w = np.tile(np.eye(4), (50, 1, 1))
    c2w[:, :3, :3] = Rotation.from_euler("y", np.deg2rad(25 * times)[:, None]).as_matrix()
    motion = measure(with_poses(c2w, times_F=times))
    assert motion.turn_F3[:, 1] == pytest.approx(25, abs=0.5)


def test_every_label_is_in_the_vocabulary():
    for path in (trajectory((5, 20, -9), (0.3, 0.2, 0.4)), orbit(90), trajectory()):
        assert set(describe(path).labels) <= v.VOCABULARY


def test_walking_with_a_lowered_camera_is_not_rising_and_not_rolling():
    """Camera pitched 30° down, carried level, turned about the vertical (as people do)."""
    frames = 90
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    for i, yaw in enumerate(np.deg2rad(np.linspace(0, 70, frames))):
        turn = Rotation.from_euler("y", yaw)
        c2w[i, :3, :3] = (turn * Rotation.from_euler("x", -np.deg2rad(30))).as_matrix()
        if i:
            c2w[i, :3, 3] = c2w[i - 1, :3, 3] + turn.apply([0, 0, 0.4 * DEPTH / FPS])
    motion = describe(with_poses(c2w))
    assert primitives(motion) == {"pan-right", "dolly-in"}
    assert motion.pitch_deg == pytest.approx(-30, abs=3)
