"""Depth of moving objects in a frame: from their own points, against exact truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rendered import RenderedClip, render

from dynamicverse.dynamicba.dense import dynamic_points
from dynamicverse.dynamicba.dense.dynamic_points import DynamicPoints
from dynamicverse.dynamicba.dense.fuse import FrameDepth
from dynamicverse.dynamicba.motion.moving_objects import MovingObject
from dynamicverse.formats.tracks import Tracks

FRAMES = 10


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(FRAMES, (320, 192), "orbit", objects=4, seed=5, supersample=1)


@pytest.fixture(scope="module")
def known(clip: RenderedClip) -> DynamicPoints:
    """Object 4 as a perfect solver would know it, and object 3 by its contact only."""
    exact = clip.tracks(step=3, interval=5)
    tracks = Tracks(
        exact.tracks_FN2,
        exact.visibility_FN,
        exact.visibility_FN.astype(np.float32),
        exact.query_frame_N,
        exact.instance_id_N,
        clip.size,
    )
    w2c_F44 = np.linalg.inv(clip.c2w_F44)
    mine = np.flatnonzero(exact.instance_id_N == 4)
    points_FT3 = exact.points_FN3[:, mine]
    z_FT = np.einsum("fj,ftj->ft", w2c_F44[:, 2, :3], points_FT3) + w2c_F44[:, 2, 3:]
    z_FT[~exact.visibility_FN[:, mine]] = 0
    nothing_F44 = np.full_like(clip.c2w_F44, np.nan)
    unknown_F = np.full(FRAMES, np.nan)
    others = np.flatnonzero(exact.instance_id_N == 3)
    empty = np.zeros((FRAMES, len(others)), np.float32)
    card_F = np.full(FRAMES, 4.5)
    return DynamicPoints(
        tracks,
        [
            MovingObject(3, "contact", "contact", others, empty, nothing_F44, card_F),
            MovingObject(
                4, "rigid", "contact", mine, z_FT.astype(np.float32), nothing_F44, unknown_F
            ),
        ],
    )


def view(clip: RenderedClip, frame: int) -> FrameDepth:
    sure = np.ones_like(clip.depth[frame])
    return FrameDepth(
        clip.rgb[frame], clip.depth[frame], sure, clip.masks[frame], clip.K, clip.c2w_F44[frame]
    )


def test_pixels_follow_the_points_of_their_own_object(
    clip: RenderedClip, known: DynamicPoints
) -> None:
    for frame in (0, 4, 9):
        ids = clip.masks[frame]
        depth, confidence = known.depth(frame, ids)
        own = ids == 4
        error = np.abs(depth[own] / clip.depth[frame][own] - 1)
        assert np.median(error) < 0.01
        assert np.quantile(error, 0.9) < 0.1  # an edge of the box, between the points
        assert (depth[ids == 3] == 4.5).all()  # one depth for an object without points
        assert not depth[(ids != 3) & (ids != 4)].any()
        assert ((confidence > 0) == (depth > 0)).all()


def test_an_outlying_point_does_not_bend_the_object(
    clip: RenderedClip, known: DynamicPoints
) -> None:
    item = known.objects[1]
    depth_FT = item.depth_FT.copy()
    depth_FT[0, np.flatnonzero(depth_FT[0])[::9]] *= 3
    bent = DynamicPoints(known.tracks, [replace(item, depth_FT=depth_FT)])
    own = clip.masks[0] == 4
    depth, _ = bent.depth(0, clip.masks[0])
    assert np.abs(depth[own] / clip.depth[0][own] - 1).max() < 0.2


def test_a_prior_is_moved_to_the_points_of_the_object(
    clip: RenderedClip, known: DynamicPoints
) -> None:
    ids = clip.masks[2]
    prior = clip.depth[2] * np.where(ids == 4, 1.3, 1.0).astype(np.float32)
    found = known.corrected(2, ids, prior)
    own = ids == 4
    assert np.median(np.abs(found[own] / clip.depth[2][own] - 1)) < 0.005
    np.testing.assert_array_equal(found[~own], prior[~own])


def test_world_points_of_tracks_lie_on_the_surface(
    clip: RenderedClip, known: DynamicPoints
) -> None:
    frame = 7
    exact = clip.tracks(step=3, interval=5)
    index, depth = known.points(frame)
    assert len(index) > 20
    pixels = known.tracks.tracks_FN2[frame, index]
    points = dynamic_points.in_world(pixels, depth, view(clip, frame))
    assert np.abs(points - exact.points_FN3[frame, index]).max() < 1e-3


def test_centres_follow_the_objects(clip: RenderedClip) -> None:
    truth_MF3 = clip.object_poses_MF44[:, :, :3, 3]
    for frame in (0, 3, 9):
        found = dynamic_points.centre(4, view(clip, frame))
        assert found is not None
        # the centre of what is seen: the front of a box of at most 0.6 m half extent
        assert np.linalg.norm(found - truth_MF3[3, frame]) < 0.75
    assert dynamic_points.centre(9, view(clip, 9)) is None


def test_what_depth_rests_on_is_said(known: DynamicPoints) -> None:
    rigid = known.objects[1]
    told = dynamic_points.about(
        [
            known.objects[0],
            replace(rigid, scale_source="none"),
            replace(rigid, instance=7, model="unknown", scale_source="none"),
        ]
    )
    assert any("stand on the ground" in s for s in told)
    assert any("rotation known: 4" in s for s in told)
    assert any("unknown" in s and s.endswith("7") for s in told)
    assert dynamic_points.about([]) == []
