"""Where moving objects stand, against the exact truth of rendered clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rendered import RenderedClip, render

from dynamicverse.dynamicba.motion import contact
from dynamicverse.dynamicba.motion.object_scale import object_scale

FRAMES = 10
LEVEL = np.array([[100, 0, 79.5], [0, 100, 40], [0, 0, 1.0]])  # of `ground`


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(FRAMES, (320, 192), "orbit", objects=4, seed=5, supersample=1)


def static_depth(clip: RenderedClip, frame: int) -> np.ndarray:
    """What a plane sweep would know: nothing on objects, nor in a margin around them."""
    depth_HW = clip.depth[frame].copy()
    moving = clip.masks[frame] > 0
    for shift in (-2, -1, 1, 2):
        moving = moving | np.roll(moving, shift, 0) | np.roll(moving, shift, 1)
    depth_HW[moving] = 0
    return depth_HW


def ground(height: int = 120, width: int = 160, horizon: int = 40) -> np.ndarray:
    """Depth of a flat floor one unit below a camera with a focal length of 100 px."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    depth = np.where(rows > horizon, 100 / np.maximum(rows - horizon, 1), 50)
    return np.tile(depth, (1, width)).astype(np.float32)


def with_object(depth: np.ndarray, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros(depth.shape, np.uint8)
    ids[rows, columns] = 1
    hidden = depth.copy()
    hidden[rows.start : rows.stop + 3, columns] = 0
    return ids, hidden


def test_contact_is_found_through_a_gap_below_the_mask() -> None:
    depth = ground()
    ids, hidden = with_object(depth, slice(50, 90), slice(60, 80))
    found = contact.contacts(ids, hidden, LEVEL)[1]
    assert found is not None
    assert found.depth_K == pytest.approx(depth[89, 60], rel=1e-3)


def test_contact_is_robust_to_wrong_ground_depth() -> None:
    depth = ground()
    ids, hidden = with_object(depth, slice(50, 90), slice(60, 80))
    hidden[95:98, 60:80] = 0.3
    found = contact.contacts(ids, hidden, LEVEL)[1]
    assert found is not None
    assert found.inverse == pytest.approx(1 / depth[89, 60], rel=0.05)


def tilted_ground(tilt: float, K: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Depth of a floor one unit below a camera that looks down by `tilt` radians."""
    row = np.mgrid[: shape[0], : shape[1]][0].astype(float)
    ray_y = (row - K[1, 2]) / K[1, 1]
    down = np.cos(tilt) * ray_y + np.sin(tilt)
    return np.where(down > 0.02, 1 / np.maximum(down, 0.02), 50).astype(np.float32)


def test_an_upright_object_is_nearer_above_where_the_camera_looks_down() -> None:
    K, tilt = np.array([[100, 0, 79.5], [0, 100, 59.5], [0, 0, 1.0]]), 0.3
    depth = tilted_ground(tilt, K, (120, 160))
    ids, hidden = with_object(depth, slice(30, 90), slice(70, 90))
    found = contact.contacts(ids, hidden, K)[1]
    assert found is not None
    # a wall that stands on the floor where the lowest pixels of the mask are
    foot = np.array([0.0, (89 - K[1, 2]) / K[1, 1], 1.0]) * depth[89, 79]
    wall = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    for row in (89, 60, 30):
        ray = np.array([0.0, (row - K[1, 2]) / K[1, 1], 1.0])
        z = (wall @ foot) / (wall @ ray)
        mine = 1 / (np.median(1 / found.depth_K) * found.upright(np.array([79.5, row])))
        assert mine == pytest.approx(z, rel=0.01)
    assert 1 / found.inverse < 0.95 * np.median(found.depth_K)  # its middle is nearer
    larger = found.enlarged(np.array([2.0, 2.0]))
    assert larger.inverse == pytest.approx(found.inverse)


def test_a_mask_that_ends_just_before_the_border_is_cut_off() -> None:
    ids, hidden = with_object(ground(), slice(50, 118), slice(60, 80))
    assert contact.contacts(ids, hidden, LEVEL)[1] is None


def test_an_object_cut_off_by_the_picture_has_no_contact() -> None:
    ids, hidden = with_object(ground(), slice(50, 120), slice(60, 80))
    assert contact.contacts(ids, hidden, LEVEL)[1] is None


def test_a_wall_below_is_no_ground() -> None:
    wall = np.full((120, 160), 4.0, np.float32)
    wall *= np.linspace(1.0, 1.2, 120, dtype=np.float32)[:, None]  # farther towards the bottom
    ids, hidden = with_object(wall, slice(50, 90), slice(60, 80))
    assert contact.contacts(ids, hidden, LEVEL)[1] is None


def test_without_depth_objects_are_known_but_not_placed() -> None:
    ids, hidden = with_object(ground(), slice(50, 90), slice(60, 80))
    assert contact.contacts(ids, None, LEVEL) == {1: None}
    assert contact.contacts(ids, np.zeros_like(hidden), LEVEL) == {1: None}


def test_what_bulges_is_nearer_than_where_it_stands() -> None:
    K, tilt, radius, centre_z = (
        np.array([[300, 0, 239.5], [0, 300, 179.5], [0, 0, 1.0]]),
        0.3,
        0.3,
        3.0,
    )
    depth = tilted_ground(tilt, K, (360, 480))
    down = np.array([0.0, np.cos(tilt), np.sin(tilt)])
    away = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    middle = (1 - radius) * down + centre_z * away  # of a ball on the floor one unit below
    row, column = np.mgrid[:360, :480].astype(float)
    ray = np.stack([(column - K[0, 2]) / 300, (row - K[1, 2]) / 300, np.ones_like(row)], -1)
    half = ray @ middle / np.sum(ray**2, -1)
    inside = half**2 - (middle @ middle - radius**2) / np.sum(ray**2, -1)
    near = np.where(inside > 0, half - np.sqrt(np.maximum(inside, 0)), 0)
    ids = (inside > 0).astype(np.uint8)
    found = contact.contacts(ids, np.where(ids > 0, 0, depth).astype(np.float32), K)[1]
    assert found is not None
    true = np.median(near[ids > 0])
    assert 1 / found.inverse == pytest.approx(true, rel=0.04)
    assert 1 / replace(found, bulge=0.0).inverse > 1.08 * true  # as far away as where it stands


def test_what_stands_on_all_of_its_width_does_not_bulge() -> None:
    ids, hidden = with_object(ground(), slice(50, 90), slice(60, 80))
    found = contact.contacts(ids, hidden, LEVEL)[1]
    assert found is not None
    assert abs(found.bulge) < 0.03


def test_a_rendered_contact_has_the_depth_of_the_front(clip: RenderedClip) -> None:
    errors = []
    for f in range(FRAMES):
        found = contact.contacts(clip.masks[f], static_depth(clip, f), clip.K)
        for instance, anchor in found.items():
            if anchor is not None:
                depth = clip.depth[f][clip.masks[f] == instance]
                errors.append(abs(1 / anchor.inverse / np.median(depth) - 1))
    assert len(errors) >= 4
    assert np.median(errors) < 0.03


def test_a_contact_that_jumps_is_replaced_by_its_neighbours() -> None:
    inverse_F = np.full(9, 0.5)
    inverse_F[4] = 0.9
    np.testing.assert_allclose(contact.steady_depth(inverse_F), 2.0)


def test_gaps_are_bridged_only_while_contacts_are_near_in_time() -> None:
    inverse_F = np.array([0.5] * 3 + [np.nan] * 20 + [0.25] * 3)
    depth_F = contact.steady_depth(inverse_F)
    assert np.isfinite(depth_F[:7]).all()
    assert np.isnan(depth_F[7:19]).all()
    assert np.isfinite(depth_F[19:26]).all()


def test_what_stands_in_few_frames_only_has_no_scale() -> None:
    pixels_FT2 = np.tile(np.array([[0, 0], [5, 0], [0, 5], [5, 5]], np.float32), (10, 1, 1))
    stands = contact.Anchor(np.array([[2.0, 2.0]]), np.array([2.0]))
    depth_FT = np.ones((10, 4))
    for seen in (1, 3):
        anchors = [stands] * seen + [None] * (10 - seen)
        found = object_scale(depth_FT, pixels_FT2, anchors, 0.1)
        assert found == (None if seen == 1 else pytest.approx((2.0, 0.0)))
