"""Tracks, cameras and flow of real clips against their ground truth.

Tracks are made once a clip: their tests and those of the cameras that come from them (focal length
unknown) are in one file, so that one process runs them.

The poses and depth of `hololens` are themselves off by a pixel or two over several frames
(an essential matrix fits the tracks far better than they do), so the limits on the distance
to them are loose; the epipolar distance is the sharp one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from dynamicverse.backends.flow.consistency import consistency
from dynamicverse.backends.flow.dis import DisFlow
from dynamicverse.backends.tracker import TrackSet
from dynamicverse.backends.tracker.klt import KltTracker
from dynamicverse.config import KeyframesConfig, ReconstructionConfig, TracksConfig
from dynamicverse.dynamicba.cameras.solve import CameraSolution, solve_cameras
from dynamicverse.dynamicba.dense.depth_sources import Clip, swept_depth
from dynamicverse.dynamicba.dense.views import SparsePoints
from dynamicverse.evaluation.depth import depth_scores
from dynamicverse.formats import images
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.stages.tracks import choose

pytestmark = pytest.mark.data
SPAN = 8  # frames


class Folder:
    """Frames of a folder, by name."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        if not folder.is_dir():
            pytest.skip(f"no clip: {folder} is absent")
        self.files = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))[:limit]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, frame: int) -> np.ndarray:
        return images.read_rgb(self.files[frame])


class Truth:
    """Poses and depth of hololens: where a pixel of one frame is in another."""

    def __init__(self, folder: Path) -> None:
        self.K = np.loadtxt(folder / "K.txt")
        self.c2w_F44 = np.loadtxt(folder / "poses.txt").reshape(-1, 4, 4)
        self.depth_files = sorted((folder / "depth").iterdir())

    @cache  # noqa: B019
    def depth(self, frame: int) -> np.ndarray:
        millimetres = cv2.imread(str(self.depth_files[frame]), cv2.IMREAD_UNCHANGED)
        return millimetres.astype(np.float32) / 1000

    def transfer(
        self, source: int, target: int, points_N2: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N,2) in the target frame, and where they are known and seen (N)."""
        z_N = self._read(self.depth(source), points_N2)
        rays_N3 = np.concatenate([points_N2, np.ones((len(points_N2), 1))], axis=1)
        points_N3 = rays_N3 @ np.linalg.inv(self.K).T * z_N[:, None]
        move = np.linalg.inv(self.c2w_F44[target]) @ self.c2w_F44[source]
        moved_N3 = points_N3 @ move[:3, :3].T + move[:3, 3]
        depth_N = np.maximum(moved_N3[:, 2], 1e-3)
        target_N2 = (moved_N3 @ self.K.T)[:, :2] / depth_N[:, None]
        surface_N = self._read(self.depth(target), target_N2)
        seen_N = (z_N > 0.1) & (surface_N > 0.1) & (np.abs(surface_N - depth_N) < 0.05 * depth_N)
        return target_N2, seen_N

    @staticmethod
    def _read(depth_HW: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
        height, width = depth_HW.shape
        x, y = np.rint(points_N2).astype(np.int64).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        value = depth_HW[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return np.where(inside, value, 0)


def epipolar_distance(first_N2: np.ndarray, second_N2: np.ndarray) -> np.ndarray:
    """Sampson distance to the fundamental matrix that fits best, px."""
    F, _ = cv2.findFundamentalMat(first_N2, second_N2, cv2.USAC_MAGSAC, 1.0, 0.9999, 10_000)
    one, two = (np.concatenate([p, np.ones((len(p), 1))], axis=1) for p in (first_N2, second_N2))
    line_two, line_one = one @ F.T, two @ F
    norm = np.sqrt((line_two[:, :2] ** 2).sum(axis=1) + (line_one[:, :2] ** 2).sum(axis=1))
    return np.abs((two * line_two).sum(axis=1)) / norm


def pairs(tracks: TrackSet, span: int) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Every fourth frame: (frame, positions then, positions `span` later, still visible)."""
    tracks_FN2, visible_FN, _ = tracks.dense(0, tracks.frame_count)
    found = []
    for frame in range(0, tracks.frame_count - span, 4):
        now = visible_FN[frame]
        later = frame + span
        then_N2 = tracks_FN2[frame, now].astype(np.float64)
        found.append((frame, then_N2, tracks_FN2[later, now], visible_FN[later, now]))
    return found


@cache
def track(folder: Path, limit: int | None = None) -> TrackSet:
    return KltTracker(TracksConfig()).track(Folder(folder, limit), lambda done: None)


def static_tracks(folder: Path, limit: int | None = None) -> Tracks:
    settings = TracksConfig()
    found = choose(track(folder, limit), settings.min_length, settings.max_cells)
    dense = found.dense(0, found.frame_count)
    static_N = np.full(len(found), -1, np.int32)
    return Tracks(*dense, found.query_N, static_N, size=found.size)


def solve(folder: Path, limit: int | None = None) -> CameraSolution:
    return solve_cameras(static_tracks(folder, limit), ReconstructionConfig())


class Still:
    """Frames of a folder in which nothing moves."""

    def __init__(self, folder: Path) -> None:
        self.frames = Folder(folder)

    def rgb(self, frame: int) -> np.ndarray:
        return self.frames[frame]

    def ids(self, frame: int) -> np.ndarray:
        return np.zeros(self.frames[frame].shape[:2], np.uint8)


