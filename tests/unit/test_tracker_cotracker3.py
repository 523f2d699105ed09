"""The CoTracker3 adapter: grid, both directions, windows, on the real network where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from dynamicverse.backends.tracker import cotracker3, cotracker_steps
from dynamicverse.backends.tracker.cotracker3 import CoTracker3, grid
from dynamicverse.config import TracksConfig
from dynamicverse.errors import MissingModelError

SIZE = (64, 48)


class Model(torch.nn.Module):
    model_resolution = (96, 128)
    updateformer = torch.nn.Identity()


def _moving(
    model: Any, levels: Any, tables: Any, queries: Any, turns: int, reverse: bool = False
) -> Any:
    """Every point moves by (4, 2) model px a frame; who sees it backwards is less sure."""
    since = torch.arange(levels[0].shape[1])[:, None, None] - queries[None, :, :1]
    tracks = queries[None, :, 1:] + since * torch.tensor([4.0, 2.0])
    shown = torch.ones(tracks.shape[:2])
    return tracks, shown, shown * (0.5 if reverse else 0.75)


def _brighter(count: int) -> list[Any]:
    return [np.full((*SIZE[::-1], 3), 10 * t, np.uint8) for t in range(count)]


def test_grid_covers_the_picture_evenly() -> None:
    points_S2 = grid((100, 50), 10)
    assert len(points_S2) == 50
    np.testing.assert_allclose(points_S2[0], [4.5, 4.5])
    np.testing.assert_allclose(points_S2[-1], [94.5, 44.5])


def test_points_are_followed_from_every_seed_frame_both_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cotracker3, "FRAMES_AT_ONCE", 3)
    monkeypatch.setattr(
        cotracker3, "features", lambda model, parts: [torch.cat(list(parts)).float()[None]]
    )
    monkeypatch.setattr(cotracker3, "tables", lambda model, levels: None)
    monkeypatch.setattr(cotracker3, "follow", _moving)
    settings = TracksConfig(backend="cotracker3", grid_size=4, interval=3)
    backend = CoTracker3(settings, (Model(), Model()))
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
        sure_N = np.where(t < found.query_N, 0.5, 0.75)  # before its seed, by the way back
        np.testing.assert_allclose(confidence_FN[t, inside_N], sure_N[inside_N])


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


def _livelier(model: Any) -> Any:
    """As made the network moves nothing: its last layers are next to zero."""
    for layer in (model.updateformer.flow_head, model.updateformer.vis_conf_head):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model.eval()


QUERIES = [[0, 5.0, 6.0], [2, 30.3, 40.2], [1, 127, 95], [3, 0, 0], [0, 64, 50]]


@torch.inference_mode()
@pytest.mark.parametrize("reverse", [False, True])
def test_the_loop_gives_what_the_offline_network_gives(reverse: bool) -> None:
    model = _livelier(_real(True))
    video, queries = torch.rand(5, 3, 96, 128) * 255, torch.tensor(QUERIES)
    seen, asked = video, queries
    if reverse:
        seen, asked = video.flip(0), queries.clone()
        asked[:, 0] = 4 - queries[:, 0]
    expected = [one[0] for one in model(seen[None], asked[None], iters=3)[:3]]
    assert expected[0].diff(dim=0).abs().mean() > 1  # px: the points move at all
    cotracker_steps.use_fused_attention(model)
    levels = cotracker_steps.features(model, [video[:2], video[2:]])
    tables = cotracker_steps.tables(model, levels)
    found = cotracker_steps.follow(model, levels, tables, queries, 3, reverse)
    for ours, theirs in zip(found, expected, strict=True):
        wanted = theirs.flip(0) if reverse else theirs
        torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_the_loop_gives_what_the_online_network_gives() -> None:
    model = _livelier(_real(False))
    video, queries = torch.rand(24, 3, 96, 128) * 255, torch.tensor(QUERIES)

    def run() -> Any:
        model.init_video_online_processing()
        for start in range(0, 16, 8):
            window = video[None, start : start + 16]
            found = model(window, queries[None], iters=2, is_online=True)
        return found[:3]

    expected = run()
    model.forward_window = cotracker_steps.online_window(model)
    for ours, theirs in zip(run(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_missing_weights_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    tiny_models.real("cotracker")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(MissingModelError, match=r"lacks scaled_offline.pth, scaled_online.pth"):
        CoTracker3(TracksConfig())
