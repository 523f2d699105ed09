"""Fusing depth maps into clouds: merging, bounds, edges, offsets."""

from __future__ import annotations

import numpy as np
import pytest
from rendered import RenderedClip, render

from dynamicverse.config import FuseConfig
from dynamicverse.dynamicba.assemble import Assembler
from dynamicverse.dynamicba.dense import fuse
from dynamicverse.dynamicba.dense.depth_sources import Clip
from dynamicverse.dynamicba.dense.fuse import FrameDepth, MovingClouds, StaticCloud
from dynamicverse.dynamicba.dense.views import SparsePoints
from dynamicverse.formats.tracks import Tracks


def add(cloud: StaticCloud, points: object, rgb: object = (9, 9, 9), weight: object = 1.0) -> None:
    points_N3 = np.atleast_2d(np.asarray(points, np.float32))
    rgbs_N3 = np.broadcast_to(np.asarray(rgb, np.uint8), points_N3.shape)
    confidence_N = np.broadcast_to(np.float32(weight), len(points_N3))
    cloud.add(fuse.Cloud(points_N3, rgbs_N3, confidence_N))


def test_duplicates_merge_with_their_confidence_as_weight() -> None:
    cloud = StaticCloud(1.0, 100)
    add(cloud, [0.2, 0.2, 0.2], (0, 0, 0), 0.25)
    add(cloud, [0.6, 0.2, 0.2], (200, 100, 40), 0.75)
    add(cloud, [1.5, 0.2, 0.2], (7, 8, 9), 0.5)
    found = cloud.result()
    np.testing.assert_allclose(found.points_N3, [[0.5, 0.2, 0.2], [1.5, 0.2, 0.2]], atol=1e-6)
    assert found.rgbs_N3.tolist() == [[150, 75, 30], [7, 8, 9]]
    np.testing.assert_allclose(found.confidence_N, [0.75, 0.5])


