"""The test for motion along the epipolar lines, on exact flow of a rendered depth map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dynamicverse.backends.analysis.background import Background
from dynamicverse.backends.analysis.rigidity import Rigid, rigid_residuals

WIDTH, HEIGHT, FOCAL = 96, 64, 80.0
GAPS = (2, -2, 4, -4, 8, -8)
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
DEPTH = 4.0 + 2.0 * np.sin(X / 9) * np.cos(Y / 7) - Y / 32
MOVER = (abs(X - 48) < 10) & (abs(Y - 32) < 10)
Path = Callable[[int], float]  # gap → metres to the right


def camera(gap: int) -> float:
    return 0.03 * gap


def measure(mover: Path, gaps: tuple[int, ...] = GAPS) -> dict[int, Rigid]:
    """A camera that goes to the right and turns; the mover goes along its epipolar lines."""
    chains, backgrounds = {}, {}
    rays = np.linalg.solve(K, np.stack([X, Y, np.ones_like(X)], -1).reshape(-1, 3).T)
    points = rays * DEPTH.reshape(-1)
    rng = np.random.default_rng(0)
    for gap in gaps:
        angle = 0.004 * gap
        R = np.array(
            [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
        )
        shift = np.where(MOVER.reshape(-1), mover(gap), 0.0) - camera(gap)
        there = K @ (R @ (points + np.stack([shift, 0 * shift, 0 * shift])))
        ends = (there[:2] / there[2]).T.reshape(HEIGHT, WIDTH, 2)
        flow = ends - np.stack([X, Y], -1) + rng.normal(0, 0.02, ends.shape)
        chains[gap] = flow.astype(np.float32), np.ones((HEIGHT, WIDTH), bool)
        e = K @ R @ np.array([-camera(gap), 0, 0])
        H = K @ R @ np.linalg.inv(K)
        cross = np.array([[0, -e[2], e[1]], [e[2], 0, -e[0]], [-e[1], e[0], 0]])
        backgrounds[gap] = Background(H / H[2, 2], 0.1, cross @ H, 0.05)
    return rigid_residuals(chains, backgrounds, X, Y, seed=3)


def largest(found: dict[int, Rigid]) -> np.ndarray:
    return np.max([r.noises_HW for r in found.values()], axis=0)


def test_a_static_scene_of_any_shape_is_rigid() -> None:
    noises = largest(measure(lambda gap: 0.0))
    assert np.percentile(noises, 99) < 2


def test_what_changes_its_speed_along_the_lines_leaves_the_rigid_scene() -> None:
    found = measure(lambda gap: 0.02 * gap + 0.004 * gap * abs(gap))
    noises = largest(found)
    assert np.percentile(noises[MOVER], 20) > 4
    assert np.percentile(noises[~MOVER], 99) < 2
    # the offset leads back to where a rigid scene would have it: along the lines, mostly
    offset = found[8].offset_HW2[MOVER]
    assert np.median(abs(offset[:, 0])) > 10 * np.median(abs(offset[:, 1]))


def test_what_keeps_in_step_with_the_camera_looks_static() -> None:
    """The documented blind spot: it looks like a thing at another depth."""
    noises = largest(measure(lambda gap: -0.5 * camera(gap)))
    assert np.percentile(noises[MOVER], 90) < 3


def test_too_few_gaps_say_nothing() -> None:
    assert measure(lambda gap: 0.0, gaps=(2, 4)) == {}
    assert measure(lambda gap: 0.0, gaps=(1, -1, 2, -2)) == {}
