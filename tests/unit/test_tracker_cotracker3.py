"""The CoTracker3 adapter: grid, both directions, windows, on the real network where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from dynamicverse.backends.tracker import cotracker3
from dynamicverse.backends.tracker.cotracker3 import CoTracker3, grid
from dynamicverse.config import TracksConfig
from dynamicverse.errors import MissingModelError

SIZE = (64, 48)


class Moving(torch.nn.Module):
    """Says that every point moves by (4, 2) model px a frame, and keeps what it was asked."""

    model_resolution = (96, 128)

    def forward(self, video: Any, queries: Any, iters: int) -> Any:
        frames = torch.arange(video.shape[1])[None, :, None, None]
        since = frames - queries[:, None, :, :1]
        # a reversed clip, told by its pictures, goes the other way
        way = torch.sign(video[0, -1].mean() - video[0, 0].mean())
        tracks = queries[:, None, :, 1:] + way * since * torch.tensor([4.0, 2.0])
        shown = torch.ones(tracks.shape[:3])
        return tracks, shown, shown * 0.75, None


def _brighter(count: int) -> list[Any]:
    return [np.full((*SIZE[::-1], 3), 10 * t, np.uint8) for t in range(count)]


def test_grid_covers_the_picture_evenly() -> None:
    points_S2 = grid((100, 50), 10)
    assert len(points_S2) == 50
    np.testing.assert_allclose(points_S2[0], [4.5, 4.5])
    np.testing.assert_allclose(points_S2[-1], [94.5, 44.5])


def test_points_are_followed_from_every_seed_frame_both_ways() -> None:
    settings = TracksConfig(backend="cotracker3", grid_size=4, interval=3)
    backend = CoTracker3(settings, (Moving(), Moving()))
    done: list[int] = []
    found = backend.track(_brighter(7), done.append)
    assert done == [2, 4, 7]
    assert found.query_N.tolist() == [0] * 12 + [3] * 12 + [6] * 12
    tracks_FN2, visible_FN, confidence_FN = found.dense(0, 7)
    step_2 = np.array([4 * 63 / 127, 2 * 47 / 95], np.float32)  # in pixels of the clip
    start_S2 = np.tile(grid(SIZE, 4), (3, 1))
    for t in range(7):
        expected_N2 = start_S2 + (t - found.query_N)[:, None] * step_2
        inside_N = ((expected_N2 >= 0) & (expected_N2 <= np.array(SIZE) - 1)).all(1)
        np.testing.assert_array_equal(visible_FN[t], inside_N)
        np.testing.assert_allclose(tracks_FN2[t, inside_N], expected_N2[inside_N], atol=1e-3)
        np.testing.assert_allclose(confidence_FN[t, inside_N], 0.75)


def _real(offline: bool) -> Any:
    builder = tiny_models.real("cotracker.models.build_cotracker")
    torch.manual_seed(0)
    model = builder.build_cotracker(
        checkpoint=None, offline=offline, window_len=60 if offline else 16
    )
    model.model_resolution = (96, 128)
    return model


@pytest.mark.parametrize(("mode", "count"), [("offline", 3), ("online", 18)])
def test_the_real_network_tracks_a_clip(
    mode: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cotracker3, "ITERATIONS", 1)
    settings = TracksConfig(backend="cotracker3", cotracker3=mode, grid_size=2, interval=16)  # type: ignore[arg-type]
    backend = CoTracker3(settings, (_real(True), _real(False)))
    found = backend.track(tiny_models.clip(count, SIZE), lambda done: None)
    seeds = -(-count // 16)
    assert len(found) == 4 * seeds
    assert found.frame_count == count
    tracks_FN2, visible_FN, confidence_FN = found.dense(0, count)
    assert np.isfinite(tracks_FN2).all()
    assert np.all((confidence_FN >= 0) & (confidence_FN <= 1))
    for n, t in enumerate(found.query_N):
        assert visible_FN[t, n]
        np.testing.assert_allclose(tracks_FN2[t, n], grid(SIZE, 2)[n % 4], atol=1e-3)


def test_missing_weights_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    tiny_models.real("cotracker")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(MissingModelError, match=r"lacks scaled_offline.pth, scaled_online.pth"):
        CoTracker3(TracksConfig())
