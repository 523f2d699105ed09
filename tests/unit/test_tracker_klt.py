"""The KLT tracker against images moved by known maps, and its parts against hand-made cases."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from moving_clips import carried, moved, shift, texture, turn

from dynamicverse import backends
from dynamicverse.backends.tracker import TrackSet, affine, klt, seeding
from dynamicverse.backends.tracker.klt import KltTracker
from dynamicverse.backends.tracker.matching import Match, even, retry, step
from dynamicverse.backends.tracker.trackset import Samples, assemble
from dynamicverse.config import TracksConfig

H, W = 160, 240
MARGIN = 110  # px of texture around the view
GRID = TracksConfig(grid_size=16)


def track(frames: list[np.ndarray], settings: TracksConfig = GRID) -> TrackSet:
    done: list[int] = []
    tracks = KltTracker(settings).track(frames, done.append)
    assert done == list(range(1, len(frames) + 1))
    return tracks


def clip(path: Callable[[int], np.ndarray], count: int, seed: int = 0) -> list[np.ndarray]:
    """A view of a larger texture moved by path(frame), a homography of the view."""
    image = texture(seed, H + 2 * MARGIN, W + 2 * MARGIN)
    frames = []
    for frame in range(count):
        homography = shift(MARGIN, MARGIN) @ path(frame) @ shift(-MARGIN, -MARGIN)
        frames.append(moved(image, homography)[MARGIN:-MARGIN, MARGIN:-MARGIN])
    return frames


def errors(tracks: TrackSet, path: Callable[[int], np.ndarray]) -> np.ndarray:
    """Distance (F,N) from where the query position is carried to, px; NaN if not visible."""
    tracks_FN2, visible_FN, _ = tracks.dense(0, tracks.frame_count)
    error_FN = np.full(visible_FN.shape, np.nan)
    for query in np.unique(tracks.query_N):
        mine = tracks.query_N == query
        origin = carried(np.linalg.inv(path(query)), tracks_FN2[query, mine])
        for frame in range(tracks.frame_count):
            error = np.linalg.norm(tracks_FN2[frame, mine] - carried(path(frame), origin), axis=1)
            error_FN[frame, mine] = np.where(visible_FN[frame, mine], error, np.nan)
    return error_FN


def straight(step: int) -> np.ndarray:
    return shift(4.7 * step, -2.3 * step)


def large(step: int) -> np.ndarray:
    return shift(30.0 * (step % 2), 0.0)


def spiral(step: int) -> np.ndarray:
    return turn(2.0 * step, 1.02**step, (W / 2, H / 2))


@pytest.mark.parametrize(
    ("path", "count", "limit"),
    [(straight, 8, 0.1), (large, 6, 0.1), (spiral, 12, 0.15)],
)
def test_known_motion_is_followed_to_a_fraction_of_a_pixel(
    path: Callable[[int], np.ndarray], count: int, limit: float
) -> None:
    tracks = track(clip(path, count))
    error_FN = errors(tracks, path)
    known = np.isfinite(error_FN)
    assert len(tracks) > 60
    assert known[1:].sum() > 40 * (count - 1)
    assert np.median(error_FN[known]) < limit
    assert np.mean(error_FN[known] > 1.0) < 0.02


def test_errors_do_not_add_up() -> None:
    """Forty frames there and back: the first appearance holds the point in place."""

    def sway(step: int) -> np.ndarray:
        return turn(8 * np.sin(step / 6), 1 + 0.1 * np.sin(step / 9), (W / 2, H / 2))

    rng = np.random.default_rng(1)
    frames = [
        np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
        for frame in clip(sway, 40)
    ]
    tracks = track(frames, TracksConfig(grid_size=16, interval=40))
    error_FN = errors(tracks, sway)
    late = error_FN[35:]
    assert np.isfinite(late).sum() > 5 * 60
    assert np.nanmedian(late) < 0.15
    assert np.nanmean(late > 1.0) < 0.02


def test_brightness_and_contrast_may_change() -> None:
    frames = [
        np.clip(128 + (frame - 128.0) * (1 - 0.05 * i) + 4 * i, 0, 255).astype(np.uint8)
        for i, frame in enumerate(clip(straight, 8))
    ]
    error_FN = errors(track(frames), straight)
    assert np.isfinite(error_FN[-1]).sum() > 40
    assert np.nanmedian(error_FN) < 0.1


@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_exposure_may_jump(gain: float) -> None:
    """Local brightness and contrast are evened out before points are matched."""
    frames = [
        np.clip(frame * (gain if i % 2 else 1.0), 0, 255).astype(np.uint8)
        for i, frame in enumerate(clip(straight, 6))
    ]
    error_FN = errors(track(frames), straight)
    assert np.isfinite(error_FN[1:]).sum(axis=1).min() > 60
    assert np.nanmedian(error_FN) < 0.15


def test_what_the_coarse_flow_misses_is_found_by_its_neighbours() -> None:
    """Coarse flow may be wrong for a part of the picture whose surroundings it has right."""
    frames, truth_2 = clip(straight, 2), np.array([4.7, -2.3])
    grey = [even(np.ascontiguousarray(frame[..., 1])) for frame in frames]
    points = seeding.seeds(grey[0], np.zeros((0, 2), np.float32), 16, 25)

    def right(match: Match) -> float:
        off_K = np.linalg.norm(match.points_K2 - points - truth_2, axis=1)
        return float(np.mean((match.error_K < 1) & (off_K < 0.3)))

    wrong = np.full((H, W, 2), 25, np.float32)
    assert right(step(grey[0], grey[1], points, wrong, -wrong)) < 0.1
    expected = np.tile(np.float32([6, -4]), (len(points), 1))
    assert right(retry(grey[0], grey[1], points, expected)) > 0.9
    nothing = np.zeros((0, 2), np.float32)
    assert retry(grey[0], grey[1], nothing, nothing).error_K.shape == (0,)


def test_a_point_whose_step_fails_is_recognised_among_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither try gets a step right between x0 and x1; the first appearance is there, though."""
    x0, x1, frames = 90, 130, clip(lambda step: shift(2.0 * step, 0.0), 5)

    def spoilt(original: Callable[..., Match]) -> Callable[..., Match]:
        def found(
            source: np.ndarray, target: np.ndarray, points: np.ndarray, *rest: object
        ) -> Match:
            match = original(source, target, points, *rest)
            between = (points[:, 0] > x0) & (points[:, 0] < x1) & (points[:, 1] > 40)
            return Match(match.points_K2, np.where(between, np.inf, match.error_K))

        return found

    for name in ("step", "retry"):
        monkeypatch.setattr(klt, name, spoilt(getattr(klt, name)))
    tracks = track(frames)
    tracks_FN2, visible_FN, _ = tracks.dense(0, 5)
    x, y = tracks_FN2[0].T
    spoilt_N = (x > x0) & (x < x1 - 8) & (y > 50) & (y < H - 25)
    assert spoilt_N.sum() >= 6
    assert visible_FN[:, spoilt_N].mean() > 0.9
    error_FN = errors(tracks, lambda step: shift(2.0 * step, 0.0))
    assert np.nanmax(error_FN[:, spoilt_N]) < 0.3


