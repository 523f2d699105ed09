"""Depth refined by flow against planes with known cameras; frames worked on by threads."""

from __future__ import annotations

import time
from threading import Lock

import numpy as np
import pytest

from dynamicverse.cores import workers
from dynamicverse.dynamicba.bundle.lens import Lens, bend
from dynamicverse.dynamicba.cameras.picture_lens import straight_rays
from dynamicverse.dynamicba.dense.flow_refinement import FlowRefinement
from dynamicverse.dynamicba.frame_pool import Kept, in_order
from dynamicverse.geometry.lie import se3, so3_exp
from dynamicverse.geometry.projection import image_centre, intrinsics

SIZE, FRAMES = (160, 96), 6


class Plane:
    """A slanted plane before a camera that moves; exact depth and flow by intersection.

    focal_F: px; k1: of `lens.py`.
    """

    def __init__(self, focal_F: np.ndarray | None = None, k1: float = 0.0) -> None:
        s = np.arange(FRAMES)
        turn = np.stack([0.004 * s, -0.01 * s, 0.003 * s], 1)
        place = np.stack([0.2 * s, 0.02 * s, 0.04 * s], 1)
        self.c2w_F44 = se3(so3_exp(turn), place)
        focal_F = np.full(FRAMES, 150.0) if focal_F is None else focal_F
        self.K_F33 = np.stack([intrinsics(f, image_centre(SIZE)) for f in focal_F])
        self.k1 = k1
        self.normal, self.distance = np.array([0.2, -0.1, 1.0]), 4.0
        grid = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
        self.pixels_N2 = np.stack(grid, -1).reshape(-1, 2).astype(float)

    def depth(self, frame: int) -> np.ndarray:
        """(H,W)."""
        rays = straight_rays(self.pixels_N2, self.K_F33[frame], self.k1)
        world = rays @ self.c2w_F44[frame, :3, :3].T
        z = (self.distance - self.c2w_F44[frame, :3, 3] @ self.normal) / (world @ self.normal)
        return z.reshape(SIZE[::-1]).astype(np.float32)

    def flow(self, source: int, target: int) -> np.ndarray:
        """(H,W,2)."""
        rays = straight_rays(self.pixels_N2, self.K_F33[source], self.k1)
        local = rays * self.depth(source).reshape(-1, 1)
        c2w, w2c = self.c2w_F44[source], np.linalg.inv(self.c2w_F44[target])
        seen = (local @ c2w[:3, :3].T + c2w[:3, 3]) @ w2c[:3, :3].T + w2c[:3, 3]
        K = self.K_F33[target]
        ends = bend(K[0, 0] * seen[:, :2] / seen[:, 2:], K[0, 0], Lens(k1=self.k1)) + K[:2, 2]
        return (ends - self.pixels_N2).reshape(*SIZE[::-1], 2).astype(np.float32)

    def refinement(self, read: object = None) -> FlowRefinement:
        return FlowRefinement(self.c2w_F44, self.K_F33, self.k1, read or self.flow)


NOBODY = np.zeros(SIZE[::-1], np.uint8)


def wrong_depth(plane: Plane, frame: int) -> np.ndarray:
    """True depth times a smooth field, about 6 % off."""
    x = np.linspace(-1, 1, SIZE[0], dtype=np.float32)
    return plane.depth(frame) * np.exp(0.1 * x)[None]


def off(plane: Plane, frame: int, depth_HW: np.ndarray) -> np.ndarray:
    return np.abs(depth_HW / plane.depth(frame) - 1)


@pytest.mark.parametrize(
    "plane",
    [Plane(), Plane(k1=-0.12), Plane(focal_F=np.linspace(150, 170, FRAMES))],
    ids=["pinhole", "distortion", "zoom"],
)
@pytest.mark.parametrize("frame", [0, 2, 5])
def test_depth_agrees_with_the_flow(plane: Plane, frame: int) -> None:
    wrong = wrong_depth(plane, frame)
    found = plane.refinement().refine(frame, wrong, NOBODY, 0.03)
    inner = (slice(8, -8), slice(16, -16))
    assert off(plane, frame, wrong)[inner].mean() > 0.03
    assert off(plane, frame, found)[inner].mean() < 0.01


def test_moving_pixels_and_holes_stay_as_they_are() -> None:
    plane = Plane()
    ids = NOBODY.copy()
    ids[30:60, 40:90] = 2
    wrong = wrong_depth(plane, 2)
    wrong[70:80, 100:120] = 0
    found = plane.refinement().refine(2, wrong, ids, 0.03)
    np.testing.assert_array_equal(found[ids > 0], wrong[ids > 0])
    assert ((found == 0) == (wrong == 0)).all()


