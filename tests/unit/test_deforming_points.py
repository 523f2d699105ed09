"""Objects that bend: rigid parts, as rigid as possible, against exact truth."""

from __future__ import annotations

import numpy as np
import pytest
from object_clips import ObjectClip, hinged, things

from dynamicverse.dynamicba.cameras.mapping import Tolerances
from dynamicverse.dynamicba.motion.contact import Anchor
from dynamicverse.dynamicba.motion.deforming_points import Rays, solve_deforming
from dynamicverse.dynamicba.motion.moving_objects import MovingObject, solve_objects
from dynamicverse.dynamicba.motion.object_scale import object_scale

FRAMES = 30
LIMITS = Tolerances(3.0, np.radians(1.0), 1.0)


def solve(clip: ObjectClip, noise: float = 0.03) -> MovingObject:
    anchors = clip.anchors(noise)
    (item,) = solve_objects(clip.tracks, clip.cameras, anchors, "prior", LIMITS, 100)
    return item


def errors(clip: ObjectClip, item: MovingObject) -> np.ndarray:
    seen = item.depth_FT > 0
    return np.abs(item.depth_FT / clip.depth_FN[:, item.track_T] - 1)[seen]


def flat_errors(clip: ObjectClip, item: MovingObject) -> np.ndarray:
    """With the depth of the object as a whole for every point."""
    seen = item.depth_FT > 0
    card_FT = np.broadcast_to(item.card_F[:, None], seen.shape)
    return np.abs(card_FT / clip.depth_FN[:, item.track_T] - 1)[seen]


def test_a_walking_figure_deforms() -> None:
    clip = things("figure", "handheld", FRAMES)
    item = solve(clip)
    assert item.model == "deforming"
    assert item.strain is not None
    assert 0 < item.strain < 0.2
    assert np.isnan(item.o2w_F44).all()
    assert np.median(errors(clip, item)) < 0.03
    assert np.median(errors(clip, item)) < np.median(flat_errors(clip, item))


def test_a_door_on_a_box_keeps_the_box_rigid() -> None:
    clip = hinged(FRAMES)
    item = solve(clip)
    assert np.median(errors(clip, item)) < 0.03
    assert np.median(errors(clip, item)) < 0.7 * np.median(flat_errors(clip, item))


def test_legs_that_leave_the_rigid_part_do_not_scale_it() -> None:
    """A figure 200 px high that stands 4 away, its part 2; the legs swing to 1.5 in the part."""
    rows = np.linspace(100.0, 290.0, 20)
    pixels_FT2 = np.tile(np.stack([np.full(20, 50.0), rows], 1), (6, 1, 1)).astype(np.float32)
    depth_FT = np.where(rows > 250, 1.5, 2.0) * np.ones((6, 1))
    stands = Anchor(np.array([[50.0, 300.0]]), np.array([4.0]))
    found = object_scale(depth_FT, pixels_FT2, [stands] * 6, 0.1, by_middle=True)
    assert found == pytest.approx((2.0, 0.0))
    nearest = object_scale(depth_FT, pixels_FT2, [stands] * 6, 0.1)
    assert nearest == pytest.approx((4 / 1.5, 0.0))  # right where the whole is rigid


def waving(frames: int = 20, side: int = 6) -> tuple[Rays, np.ndarray]:
    """A sheet that turns before a camera at the origin: sightings and true depths."""
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, side)] * 2), -1).reshape(-1, 2)
    rest = np.concatenate([grid, np.zeros((len(grid), 1))], 1)
    track, frame, ray, depth = [], [], [], []
    for t in range(len(rest)):
        for f in range(frames):
            angle = 0.06 * f - 0.5
            x, y, _ = rest[t]
            point = np.array([x * np.cos(angle) + 0.02 * f, y, 4 + x * np.sin(angle)])
            track.append(t)
            frame.append(f)
            ray.append(point / point[2])
            depth.append(point[2])
    count = len(track)
    rays = Rays(np.array(frame), np.array(track), np.zeros((count, 3)), np.array(ray), 400.0)
    return rays, np.array(depth)


def test_the_truth_is_a_fixed_point() -> None:
    rays, depth = waving()
    solved = solve_deforming(rays, depth, depth, np.full(len(depth), 0.05))
    np.testing.assert_allclose(solved.depth_S, depth, rtol=0.005)


def test_wrong_depths_are_smoothed_away() -> None:
    rays, depth = waving()
    rng = np.random.default_rng(0)
    noisy = depth * np.exp(rng.normal(0, 0.05, len(depth)))
    solved = solve_deforming(rays, noisy, noisy, np.full(len(depth), 0.05))
    before, after = (np.median(np.abs(d / depth - 1)) for d in (noisy, solved.depth_S))
    assert after < 0.45 * before


def test_depth_without_anchor_follows_the_others() -> None:
    rays, depth = waving()
    sigma = np.full(len(depth), 0.02)
    sigma[rays.frame_S % 2 == 1] = np.inf
    start = np.where(np.isinf(sigma), depth * 1.1, depth)
    solved = solve_deforming(rays, start, depth, sigma)
    assert np.median(np.abs(solved.depth_S / depth - 1)) < 0.01


def test_scale_does_not_matter() -> None:
    rays, depth = waving()
    sigma = np.full(len(depth), 0.05)
    rng = np.random.default_rng(0)
    start = depth * np.exp(rng.normal(0, 0.03, len(depth)))
    one = solve_deforming(rays, start, start, sigma)
    ten = solve_deforming(rays, 10 * start, 10 * start, sigma)
    np.testing.assert_allclose(ten.depth_S, 10 * one.depth_S, rtol=1e-3)
    assert ten.strain == pytest.approx(one.strain, rel=1e-2)