def covered_clip(first: int, last: int, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A texture that moves by 1 px a frame; a patch covers part of it in some frames.

    Returns the frames and the (y0, y1, x0, x1) of the patch.
    """
    frames = clip(lambda step: shift(step, 0.0), count)
    patch = texture(99, H, W, sigma=3.0)
    box = np.array([40, 110, 60, 150])
    rows, columns = slice(*box[:2]), slice(*box[2:])
    for frame in range(first, last + 1):
        frames[frame][rows, columns] = patch[rows, columns]
    return frames, box


def behind(tracks: TrackSet, box: np.ndarray, margin: int, frame: int) -> np.ndarray:
    """Tracks seeded in frame 0 that the box covers in `frame`, (N) bool."""
    x, y = tracks.dense(0, 1)[0][0].T
    x = x + frame
    y0, y1, x0, x1 = box
    inside = (x > x0 + margin) & (x < x1 - margin) & (y > y0 + margin) & (y < y1 - margin)
    return inside & (tracks.query_N == 0)


def test_a_covered_point_is_invisible_and_keeps_its_identity() -> None:
    frames, box = covered_clip(first=4, last=6, count=10)
    tracks = track(frames, TracksConfig(grid_size=16, interval=20))
    tracks_FN2, visible_FN, confidence_FN = tracks.dense(0, 10)
    hidden_N = behind(tracks, box, 3, 4) & behind(tracks, box, 3, 6)
    assert hidden_N.sum() >= 10
    assert visible_FN[3, hidden_N].all()
    assert visible_FN[4:7, hidden_N].mean() < 0.05
    assert (confidence_FN[~visible_FN] == 0).all()
    held = tracks_FN2[4, hidden_N & ~visible_FN[4]]
    assert np.array_equal(held, tracks_FN2[3, hidden_N & ~visible_FN[4]])
    assert visible_FN[8, hidden_N].mean() > 0.7  # found again
    back_N = hidden_N & visible_FN[8]
    start = tracks_FN2[0, back_N]
    assert np.abs(tracks_FN2[8, back_N] - start - [8, 0]).max() < 0.5


def test_a_point_covered_for_long_ends() -> None:
    frames, box = covered_clip(first=3, last=8, count=12)
    settings = TracksConfig(grid_size=16, interval=20, max_gap=2)
    tracks = track(frames, settings)
    _, visible_FN, _ = tracks.dense(0, 12)
    hidden_N = behind(tracks, box, 3, 3) & behind(tracks, box, 3, 8)
    assert hidden_N.sum() >= 10
    assert visible_FN[3:, hidden_N].mean() < 0.05


def test_a_track_ends_at_the_image_border() -> None:
    tracks = track(clip(lambda step: shift(12.0 * step, 0.0), 10))
    tracks_FN2, visible_FN, _ = tracks.dense(0, 10)
    assert tracks_FN2[visible_FN].min() >= 0
    assert tracks_FN2[..., 0][visible_FN].max() <= W - 1
    right_N = (tracks_FN2[0, :, 0] > W - 40) & (tracks.query_N == 0)
    assert right_N.sum() > 3
    assert not visible_FN[5:, right_N].any()


def test_new_content_is_seeded_and_followed_back() -> None:
    """The texture enters from the left: what is new at frame 10 was in view before."""
    settings = TracksConfig(grid_size=16, interval=10)
    tracks = track(clip(lambda step: shift(6.0 * step - 100, 0.0), 12), settings)
    assert set(np.unique(tracks.query_N)) == {0, 10}
    later_N = tracks.query_N == 10
    assert later_N.sum() > 10
    assert (tracks.first_N[later_N] < 10).mean() > 0.8
    x_N = tracks.positions_M2[tracks.offsets_N1[:-1], 0]
    assert x_N[later_N].min() < 15  # the first sample is where it came into view


def test_live_tracks_are_not_seeded_again() -> None:
    still = [texture(3, H, W)] * 21
    tracks = track(still, TracksConfig(grid_size=16, interval=5))
    first = (tracks.query_N == 0).sum()
    assert first > 80
    assert len(tracks) <= first * 1.05
    assert (tracks.length_N[tracks.query_N == 0] == 21).mean() > 0.97


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_clips(count: int) -> None:
    tracks = track(clip(straight, count))
    assert len(tracks) > 60
    assert tracks.frame_count == count
    assert (tracks.query_N == 0).all()
    assert tracks.size == (W, H)


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (16, 200)])
def test_frames_too_small_or_too_flat_give_no_tracks(size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 90, np.uint8)
    assert len(track([flat, flat, flat])) == 0


def test_noise_alone_gives_no_long_tracks() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (H, W, 3), dtype=np.uint8) for _ in range(8)]
    tracks = track(frames)
    assert (tracks.visible_count_N() >= 3).sum() <= 2


def test_result_does_not_depend_on_threads_or_runs() -> None:
    frames = clip(spiral, 11)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = track(frames)
        cv2.setNumThreads(3)
        two = track(frames)
    finally:
        cv2.setNumThreads(before)
    for name, value in vars(one).items():
        assert np.array_equal(value, getattr(two, name)), name


def test_backend_is_registered() -> None:
    assert isinstance(backends.load("tracker", "klt", TracksConfig()), KltTracker)


# seeding


def test_texture_is_the_smaller_eigenvalue_in_grey_levels() -> None:
    y, x = np.mgrid[:100, :100].astype(np.float64)
    period = 15.0  # the window holds one period
    k = 2 * np.pi / period
    corner = 128 + 20 * np.sin(k * x) + 30 * np.sin(k * y)
    edge = 128 + 20 * np.sin(k * x)
    # mean squared gradient (A k)² / 2; the smaller belongs to the weaker wave. A 3×3
    # Sobel sees a sine of this period weaker by sin(k)/k along and (1+cos k)/2 across.
    sobel = (np.sin(k) / k) ** 2
    found = seeding.texture(np.rint(corner).astype(np.uint8))[30:70, 30:70]
    assert found == pytest.approx(np.full((40, 40), (20 * k) ** 2 / 2 * sobel), rel=0.1)
    assert seeding.texture(np.rint(edge).astype(np.uint8))[30:70, 30:70].max() < 0.05


def test_one_seed_a_cell_and_none_near_a_track() -> None:
    image = texture(0, H, W)[..., 0]
    taken = np.array([[100.0, 60.0], [33.0, 120.0]], np.float32)
    points = seeding.seeds(image, taken, 12, 11)  # cells of 20 px
    assert len(points) > 60
    cells = seeding.cells(points, (W, H), 20.0)
    assert (np.diff(cells) > 0).all()  # ordered, no two in one cell
    gaps = np.linalg.norm(points[:, None] - taken, axis=2)
    assert gaps.min() > 9
    assert points.min() >= 11
    assert (points <= np.array([W, H]) - 12).all()


def test_a_seed_is_the_best_corner_of_its_cell() -> None:
    image = np.full((60, 60), 100, np.uint8)
    image[20:, 30:] = 220  # one corner, two edges
    points = seeding.seeds(image, np.zeros((0, 2), np.float32), 1, 11)
    assert len(points) == 1
    assert np.abs(points[0] - [30, 20]).max() <= 4  # within the window around the corner


def test_flat_images_and_edges_are_not_seeded() -> None:
    nothing = np.zeros((0, 2), np.float32)
    flat = np.full((60, 80), 77, np.uint8)
    edge = flat.copy()
    edge[:, 40:] = 200
    assert len(seeding.seeds(flat, nothing, 8, 11)) == 0
    assert len(seeding.seeds(edge, nothing, 8, 11)) == 0


def test_of_points_in_one_place_the_first_ranked_stays() -> None:
    points = np.array([[10.2, 10.3], [10.9, 11.4], [40.0, 10.0]], np.float32)
    double = seeding.duplicates(points, np.array([5, 2, 9]), 2.0)
    assert double.tolist() == [True, False, False]


def test_neighbour_motion_is_the_median_of_the_nearest() -> None:
    known = np.array([[0, 0], [1, 0], [0, 1], [100, 100]], np.float32)
    motion = np.array([[5, 0], [5, 2], [9, 1], [-50, -50]], np.float32)
    here = np.zeros((1, 2), np.float32)
    found, apart = seeding.neighbour_motion(here, known, motion, neighbours=3)
    assert found.tolist() == [[5.0, 1.0]]
    assert apart.tolist() == [1.0]  # of 1, 1 and 4
    few, apart = seeding.neighbour_motion(here, known, motion, neighbours=5)
    assert few.tolist() == [[0.0, 0.0]]
    assert np.isinf(apart).all()
    nothing = np.zeros((0, 2), np.float32)
    still, apart = seeding.neighbour_motion(known, nothing, nothing)
    assert still.tolist() == [[0, 0]] * 4
    assert np.isinf(apart).all()
    assert seeding.neighbour_motion(nothing, known, motion)[0].shape == (0, 2)


# affine templates


def test_alignment_finds_the_warp() -> None:
    image = texture(7, H, W)[..., 0]
    homography = turn(6.0, 1.06, (W / 2, H / 2))
    points = seeding.seeds(image, np.zeros((0, 2), np.float32), 12, 25)
    wanted = affine.templates(affine.smooth(image), points)
    truth = carried(homography, points).astype(np.float32)
    target = affine.smooth(moved(texture(7, H, W), homography)[..., 0])
    guess = truth + np.random.default_rng(0).uniform(-1, 1, truth.shape).astype(np.float32)
    still = np.tile(np.eye(2, dtype=np.float32), (len(points), 1, 1))
    found, warp, similarity = affine.align(target, wanted, guess, still, 10)
    error = np.linalg.norm(found - truth, axis=1)
    assert np.median(error) < 0.05
    assert np.median(np.abs(warp - homography[:2, :2])) < 0.01
    assert np.median(similarity) > 0.98


def test_similarity_of_something_else_is_low() -> None:
    image, other = texture(7, H, W)[..., 0], texture(8, H, W)[..., 0]
    points = seeding.seeds(image, np.zeros((0, 2), np.float32), 12, 25)
    wanted = affine.templates(affine.smooth(image), points)
    still = np.tile(np.eye(2, dtype=np.float32), (len(points), 1, 1))
    assert affine.align(affine.smooth(image), wanted, points, still, 0)[2].min() > 0.999
    elsewhere = affine.align(affine.smooth(other), wanted, points, still, 0)[2]
    assert np.abs(elsewhere).mean() < 0.4
    flat = affine.align(np.full((H, W), 50, np.float32), wanted, points, still, 3)
    assert (flat[2] == 0).all()


def test_search_finds_what_moved_and_sees_repetition() -> None:
    image = texture(7, H, W)[..., 0]
    points = seeding.seeds(image, np.zeros((0, 2), np.float32), 12, 30)
    smoothed = affine.smooth(image)
    wanted = affine.templates(smoothed, points)
    still = np.tile(np.eye(2, dtype=np.float32), (len(points), 1, 1))
    found, rival = affine.search(smoothed, wanted, points + np.float32([4, -6]), still)
    assert np.abs(found - points).max() < 1e-3
    assert np.median(rival) < 0.9
    x = np.arange(W)
    stripes = affine.smooth(np.tile(128 + 100 * np.sin(np.pi * x / 4), (H, 1)).astype(np.uint8))
    centre = np.array([[100.0, 80.0]], np.float32)
    _, rival = affine.search(stripes, affine.templates(stripes, centre), centre, still[:1])
    assert rival[0] > 0.99


# the sparse form


def sample(frame: int, *rows: tuple[int, float, float, float]) -> Samples:
    ids, x, y, confidence = (np.array(column) for column in zip(*rows, strict=True))
    positions = np.stack([x, y], axis=1).astype(np.float32)
    return Samples(frame, ids.astype(np.int64), positions, confidence.astype(np.float32))


def example() -> TrackSet:
    """Track 0: frames 0, 1, 3; track 2: frames 2, 1 (backwards); id 1 never seen."""
    return assemble(
        [
            sample(0, (0, 1.0, 2.0, 0.5)),
            sample(1, (0, 3.0, 4.0, 0.6)),
            sample(2, (2, 7.0, 7.0, 1.0)),
            sample(1, (2, 6.0, 6.0, 0.9)),
            sample(3, (0, 5.0, 6.0, 0.7)),
        ],
        np.array([0, 0, 2], np.int32),
        frame_count=5,
        size=(20, 10),
    )


def test_samples_become_tracks_with_gaps() -> None:
    tracks = example()
    assert len(tracks) == 2
    assert tracks.query_N.tolist() == [0, 2]
    assert tracks.first_N.tolist() == [0, 1]
    assert tracks.length_N.tolist() == [4, 2]
    assert tracks.visible_count_N().tolist() == [3, 2]
    assert tracks.visible_M.tolist() == [True, True, False, True, True, True]
    assert tracks.positions_M2[2].tolist() == [3.0, 4.0]  # held
    assert tracks.confidence_M[2] == 0
    assert tracks.first_N.tolist() == [0, 1]
    assert tracks.offsets_N1.tolist() == [0, 4, 6]


def test_dense_holds_positions_outside_the_span() -> None:
    tracks_FN2, visible_FN, confidence_FN = example().dense(0, 5)
    assert visible_FN.T.tolist() == [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0]]
    assert tracks_FN2[:, 0].tolist() == [[1, 2], [3, 4], [3, 4], [5, 6], [5, 6]]
    assert tracks_FN2[:, 1].tolist() == [[6, 6], [6, 6], [7, 7], [7, 7], [7, 7]]
    expected = np.array([[0.5, 0.6, 0, 0.7, 0], [0, 0.9, 1, 0, 0]], np.float32)
    assert np.array_equal(confidence_FN.T, expected)
    part = example().dense(1, 3)
    assert np.array_equal(part[0], tracks_FN2[1:3])
    assert np.array_equal(part[1], visible_FN[1:3])


def test_select_reorders_tracks() -> None:
    tracks = example()
    swapped = tracks.select(np.array([1, 0]))
    for found, expected in zip(swapped.dense(0, 5), tracks.dense(0, 5), strict=True):
        assert np.array_equal(found, expected[:, ::-1])
    assert swapped.query_N.tolist() == [2, 0]
    assert len(tracks.select(np.zeros(0, np.int64))) == 0


def test_no_samples_no_tracks() -> None:
    tracks = assemble([], np.zeros(0, np.int32), 3, (20, 10))
    assert len(tracks) == 0
    assert [array.shape for array in tracks.dense(0, 3)] == [(3, 0, 2), (3, 0), (3, 0)]
