"""Moving objects placed by ground contact, against the exact truth of rendered clips."""

from __future__ import annotations

import numpy as np
import pytest
from rendered import RenderedClip, render

from dynamicverse.dynamicba import dynamic_points
from dynamicverse.dynamicba.dynamic_points import ObjectDepths
from dynamicverse.formats.tracks import Tracks

FRAMES = 10


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
    found = dynamic_points.contacts(ids, hidden)
    assert found[1] == pytest.approx(1 / depth[89, 60], rel=1e-3)


def test_contact_is_robust_to_wrong_ground_depth() -> None:
    depth = ground()
    ids, hidden = with_object(depth, slice(50, 90), slice(60, 80))
    hidden[95:98, 60:80] = 0.3
    found = dynamic_points.contacts(ids, hidden)
    assert found[1] == pytest.approx(1 / depth[89, 60], rel=0.05)


def test_an_object_cut_off_by_the_picture_has_no_contact() -> None:
    ids, hidden = with_object(ground(), slice(50, 120), slice(60, 80))
    assert np.isnan(dynamic_points.contacts(ids, hidden)[1])


def test_a_wall_below_is_no_ground() -> None:
    wall = np.full((120, 160), 4.0, np.float32)
    wall *= np.linspace(1.0, 1.2, 120, dtype=np.float32)[:, None]  # farther towards the bottom
    ids, hidden = with_object(wall, slice(50, 90), slice(60, 80))
    assert np.isnan(dynamic_points.contacts(ids, hidden)[1])


def test_without_depth_objects_are_known_but_not_placed() -> None:
    ids, hidden = with_object(ground(), slice(50, 90), slice(60, 80))
    assert np.isnan(dynamic_points.contacts(ids, None)[1])
    assert np.isnan(dynamic_points.contacts(ids, np.zeros_like(hidden))[1])
    placed = dynamic_points.place([{1: float("nan")}] * 4)
    assert placed.without_depth == [1]
    assert not placed.at(2).any()


def test_rendered_objects_get_the_depth_of_their_front(clip: RenderedClip) -> None:
    found = [dynamic_points.contacts(clip.masks[f], static_depth(clip, f)) for f in range(FRAMES)]
    placed = dynamic_points.place(found)
    checked = 0
    for row, instance in enumerate(placed.ids_M):
        for frame in np.flatnonzero(np.isfinite(placed.depth_MF[row])):
            depth = clip.depth[frame][clip.masks[frame] == instance]
            assert placed.depth_MF[row, frame] == pytest.approx(np.median(depth), rel=0.05)
            checked += 1
    assert checked >= 6


def test_a_contact_that_jumps_is_replaced_by_its_neighbours() -> None:
    series = [{3: 0.5} for _ in range(9)]
    series[4] = {3: 0.9}
    placed = dynamic_points.place(series)
    np.testing.assert_allclose(placed.depth_MF[0], 2.0)


def test_gaps_are_bridged_only_while_contacts_are_near_in_time() -> None:
    nan = float("nan")
    series = [{2: 0.5}] * 3 + [{2: nan}] * 20 + [{2: 0.25}] * 3 + [{}]
    depth_F = dynamic_points.place(series).depth_MF[0]
    assert np.isfinite(depth_F[:7]).all()
    assert np.isnan(depth_F[7:19]).all()
    assert np.isfinite(depth_F[19:26]).all()
    assert np.isnan(depth_F[26])  # not in the picture


def test_depth_table_holds_only_what_is_known() -> None:
    objects = ObjectDepths(np.array([1, 7], np.int32), np.array([[2.0, np.nan], [3.0, 4.0]]))
    assert objects.at(0)[[0, 1, 7]].tolist() == [0, 2, 3]
    assert objects.at(1)[[0, 1, 7]].tolist() == [0, 0, 4]
    assert objects.without_depth == []


def test_centres_follow_the_objects(clip: RenderedClip) -> None:
    truth_MF3 = clip.object_poses_MF44[:, :, :3, 3]
    for frame in (0, 3, 9):
        ids = clip.masks[frame]
        found = dynamic_points.centre(4, ids, clip.depth[frame], clip.c2w_F44[frame], clip.K)
        assert found is not None
        # the centre of what is seen: the front of a box of at most 0.6 m half extent
        assert np.linalg.norm(found - truth_MF3[3, frame]) < 0.75
    assert dynamic_points.centre(9, ids, clip.depth[9], clip.c2w_F44[9], clip.K) is None


def test_track_points_lie_on_the_moving_surfaces(clip: RenderedClip) -> None:
    exact = clip.tracks(step=6, interval=5)
    tracks = Tracks(
        exact.tracks_FN2,
        exact.visibility_FN,
        exact.visibility_FN.astype(np.float32),
        exact.query_frame_N,
        exact.instance_id_N,
        clip.size,
    )
    frame = 7
    points, index = dynamic_points.track_points(
        tracks, frame, clip.masks[frame], clip.depth[frame], clip.c2w_F44[frame], clip.K
    )
    assert len(index) > 20
    assert (exact.instance_id_N[index] > 0).all()
    error = np.linalg.norm(points - exact.points_FN3[frame, index], axis=1)
    assert np.median(error) < 0.02
    unknown = np.zeros_like(clip.depth[frame])
    none, _ = dynamic_points.track_points(
        tracks, frame, clip.masks[frame], unknown, clip.c2w_F44[frame], clip.K
    )
    assert len(none) == 0
