"""Cameras of real clips with truth, through the real tracker, focal length unknown."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from dynamicverse.backends.tracker.klt import KltTracker
from dynamicverse.config import ReconstructionConfig, TracksConfig
from dynamicverse.dynamicba.cameras.solve import CameraSolution, solve_cameras
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.alignment import trajectory_error
from dynamicverse.stages.tracks import choose

pytestmark = [pytest.mark.data, pytest.mark.slow]


class Pictures:
    """The frames of a folder."""

    def __init__(self, folder: Path, count: int | None = None) -> None:
        self._files = sorted(folder.iterdir())[:count]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, frame: int) -> npt.NDArray[np.uint8]:
        picture = cv2.imread(str(self._files[frame]))
        assert picture is not None
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def track(folder: Path, count: int | None = None) -> Tracks:
    settings, pictures = TracksConfig(), Pictures(folder, count)
    found = KltTracker(settings).track(pictures, lambda done: None)
    found = choose(found, settings.min_length, settings.max_cells)
    dense = found.dense(0, len(pictures))
    return Tracks(*dense, found.query_N, np.full(len(found), -1, np.int32), size=found.size)


def solve(folder: Path, count: int | None = None) -> CameraSolution:
    return solve_cameras(track(folder, count), ReconstructionConfig())


def test_hololens(shared_data: Path) -> None:
    truth = np.loadtxt(shared_data / "hololens/poses.txt").reshape(-1, 4, 4)
    K = np.loadtxt(shared_data / "hololens/K.txt")
    found = solve(shared_data / "hololens/rgb")
    assert found.status == "full"
    assert found.registered_F.all()
    error = trajectory_error(found.c2w_F44, truth)
    assert error.ate_of_path < 0.005  # COLMAP: 0.033
    assert error.worst_rot_deg < 1  # COLMAP: 12
    assert found.K_F33[0, 0, 0] == pytest.approx(K[0, 0], rel=0.01)


def test_kitti(shared_data: Path) -> None:
    rows = np.loadtxt(shared_data / "kitti/sequence_1/poses.txt").reshape(-1, 3, 4)
    truth = np.tile(np.eye(4), (len(rows), 1, 1))
    truth[:, :3] = rows
    found = solve(shared_data / "kitti/sequence_1/image_l")
    assert found.status == "full"
    assert found.registered_F.all()
    assert trajectory_error(found.c2w_F44, truth).ate_of_path < 0.01
    assert 400 < found.K_F33[0, 0, 0] < 1200  # true 707; driving ahead hardly tells


def test_a_camera_on_a_tripod(shared_data: Path) -> None:
    found = solve(shared_data / "davis/drift-chicane/rgb", 20)
    assert found.status == "static_camera"
    assert found.registered_F.all()