def test_voxels_on_either_side_of_zero_are_different() -> None:
    cloud = StaticCloud(1.0, 100)
    add(cloud, [[-0.1, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert len(cloud.result().points_N3) == 2


def test_points_without_confidence_are_ignored() -> None:
    cloud = StaticCloud(1.0, 100)
    add(cloud, [[0.5, 0.5, 0.5]], weight=0.0)
    assert len(cloud.result().points_N3) == 0


def test_the_number_of_points_is_bounded_by_larger_voxels() -> None:
    rng = np.random.default_rng(0)
    cloud = StaticCloud(0.001, 500)
    add(cloud, rng.uniform(-1, 1, (5000, 3)))
    found = cloud.result()
    assert 100 < len(found.points_N3) <= 500
    assert cloud.voxel > 0.001
    assert np.abs(found.points_N3).max() <= 1


def test_far_points_are_counted_not_wrapped() -> None:
    cloud = StaticCloud(1e-3, 100)
    add(cloud, [[0, 0, 5000.0], [0, 0, 1.0]])
    assert len(cloud.result().points_N3) == 1
    assert cloud.dropped == 1


def test_the_result_does_not_depend_on_when_the_buffer_is_merged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    parts = rng.uniform(-1, 1, (20, 200, 3))
    clouds = []
    for size in (10**6, 300):
        monkeypatch.setattr(fuse, "BUFFER", size)
        cloud = StaticCloud(0.1, 10**6)
        for part in parts:
            add(cloud, part, weight=0.5)
        clouds.append(cloud.result())
    np.testing.assert_allclose(clouds[0].points_N3, clouds[1].points_N3, atol=1e-5)


def test_the_steepest_edges_are_dropped() -> None:
    depth = np.full((40, 60), 2.0, np.float32)
    depth[:, 30:] = 5.0
    depth[:3] = 0
    found = fuse.steep(depth, 0.05)
    assert found[3:, 29:31].all()
    assert found.sum() == 2 * 37
    assert not fuse.steep(np.zeros((5, 5), np.float32), 0.05).any()


def test_lifting_inverts_projection() -> None:
    clip = render(1, (64, 40), "orbit", objects=0, supersample=1)
    frame = FrameDepth(
        clip.rgb[0],
        clip.depth[0],
        np.ones((40, 64), np.float32),
        clip.masks[0],
        clip.K,
        clip.c2w_F44[0],
    )
    points, rgbs, index = fuse.lift(frame, np.ones((40, 64), bool), 3)
    row, column = np.divmod(index, 64)
    assert (row % 3 == 1).all()
    camera = (points - clip.c2w_F44[0, :3, 3]) @ clip.c2w_F44[0, :3, :3]
    pixels = (camera / camera[:, 2:]) @ clip.K.T
    np.testing.assert_allclose(pixels[:, :2], np.stack([column, row], 1), atol=1e-3)
    np.testing.assert_array_equal(rgbs, clip.rgb[0][row, column])


def test_moving_clouds_keep_frames_apart_and_bounded() -> None:
    clouds = MovingClouds(3, 30)
    for count in (4, 0, 50):
        clouds.add(
            np.full((count, 3), count, np.float32),
            np.zeros((count, 3), np.uint8),
            np.full(count, 2, np.int32),
        )
    points, rgbs, instances, offsets = clouds.result()
    assert offsets.tolist() == [0, 4, 4, 14]
    assert len(points) == len(rgbs) == len(instances) == 14
    assert (points[:4] == 4).all()
    assert (points[4:] == 50).all()
    assert clouds.step(10) == 2
    assert clouds.step(1000) == 10


# a whole clip


def scene_clip(rendered: RenderedClip, registered: np.ndarray) -> Clip:
    exact = rendered.tracks(step=16, interval=4)
    tracks = Tracks(
        exact.tracks_FN2,
        exact.visibility_FN,
        exact.visibility_FN.astype(np.float32),
        exact.query_frame_N,
        exact.instance_id_N,
        rendered.size,
    )
    static_N = exact.instance_id_N == 0
    return Clip(
        None,  # type: ignore[arg-type]
        tracks,
        SparsePoints(exact.points_FN3[0], exact.visibility_FN & static_N),
        np.where(registered[:, None, None], rendered.c2w_F44, np.nan),
        np.tile(rendered.K, (len(registered), 1, 1)),
        registered,
    )


@pytest.fixture(scope="module")
def rendered() -> RenderedClip:
    return render(6, (160, 96), "orbit", objects=1, seed=2, supersample=1)


def assemble(rendered: RenderedClip, registered: np.ndarray, known: bool = True):
    clip = scene_clip(rendered, registered)
    assembler = Assembler(clip, FuseConfig())
    for f in range(rendered.frame_count):
        depth = (rendered.depth[f], np.full_like(rendered.depth[f], 0.8)) if known else None
        assembler.add(f, rendered.rgb[f], rendered.masks[f], depth)
    return assembler.result()


def distance_to_room(rendered: RenderedClip, points: np.ndarray) -> np.ndarray:
    """Smallest distance of world points to the surface of a static box or of the room."""
    best = np.full(len(points), np.inf)
    for body in rendered.truth.world.bodies:
        if not body.instance:
            o2w = body.o2w(0)
            half = body.mesh.vertices_V3.max(0)
            local = np.abs((points - o2w[:3, 3]) @ o2w[:3, :3]) - half
            outside = np.linalg.norm(np.maximum(local, 0), axis=1)
            best = np.minimum(best, np.where(local.max(1) > 0, outside, -local.max(1)))
    return best


def test_the_static_cloud_lies_on_the_static_surfaces(rendered: RenderedClip) -> None:
    scene = assemble(rendered, np.ones(6, bool))
    samples = 6 * 160 * 96
    assert 2000 < len(scene.static.points_N3) < 0.7 * samples  # merged
    distance = distance_to_room(rendered, scene.static.points_N3.astype(float))
    assert np.quantile(distance, 0.99) < 0.05
    assert scene.dropped == 0


def test_moving_points_are_kept_apart_by_frame(rendered: RenderedClip) -> None:
    scene = assemble(rendered, np.ones(6, bool))
    assert scene.ids_M.tolist() == [1]
    truth_F3 = rendered.object_poses_MF44[0, :, :3, 3]
    for f in range(6):
        own = scene.moving_points_Q3[scene.offsets[f] : scene.offsets[f + 1]]
        assert len(own) > 20
        half = rendered.truth.world.bodies[-1].mesh.vertices_V3.max(0)
        assert np.linalg.norm(own - truth_F3[f], axis=1).max() < np.linalg.norm(half) + 0.02
        assert np.linalg.norm(scene.centres_MF3[0, f] - truth_F3[f]) < 0.7
    assert (scene.moving_instance_Q == 1).all()


def test_frames_without_camera_add_nothing(rendered: RenderedClip) -> None:
    registered = np.ones(6, bool)
    registered[[1, 4]] = False
    scene = assemble(rendered, registered)
    assert scene.offsets[2] == scene.offsets[1]
    assert np.isnan(scene.centres_MF3[0, [1, 4]]).all()
    assert np.isfinite(scene.centres_MF3[0, [0, 2, 3, 5]]).all()


def test_without_depth_the_scene_is_empty_but_names_its_objects(rendered: RenderedClip) -> None:
    scene = assemble(rendered, np.ones(6, bool), known=False)
    assert len(scene.static.points_N3) == len(scene.moving_points_Q3) == 0
    assert scene.offsets.tolist() == [0] * 7
    assert scene.ids_M.tolist() == [1]
    assert np.isnan(scene.centres_MF3).all()


def test_the_same_clip_gives_the_same_scene(rendered: RenderedClip) -> None:
    first, second = (assemble(rendered, np.ones(6, bool)) for _ in range(2))
    np.testing.assert_array_equal(first.static.points_N3, second.static.points_N3)
    np.testing.assert_array_equal(first.static.rgbs_N3, second.static.rgbs_N3)
    np.testing.assert_array_equal(first.moving_points_Q3, second.moving_points_Q3)
