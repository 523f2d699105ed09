"""Dense static depth against the exact depth of rendered clips and brute-force oracles."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from rendered import RenderedClip, render

from dynamicverse.config import DenseConfig
from dynamicverse.dynamicba.dense import semiglobal, sweep
from dynamicverse.dynamicba.dense.agreement import DepthView, agree
from dynamicverse.dynamicba.dense.densify import Densifier, WorkSize
from dynamicverse.dynamicba.dense.scaling import scale_field
from dynamicverse.dynamicba.dense.upsample import upsample
from dynamicverse.dynamicba.dense.views import SparsePoints, View, choose_views, depth_range

SIZE = (208, 120)
FRAMES = 11
SETTINGS = DenseConfig(work_size=208, neighbours=4)


class ClipFrames:
    def __init__(self, clip: RenderedClip) -> None:
        self.clip = clip

    def rgb(self, frame: int) -> np.ndarray:
        return self.clip.rgb[frame]

    def ids(self, frame: int) -> np.ndarray:
        return self.clip.masks[frame]


@pytest.fixture(scope="module")
def clip() -> RenderedClip:
    return render(FRAMES, SIZE, "orbit", objects=1, seed=3, supersample=1)


def sparse(clip: RenderedClip) -> SparsePoints:
    exact = clip.tracks(step=12, interval=6)
    static_N = exact.instance_id_N == 0
    return SparsePoints(exact.points_FN3[0], exact.visibility_FN & static_N)


def densify(
    clip: RenderedClip, scratch: Path, settings: DenseConfig = SETTINGS
) -> tuple[Densifier, list[View]]:
    count = clip.frame_count
    K_F33 = np.tile(clip.K, (count, 1, 1))
    views = choose_views(
        sparse(clip), clip.c2w_F44, np.ones(count, bool), settings.neighbours, settings.reach
    )
    densifier = Densifier(ClipFrames(clip), clip.size, clip.c2w_F44, K_F33, settings, scratch)
    densifier.match(views, lambda done, total: None)
    for view in views:
        densifier.confirm(view)
    return densifier, views


@pytest.fixture(scope="module")
def dense(clip: RenderedClip, tmp_path_factory: pytest.TempPathFactory) -> Densifier:
    return densify(clip, tmp_path_factory.mktemp("dense"))[0]


# semi-global matching


def slow_aggregate(cost: np.ndarray, guide: np.ndarray, p1: int, p2: int) -> np.ndarray:
    """The recursion of the paper, one pixel at a time."""
    height, width, count = cost.shape
    total = np.zeros(cost.shape, np.int64)
    for dy, dx in product((-1, 0, 1), repeat=2):
        if dy == dx == 0:
            continue
        path: dict[tuple[int, int], np.ndarray] = {}
        rows = range(height) if dy >= 0 else range(height - 1, -1, -1)
        columns = range(width) if dx >= 0 else range(width - 1, -1, -1)
        for y in rows:
            for x in columns:
                before = path.get((y - dy, x - dx))
                here = cost[y, x].astype(np.int64)
                if before is None:
                    path[y, x] = here
                else:
                    # a row's penalty follows the vertical step, as in the module
                    previous = guide[y - dy, x] if dy else guide[y, x - dx]
                    jump = max(int(p2 / (1 + abs(guide[y, x] - previous) / 12.0)), p1 + 1)
                    least = before.min()
                    best = [
                        min(
                            before[d],
                            before[d - 1] + p1 if d else 10**6,
                            before[d + 1] + p1 if d + 1 < count else 10**6,
                            least + jump,
                        )
                        - least
                        for d in range(count)
                    ]
                    path[y, x] = here + np.array(best)
                total[y, x] += path[y, x]
    return total


def test_aggregation_equals_the_recursion_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    cost = rng.integers(0, semiglobal.COST_RANGE, (5, 6, 7), np.uint8, endpoint=True)
    guide = rng.integers(0, 255, (6, 7)).astype(np.float32)
    found = semiglobal.aggregate(cost, guide, 9, 85)
    np.testing.assert_array_equal(found, slow_aggregate(cost.transpose(1, 2, 0), guide, 9, 85))


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 3, 5), (3, 5, 4), (4, 1, 2), (2, 6, 1)])
def test_aggregation_of_pictures_of_any_shape(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    cost = np.where(rng.random(shape) < 0.5, 0, semiglobal.COST_RANGE).astype(np.uint8)
    guide = np.zeros(shape[1:], np.float32)
    found = semiglobal.aggregate(cost, guide, 11, 80)
    np.testing.assert_array_equal(found, slow_aggregate(cost.transpose(1, 2, 0), guide, 11, 80))


def test_winner_finds_the_minimum_of_a_parabola_between_hypotheses() -> None:
    truth = np.array([[3.3, 6.75], [4.0, 1.2]])
    total = np.rint(100 * (np.arange(10) - truth[..., None]) ** 2).astype(np.int16)
    best = semiglobal.winner(total)
    np.testing.assert_allclose(best.position_HW, truth, atol=0.01)


def test_an_ambiguous_minimum_is_less_distinct_than_a_clear_one() -> None:
    total = np.full((1, 2, 12), 200, np.int16)
    total[0, :, 3] = 20
    total[0, 1, 9] = 22
    distinct = semiglobal.winner(total).distinct_HW
    assert distinct[0, 0] == pytest.approx(0.9)
    assert distinct[0, 1] < 0.1


# the sweep


def picture(clip: RenderedClip, frame: int, usable: np.ndarray | None = None) -> sweep.Picture:
    grey = clip.rgb[frame].mean(2).astype(np.uint8)
    return sweep.Picture(grey, sweep.normalise(grey), usable, clip.K, clip.c2w_F44[frame])


def test_transfer_follows_the_exact_flow_of_static_pixels(clip: RenderedClip) -> None:
    A, b = sweep.transfer(picture(clip, 0), picture(clip, 5))
    flow_HW2, _ = clip.flow(0, 5)
    rows, columns = np.nonzero(clip.masks[0] == 0)
    rows, columns = rows[::97], columns[::97]
    ends = A @ np.stack([columns, rows, np.ones(len(rows))])
    ends = ends + b[:, None] / clip.depth[0][rows, columns]
    moved = (ends[:2] / ends[2]).T - np.stack([columns, rows], 1)
    np.testing.assert_allclose(moved, flow_HW2[rows, columns], atol=2e-3)


def test_the_true_depth_costs_less_than_others(clip: RenderedClip) -> None:
    inverse_D = np.linspace(0.05, 0.5, 40)
    others = [picture(clip, f) for f in (3, 8)]
    volume = sweep.cost_volume(picture(clip, 5), others, inverse_D, 5)
    assert volume.min() >= 0
    assert volume.max() <= semiglobal.COST_RANGE
    true_HW = np.abs(inverse_D - 1 / clip.depth[5][..., None]).argmin(2)
    at_truth = np.take_along_axis(volume, true_HW[None], 0)[0]
    static = clip.masks[5] == 0
    assert np.median(at_truth[static]) < 0.5 * np.median(volume[:, static])


def test_what_no_neighbour_sees_says_nothing(clip: RenderedClip) -> None:
    hidden = np.zeros(SIZE[::-1], np.uint8)
    volume = sweep.cost_volume(
        picture(clip, 5), [picture(clip, 3, hidden)], np.linspace(0.1, 0.5, 16), 5
    )
    assert (volume == semiglobal.COST_RANGE // 2).all()


def test_a_hypothesis_behind_the_other_camera_says_nothing(clip: RenderedClip) -> None:
    ahead = picture(clip, 0)
    moved = clip.c2w_F44[0].copy()
    moved[:3, 3] += 5 * moved[:3, 2]  # five metres forward
    volume = sweep.cost_volume(ahead, [replace(ahead, c2w=moved)], 1 / np.array([2.0, 3.0, 4.0]), 5)
    assert (volume == semiglobal.COST_RANGE // 2).all()


# views


def test_neighbours_have_parallax_and_lie_on_both_sides(clip: RenderedClip) -> None:
    views = choose_views(sparse(clip), clip.c2w_F44, np.ones(FRAMES, bool), 4, 16)
    middle = views[6]
    assert len(middle.neighbours) == 4
    assert min(middle.neighbours) < 6 < max(middle.neighbours)
    assert all(abs(f - 6) > 1 for f in middle.neighbours)  # one frame apart: too little parallax
    static = clip.depth[6][clip.masks[6] == 0]
    assert middle.near < np.percentile(static, 2)
    assert middle.far > np.percentile(static, 98)


def test_neighbours_on_a_side_do_not_see_the_same() -> None:
    count = 25
    points_N3 = np.random.default_rng(0).uniform((-20, -3, 25), (20, 3, 40), (300, 3))
    c2w_F44 = np.tile(np.eye(4), (count, 1, 1))
    c2w_F44[:, 0, 3] = 0.1 * np.arange(count)  # sideways: the farther away, the more parallax
    points = SparsePoints(points_N3, np.ones((count, 300), bool))
    middle = choose_views(points, c2w_F44, np.ones(count, bool), 4, 24)[12]
    before, after = ([n for n in middle.neighbours if (n < 12) == side] for side in (True, False))
    assert len(before) == len(after) == 2
    assert abs(before[0] - before[1]) >= 3
    assert abs(after[0] - after[1]) >= 3


def test_reach_limits_the_neighbours(clip: RenderedClip) -> None:
    views = choose_views(sparse(clip), clip.c2w_F44, np.ones(FRAMES, bool), 4, 3)
    assert all(abs(n - v.frame) <= 3 for v in views for n in v.neighbours)


def test_frames_that_are_not_registered_are_neither_views_nor_neighbours(
    clip: RenderedClip,
) -> None:
    registered = np.ones(FRAMES, bool)
    registered[[2, 7]] = False
    views = choose_views(sparse(clip), clip.c2w_F44, registered, 4, 16)
    assert [v.frame for v in views] == list(np.flatnonzero(registered))
    assert all(registered[n] for v in views for n in v.neighbours)


def test_without_parallax_there_is_nobody_to_match_with(clip: RenderedClip) -> None:
    still = np.tile(clip.c2w_F44[:1], (FRAMES, 1, 1))
    points = sparse(clip)
    seen = SparsePoints(points.points_N3, np.tile(points.visible_FN[:1], (FRAMES, 1)))
    assert all(not v.neighbours for v in choose_views(seen, still, np.ones(FRAMES, bool), 4, 16))


def test_too_few_points_give_no_depth_range() -> None:
    assert depth_range(np.array([[0, 0, 2.0]] * 3), np.eye(4)) is None


# depth of a clip


def test_depth_of_a_rendered_clip(clip: RenderedClip, dense: Densifier) -> None:
    errors, covered = [], []
    for frame in range(FRAMES):
        depth_HW, _ = dense.confirmed(frame)
        static = clip.masks[frame] == 0
        known = static & (depth_HW > 0)
        errors.append(np.abs(depth_HW - clip.depth[frame])[known] / clip.depth[frame][known])
        covered.append(known.sum() / static.sum())
    assert np.median(np.concatenate(errors)) < 0.01
    assert np.mean(np.concatenate(errors) < 0.05) > 0.95
    assert np.mean(covered) > 0.8


def test_confident_pixels_are_more_accurate(clip: RenderedClip, dense: Densifier) -> None:
    errors, confidences = [], []
    for frame in range(FRAMES):
        depth_HW, confidence_HW = dense.confirmed(frame)
        known = depth_HW > 0
        errors.append(np.abs(depth_HW / clip.depth[frame] - 1)[known])
        confidences.append(confidence_HW[known])
    error, confidence = np.concatenate(errors), np.concatenate(confidences)
    low, high = np.quantile(confidence, [0.25, 0.75])
    assert error[confidence > high].mean() < 0.5 * error[confidence < low].mean()
    assert 0 < confidence.min() <= confidence.max() <= 1


def test_moving_pixels_get_no_static_depth(clip: RenderedClip, dense: Densifier) -> None:
    for frame in range(FRAMES):
        depth_HW, confidence_HW = dense.confirmed(frame)
        assert not depth_HW[clip.masks[frame] > 0].any()
        assert not confidence_HW[depth_HW == 0].any()


def test_the_same_clip_gives_the_same_bits(
    clip: RenderedClip, dense: Densifier, tmp_path: Path
) -> None:
    again, _ = densify(clip, tmp_path)
    for frame in range(FRAMES):
        for first, second in zip(dense.confirmed(frame), again.confirmed(frame), strict=True):
            np.testing.assert_array_equal(first, second)


def test_filling_reaches_as_far_as_configured_and_not_onto_objects(
    clip: RenderedClip, dense: Densifier, tmp_path: Path
) -> None:
    filled, _ = densify(clip, tmp_path, SETTINGS.model_copy(update={"fill": 4}))
    before, _ = dense.confirmed(6)
    after, confidence = filled.confirmed(6)
    new = (before == 0) & (after > 0)
    assert new.any()
    assert (after[before > 0] == before[before > 0]).all()
    assert confidence[new].max() < 0.1
    assert not after[clip.masks[6] > 0].any()
    rows, columns = np.nonzero(before > 0)
    for row, column in np.argwhere(new)[::40]:
        assert np.hypot(rows - row, columns - column).min() <= 4.2


def test_a_view_without_neighbours_knows_nothing(clip: RenderedClip, tmp_path: Path) -> None:
    K_F33 = np.tile(clip.K, (FRAMES, 1, 1))
    alone = Densifier(ClipFrames(clip), SIZE, clip.c2w_F44, K_F33, SETTINGS, tmp_path)
    view = View(0, (), 0.0, 0.0)
    alone.match([view], lambda done, total: None)
    assert not alone.confirm(view).any()


def test_intrinsics_of_the_working_size_project_to_the_same_place() -> None:
    size = WorkSize.of((640, 360), 320)
    K = np.array([[500, 0, 319.5], [0, 500, 179.5], [0, 0, 1.0]])
    assert size.work == (320, 180)
    pixel = size.intrinsics(K) @ np.array([0.1, -0.2, 1.0])
    full = K @ np.array([0.1, -0.2, 1.0])
    np.testing.assert_allclose(pixel[:2], (full[:2] + 0.5) / 2 - 0.5)


# agreement


def flat(depth: float, x: float = 0.0) -> DepthView:
    K = np.array([[40, 0, 19.5], [0, 40, 14.5], [0, 0, 1.0]])
    c2w = np.eye(4)
    c2w[0, 3] = x
    inverse = np.full((30, 40), 1 / depth, np.float32)
    return DepthView(inverse, np.ones_like(inverse), 0.01, K, c2w)


def test_a_depth_that_others_contradict_is_dropped() -> None:
    reference, others = flat(2.0), [flat(2.0, 0.1), flat(2.0, -0.1)]
    reference.inverse_HW[10:15, 10:15] = 1 / 3.0
    depth, confidence = agree(reference, others, 2)
    assert not depth[10:15, 10:15].any()
    assert not confidence[10:15, 10:15].any()
    np.testing.assert_allclose(depth[20:25, 10:30], 2.0, rtol=1e-6)


def test_depth_outside_the_other_views_is_not_confirmed() -> None:
    depth, _ = agree(flat(2.0), [flat(2.0, 0.5)], 1)  # the other sees 10 px to the right
    assert not depth[:, :9].any()
    assert (depth[:, 12:] > 0).all()


def test_agreeing_views_are_averaged() -> None:
    depth, _ = agree(flat(2.0), [flat(2.02, 0.1)], 1)
    np.testing.assert_allclose(1 / depth[15, 20], (1 / 2.0 + 1 / 2.02) / 2, rtol=1e-5)


# full size


def step_scene() -> tuple[np.ndarray, np.ndarray]:
    """Near half dark, far half bright; the edge lies between samples of the small map."""
    depth_hw = np.full((24, 32), 4.0, np.float32)
    depth_hw[:, :16] = 1.0
    rgb = np.full((72, 96, 3), 220, np.uint8)
    rgb[:, :47] = 20
    return depth_hw, rgb


def test_upsampling_invents_no_depth_between_the_sides_of_an_edge() -> None:
    depth_hw, rgb = step_scene()
    depth, confidence = upsample(depth_hw, np.ones_like(depth_hw), rgb)
    assert set(np.unique(depth)) == {np.float32(1), np.float32(4)}
    assert (confidence == 1).all()


def test_upsampled_edges_follow_the_picture() -> None:
    depth_hw, rgb = step_scene()
    depth, _ = upsample(depth_hw, np.ones_like(depth_hw), rgb)
    assert (depth[:, 46] == 1).all()
    assert (depth[:, 47] == 4).all()


def test_upsampling_is_exact_on_a_plane() -> None:
    x_W = (np.arange(96) + 0.5) / 3 - 0.5
    x_w = np.arange(32)
    small = np.tile((1 / (0.3 + 0.002 * x_w)).astype(np.float32), (24, 1))
    depth, _ = upsample(small, np.ones_like(small), np.zeros((72, 96, 3), np.uint8))
    np.testing.assert_allclose(depth[10, 3:-3], 1 / (0.3 + 0.002 * x_W[3:-3]), rtol=1e-5)


def test_holes_stay_holes() -> None:
    small = np.full((24, 32), 2.0, np.float32)
    small[8:16, 8:16] = 0
    depth, confidence = upsample(
        small, (small > 0) * np.float32(0.7), np.zeros((72, 96, 3), np.uint8)
    )
    assert not depth[27:45, 27:45].any()
    assert not confidence[depth == 0].any()
    np.testing.assert_allclose(depth[depth > 0], 2.0)


# with a prior


def test_a_prior_takes_the_scale_of_the_control_points() -> None:
    prior = np.linspace(1, 3, 80 * 60, dtype=np.float32).reshape(60, 80)
    field = np.tile(np.linspace(1.5, 2.5, 80), (60, 1))
    ys, xs = np.mgrid[4:60:6, 4:80:6].reshape(2, -1)
    pixels = np.stack([xs, ys], 1).astype(float)
    depth = scale_field(prior, pixels, (prior * field)[ys, xs].astype(float)).scaled(prior)
    error = np.abs(depth / (prior * field) - 1)
    assert np.median(error) < 0.02
    assert error.max() < 0.1


def test_wrong_control_points_do_not_spoil_a_prior() -> None:
    prior = np.full((60, 80), 2.0, np.float32)
    ys, xs = np.mgrid[4:60:6, 4:80:6].reshape(2, -1)
    depths = np.full(len(xs), 6.0)
    depths[::10] = 40.0
    depth = scale_field(prior, np.stack([xs, ys], 1).astype(float), depths).scaled(prior)
    np.testing.assert_allclose(depth, 6.0, rtol=1e-5)


def test_a_prior_without_control_points_is_kept_and_its_holes_too() -> None:
    prior = np.full((60, 80), 2.0, np.float32)
    prior[:10] = 0
    depth = scale_field(prior, np.zeros((0, 2)), np.zeros(0)).scaled(prior)
    np.testing.assert_array_equal(depth, prior)
    points = np.array([[5.0, 5.0], [40.0, 40.0]])
    scaled = scale_field(prior, points, np.array([9.0, 4.0])).scaled(prior)
    assert not scaled[:10].any()
    np.testing.assert_allclose(scaled[10:], 4.0, rtol=1e-5)  # the point in the hole is not used


def test_control_points_that_agree_make_a_prior_surer() -> None:
    prior, rng = np.full((60, 80), 2.0, np.float32), np.random.default_rng(0)
    pixels = rng.uniform(2, 57, (400, 2))
    sigmas = []
    for noise in (0.0, 0.01, 0.05):
        depth = 3.0 * np.exp(rng.normal(0, noise, 400)) * (1 + 1e-3 * rng.random(400))
        sigmas.append(scale_field(prior, pixels, depth).sigma)
    assert sigmas[0] < sigmas[1] < sigmas[2]
    np.testing.assert_allclose(sigmas[1:], [0.01, 0.05], rtol=0.2)
    assert scale_field(prior, np.zeros((0, 2)), np.zeros(0)).sigma > sigmas[2]