def test_flow_that_does_not_lead_back_has_no_say() -> None:
    plane = Plane()

    def astray(source: int, target: int) -> np.ndarray:
        flow = plane.flow(source, target)
        flow[20:50, 40:80] += 6.0  # both ways: there and back do not meet
        return flow

    found = plane.refinement(astray).refine(2, plane.depth(2), NOBODY, 0.03)
    assert off(plane, 2, found).mean() < 0.003


def test_noise_of_the_flow_is_averaged() -> None:
    plane, rng = Plane(), np.random.default_rng(0)
    noise = rng.normal(0, 0.3, (FRAMES, FRAMES, *SIZE[::-1], 2)).astype(np.float32)
    noisy = plane.refinement(lambda a, b: plane.flow(a, b) + noise[a, b])
    found = noisy.refine(3, wrong_depth(plane, 3), NOBODY, 0.03)
    assert off(plane, 3, found)[8:-8, 16:-16].mean() < 0.015


def test_without_flow_nothing_changes() -> None:
    plane = Plane()
    wrong = wrong_depth(plane, 1)
    found = plane.refinement(lambda a, b: None).refine(1, wrong, NOBODY, 0.03)
    np.testing.assert_array_equal(found, wrong)


def test_flow_that_was_read_ahead_is_the_same_and_not_read_again() -> None:
    plane, lock = Plane(), Lock()
    asked: list[tuple[int, int]] = []

    def read(source: int, target: int) -> np.ndarray:
        with lock:
            asked.append((source, target))
        return plane.flow(source, target)

    refinement = FlowRefinement(plane.c2w_F44, plane.K_F33, 0.0, read, ahead=20)
    with refinement.reading():
        pass
    there_and_back = {(i, j) for i in range(FRAMES) for j in (i - 1, i + 1) if 0 <= j < FRAMES}
    assert set(asked) == there_and_back
    found = refinement.refine(2, wrong_depth(plane, 2), NOBODY, 0.03)
    assert len(asked) == len(there_and_back)
    alone = plane.refinement().refine(2, wrong_depth(plane, 2), NOBODY, 0.03)
    np.testing.assert_array_equal(found, alone)


def test_flow_that_cannot_be_read_ahead_is_an_error_where_it_is_needed() -> None:
    plane = Plane()

    def read(source: int, target: int) -> np.ndarray:
        if {source, target} == {4, 5}:
            raise OSError("damaged")
        return plane.flow(source, target)

    refinement = FlowRefinement(plane.c2w_F44, plane.K_F33, 0.0, read, ahead=20)
    with refinement.reading():
        pass
    refinement.refine(1, wrong_depth(plane, 1), NOBODY, 0.03)
    with pytest.raises(OSError, match="damaged"):
        refinement.refine(4, wrong_depth(plane, 4), NOBODY, 0.03)


def test_frames_without_a_camera_are_passed_over() -> None:
    plane = Plane()
    known_F44 = plane.c2w_F44.copy()
    known_F44[3] = np.nan
    refinement = FlowRefinement(known_F44, plane.K_F33, 0.0, plane.flow)
    found = refinement.refine(2, wrong_depth(plane, 2), NOBODY, 0.03)
    assert off(plane, 2, found)[8:-8, 16:-16].mean() < 0.01


# threads


def test_results_come_in_order_and_only_a_few_ahead() -> None:
    lock, under_way, most = Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.001 * (item % 3))
        return item * item

    found = []
    for value in in_order(work, range(40)):
        found.append(value)
        with lock:
            under_way -= 1
    assert found == [i * i for i in range(40)]
    assert most <= workers() + 1


def test_an_error_of_a_frame_ends_the_work() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("frame 3")
        return item

    with pytest.raises(ValueError, match="frame 3"):
        list(in_order(work, range(1000)))


def test_a_value_is_loaded_once_and_forgotten_when_old() -> None:
    loads: list[int] = []

    def load(key: int) -> int:
        loads.append(key)
        return -key

    kept = Kept(load, 2)
    assert [kept(k) for k in (1, 2, 1, 3, 1, 2)] == [-1, -2, -1, -3, -1, -2]
    assert loads == [1, 2, 3, 2]


def test_a_load_that_failed_fails_for_everybody() -> None:
    def load(key: int) -> int:
        raise OSError("gone")

    kept = Kept(load, 2)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            kept(1)
