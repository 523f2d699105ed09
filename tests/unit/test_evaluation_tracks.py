"""TAP-Vid and flow scores: by hand, and against the definition written out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dynamicverse.evaluation.flow import flow_scores
from dynamicverse.evaluation.reference_cameras import refined_cameras
from dynamicverse.evaluation.reprojection import ReprojectionScores, carry, reprojection_scores
from dynamicverse.evaluation.tracking import THRESHOLDS, held, track_scores
from dynamicverse.geometry.lie import se3, se3_inverse, so3_exp
from dynamicverse.synthetic.scenes import Recipe, make_world
from dynamicverse.synthetic.truth import Truth

SIZE = (512, 128)


def case(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, [511, 127], (7, 9, 2))
    estimate = truth + rng.normal(0, 6, truth.shape)
    visible, seen = rng.random((7, 9)) < 0.8, rng.random((7, 9)) < 0.7
    return estimate, seen, truth, visible, rng.integers(0, 4, 9)


@pytest.mark.parametrize("protocol", ["first", "strided"])
def test_scores_by_definition(protocol: str) -> None:
    estimate, seen, truth, visible, query = case()
    shares, jaccards, agree = [], [], []
    for threshold in THRESHOLDS:
        hits = within = true = wrong = 0
        for n in range(9):
            for f in range(7):
                if f == query[n] or (protocol == "first" and f < query[n]):
                    continue
                dx = (estimate[f, n, 0] - truth[f, n, 0]) * 256 / SIZE[0]
                dy = (estimate[f, n, 1] - truth[f, n, 1]) * 256 / SIZE[1]
                near = np.hypot(dx, dy) < threshold
                true += visible[f, n]
                within += visible[f, n] and near
                hits += visible[f, n] and near and seen[f, n]
                wrong += seen[f, n] and not (visible[f, n] and near)
                agree.append(seen[f, n] == visible[f, n])
        shares.append(within / true)
        jaccards.append(hits / (true + wrong))
    found = track_scores(protocol, estimate, seen, truth, visible, query, SIZE)
    assert found.delta_avg == pytest.approx(np.mean(shares))
    assert found.average_jaccard == pytest.approx(np.mean(jaccards))
    assert found.occlusion_accuracy == pytest.approx(np.mean(agree))
    assert 0.1 < found.average_jaccard < found.delta_avg < 0.95


def test_a_point_three_px_off_by_hand() -> None:
    """3 px at 256×256 is within 4, 8 and 16 of the five thresholds."""
    truth = np.zeros((3, 1, 2))
    off = truth + np.array([3 * SIZE[0] / 256, 0])
    yes, query = np.ones((3, 1), bool), np.array([0])
    found = track_scores("first", off, yes, truth, yes, query, SIZE)
    assert found.delta_avg == pytest.approx(3 / 5)
    assert found.average_jaccard == pytest.approx(3 / 5)  # a false positive and a miss else
    unseen = track_scores("first", off, ~yes, truth, yes, query, SIZE)
    assert (unseen.average_jaccard, unseen.occlusion_accuracy) == (0, 0)
    assert unseen.delta_avg == pytest.approx(3 / 5)
    nowhere = track_scores("first", off * np.nan, ~yes, truth, yes, query, SIZE)
    assert nowhere.delta_avg == 0


def test_frames_before_the_query_count_only_when_strided() -> None:
    truth = np.zeros((4, 1, 2))
    estimate = truth.copy()
    estimate[0] = 100
    yes, query = np.ones((4, 1), bool), np.array([2])
    assert track_scores("first", estimate, yes, truth, yes, query, SIZE).delta_avg == 1
    strided = track_scores("strided", estimate, yes, truth, yes, query, SIZE)
    assert strided.delta_avg == pytest.approx(2 / 3)


def test_positions_are_held_where_nothing_is_seen() -> None:
    tracks = np.arange(10.0).reshape(5, 1, 2) @ np.eye(2)
    visible = np.array([0, 1, 0, 1, 0], bool)[:, None]
    found = held(tracks, visible)
    np.testing.assert_array_equal(found[:, 0, 0], [2, 2, 2, 6, 6])
    assert np.isnan(held(tracks, np.zeros((5, 1), bool))).all()


def test_what_cannot_be_compared() -> None:
    estimate, seen, truth, visible, query = case()
    for given, message in (
        (("last", estimate, seen, truth, visible, query, SIZE), "known: first"),
        (("first", estimate[1:], seen, truth, visible, query, SIZE), "frames and points"),
        (("first", estimate, seen, truth, visible, query * 0 + 6, SIZE), "after its query"),
    ):
        with pytest.raises(ValueError, match=message):
            track_scores(*given)


def test_flow_by_hand() -> None:
    truth = np.zeros((2, 3, 2))
    truth[..., 0] = [[0, 10, 100], [0, 10, 100]]
    estimate = truth.copy()
    estimate[0] += [[0, 2], [0, 4], [0, 4]]  # 4 px are 40 % of 10, but 4 % of 100
    estimate[1, 0] += [3, 4]
    valid = np.array([[1, 1, 1], [1, 1, 0]], bool)
    found = flow_scores([(estimate, truth, valid)])
    assert found.pixels == 5
    assert found.epe_px == pytest.approx((2 + 4 + 4 + 5 + 0) / 5)
    assert found.fl == pytest.approx(2 / 5)
    both = flow_scores([(estimate, truth, valid), (truth, truth, valid)])
    assert both.epe_px == pytest.approx(found.epe_px / 2)
    assert both.pairs == 2
    for fields, message in (
        ([(estimate[:1], truth, valid)], "flow of"),
        ([(estimate, truth, valid & False)], "no pixel"),
    ):
        with pytest.raises(ValueError, match=message):
            flow_scores(fields)


def test_exact_tracks_have_no_reprojection_error() -> None:
    world = make_world(Recipe("walk", 0, 13, (96, 64), objects=0))
    truth = Truth(world)
    exact = truth.tracks(step=6, interval=20)
    depth = [truth.view(f).render(1).depth_HW for f in range(13)]
    given = (exact.visibility_FN, world.c2w_F44, world.K_F33[0], depth.__getitem__)
    found = reprojection_scores(exact.tracks_FN2, *given)
    assert found.survival > 0.97  # depth of the nearest pixel, at edges another surface
    assert found.median_px < 0.2
    off = reprojection_scores(exact.tracks_FN2 + np.arange(13)[:, None, None] * [0.5, 0], *given)
    assert off.median_px == pytest.approx(8 * 0.5, abs=0.2)
    lost = exact.visibility_FN.copy()
    lost[8:, ::2] = False
    assert reprojection_scores(exact.tracks_FN2, lost, *given[1:]).survival == pytest.approx(
        0.5, abs=0.05
    )
    with pytest.raises(ValueError, match="over 20 frames"):
        reprojection_scores(exact.tracks_FN2, *given, span=20)


def test_what_is_hidden_or_out_of_the_picture_is_no_loss() -> None:
    """A camera that moves sideways past a wall; a screen comes before the middle of it."""
    K = np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    frames, wall, moved = 9, 5.0, 1.0  # m; the wall moves by 10 px of 40
    c2w_F44 = np.tile(np.eye(4), (frames, 1, 1))
    c2w_F44[:, 0, 3] = np.linspace(0, moved, frames)
    clear, screened = np.full((30, 40), wall, np.float32), np.full((30, 40), wall, np.float32)
    screened[:, 10:20] = 2.0
    x, y = np.meshgrid(np.arange(0.0, 40), np.arange(0.0, 30, 5))
    start_N2 = np.stack([x.ravel(), y.ravel()], axis=1)
    tracks_FN2 = start_N2 - np.linspace(0, 10, frames)[:, None, None] * [1, 0]
    x_N = tracks_FN2[-1, :, 0]
    out_N, hidden_N = x_N < 0, (x_N >= 10) & (x_N < 20)
    seen_FN = np.ones((frames, len(start_N2)), bool)
    seen_FN[4:, out_N | hidden_N] = False

    def scores(seen_FN: np.ndarray) -> ReprojectionScores:
        depth = [clear] * 8 + [screened]
        return reprojection_scores(tracks_FN2, seen_FN, c2w_F44, K, depth.__getitem__)

    assert scores(seen_FN).survival == 1
    assert scores(seen_FN).points == len(start_N2) - (out_N | hidden_N).sum()
    free = np.flatnonzero(~out_N & ~hidden_N)
    seen_FN[-1, free[::4]] = False  # these could be seen
    assert scores(seen_FN).survival == pytest.approx(0.75, abs=0.01)


def test_what_lies_behind_another_surface_is_not_compared() -> None:
    K = np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    wall = np.full((30, 40), 5.0, np.float32)
    target, seen = carry(np.array([[20.0, 15.0]]), np.eye(4), K, wall, wall)
    np.testing.assert_allclose(target, [[20, 15]])
    assert seen.all()
    for other in (0.5 * wall, 0 * wall):
        assert not carry(np.array([[20.0, 15.0]]), np.eye(4), K, wall, other)[1].any()


def test_cameras_that_are_off_are_refined_by_pictures_and_depth() -> None:
    count, rng = 6, np.random.default_rng(0)
    world = make_world(Recipe("walk", 0, count, (320, 192), objects=0))
    truth = Truth(world)
    frames = [truth.view(f).render(1) for f in range(count)]
    grey = [cv2.cvtColor(f.rgb_HW3, cv2.COLOR_RGB2GRAY) for f in frames]
    depth = [f.depth_HW for f in frames]
    given = world.c2w_F44 @ se3(
        so3_exp(rng.normal(0, np.radians(0.3), (count, 3))), rng.normal(0, 0.01, (count, 3))
    )
    K = world.K_F33[0]
    refined = refined_cameras(grey.__getitem__, depth.__getitem__, given, K)

    def off(c2w_F44: np.ndarray) -> float:
        """Median distance of pixels that both cameras carry from the first frame to the last."""
        pixels = np.stack(np.meshgrid(np.arange(8, 312, 8), np.arange(8, 184, 8)), -1)
        (one, known), (two, _) = (
            carry(pixels.reshape(-1, 2), se3_inverse(c[-1]) @ c[0], K, depth[0], depth[-1])
            for c in (world.c2w_F44, c2w_F44)
        )
        return float(np.median(np.linalg.norm(one - two, axis=1)[known]))

    assert off(given) > 1.0
    assert off(refined) < 0.25