def depth_of_some_frames(
    folder: Path, found: CameraSolution, step: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, depth) of every `step`-th frame, from these alone."""
    tracks = static_tracks(folder)
    some_F = found.registered_F & (np.arange(len(found.registered_F)) % step == 0)
    frames = Still(folder)
    clip = Clip(
        frames,
        tracks,
        SparsePoints(found.points_N3, tracks.visibility_FN & found.static_N),
        np.where(some_F[:, None, None], found.c2w_F44, np.nan),
        found.K_F33,
        some_F,
        found.distortion,
    )
    with swept_depth(clip, ReconstructionConfig(), lambda done, total: None) as source:
        for frame in clip.registered:
            yield frame, source.depth(frame, frames.rgb(frame), frames.ids(frame))[0]


def test_hololens_tracks_agree_with_poses_and_depth(shared_data: Path) -> None:
    truth, tracks = Truth(shared_data / "hololens"), track(shared_data / "hololens/rgb")
    distance, survived, epipolar = [], [], []
    for frame, then_N2, later_N2, alive in pairs(tracks, SPAN):
        target_N2, seen = truth.transfer(frame, frame + SPAN, then_N2)
        survived.append(alive[seen])
        distance.append(np.linalg.norm(later_N2 - target_N2, axis=1)[seen & alive])
        if alive.sum() >= 30:
            epipolar.append(epipolar_distance(then_N2[alive], later_N2[alive].astype(float)))
    assert np.median(np.concatenate(distance)) < 3.0
    assert np.concatenate(survived).mean() > 0.62
    assert np.median(np.concatenate(epipolar)) < 0.6
    _, visible_FN, _ = tracks.dense(0, tracks.frame_count)
    assert visible_FN.sum(axis=1).min() > 60
    assert (visible_FN[1:] & visible_FN[:-1]).sum(axis=1).min() > 40


def test_kitti_tracks_follow_one_motion(shared_data: Path) -> None:
    tracks = track(shared_data / "kitti/sequence_1/image_l")
    distance = [
        epipolar_distance(then_N2[alive], later_N2[alive].astype(float))
        for _, then_N2, later_N2, alive in pairs(tracks, 4)
        if alive.sum() >= 30
    ]
    assert len(distance) >= 10
    assert np.median(np.concatenate(distance)) < 0.3
    assert np.mean(np.concatenate(distance) > 1.5) < 0.08


@pytest.mark.parametrize(
    ("clip", "live", "length"),
    [("davis/camel/rgb", 1200, 15), ("davis/bmx-trees/rgb", 900, 10), ("frames/demo/rgb", 350, 4)],
)
def test_clips_are_covered_by_long_tracks(
    shared_data: Path, clip: str, live: int, length: int
) -> None:
    tracks = track(shared_data / clip, 30)
    _, visible_FN, _ = tracks.dense(0, tracks.frame_count)
    assert visible_FN.sum(axis=1).mean() > live
    assert visible_FN.sum(axis=0).mean() > length


def test_hololens_flow_agrees_with_poses_and_depth(shared_data: Path) -> None:
    frames, truth = Folder(shared_data / "hololens/rgb"), Truth(shared_data / "hololens")
    everywhere, where_valid, valid_share = [], [], []
    for first in range(0, 120, 12):
        pair = [frames[first], frames[first + 1]]
        ((forward, backward),) = DisFlow(KeyframesConfig()).stream(iter(pair))
        height, width = forward.shape[:2]
        y, x = np.mgrid[0:height:4, 0:width:4]
        at = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
        target, seen = truth.transfer(first, first + 1, at)
        error = np.linalg.norm(forward[y, x].reshape(-1, 2) - (target - at), axis=1)
        valid = consistency(forward, backward)
        agree = valid[y, x].ravel()
        everywhere.append(error[seen])
        where_valid.append(error[seen & agree])
        valid_share.append(valid.mean())
    assert np.median(np.concatenate(everywhere)) < 1.2
    # what is left lies mostly at depth edges, where the truth itself is wrong
    assert np.mean(np.concatenate(where_valid) > 3) < 0.8 * np.mean(np.concatenate(everywhere) > 3)
    assert 0.6 < np.mean(valid_share) < 0.95


@pytest.mark.slow
def test_hololens_cameras_and_depth(shared_data: Path) -> None:
    truth = np.loadtxt(shared_data / "hololens/poses.txt").reshape(-1, 4, 4)
    K = np.loadtxt(shared_data / "hololens/K.txt")
    found = solve(shared_data / "hololens/rgb")
    assert found.status == "full"
    assert found.registered_F.all()
    error = trajectory_error(found.c2w_F44, truth)
    assert error.ate_of_path < 0.005  # COLMAP: 0.033
    assert error.worst_rot_deg < 1  # COLMAP: 12
    assert found.K_F33[0, 0, 0] == pytest.approx(K[0, 0], rel=0.01)
    depth = Truth(shared_data / "hololens").depth
    maps = [(d, depth(f)) for f, d in depth_of_some_frames(shared_data / "hololens/rgb", found, 3)]
    scores = depth_scores("one-scale", maps)
    assert scores.absrel < 0.1
    assert scores.coverage > 0.5


@pytest.mark.slow
def test_kitti_cameras(shared_data: Path) -> None:
    rows = np.loadtxt(shared_data / "kitti/sequence_1/poses.txt").reshape(-1, 3, 4)
    truth = np.tile(np.eye(4), (len(rows), 1, 1))
    truth[:, :3] = rows
    found = solve(shared_data / "kitti/sequence_1/image_l")
    assert found.status == "full"
    assert found.registered_F.all()
    assert trajectory_error(found.c2w_F44, truth).ate_of_path < 0.01
    assert 400 < found.K_F33[0, 0, 0] < 1200  # true 707; driving ahead hardly tells


@pytest.mark.slow
def test_a_camera_on_a_tripod(shared_data: Path) -> None:
    found = solve(shared_data / "davis/drift-chicane/rgb", 20)
    assert found.status == "static_camera"
    assert found.registered_F.all()
