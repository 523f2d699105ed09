"""The flow adapters on the real networks with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from dynamicverse.config import KeyframesConfig
from dynamicverse.errors import MissingModelError

SIZE = (90, 70)  # no multiple of what the networks take


def _raft() -> Any:
    from dynamicverse.backends.flow.raft import Raft

    models = tiny_models.real("torchvision.models.optical_flow")
    torch.manual_seed(0)
    return Raft(KeyframesConfig(), models.raft_small(weights=None))


def _unimatch(name: str, **small: Any) -> Any:
    from dynamicverse.backends.flow import unimatch

    ptlflow = tiny_models.real("ptlflow")
    torch.manual_seed(0)
    backend: Any = {"unimatch": unimatch.UniMatch, "gmflow": unimatch.GmFlow}[name]
    network = ptlflow.get_model_reference(backend.network)
    return backend(KeyframesConfig(), network(num_transformer_layers=1, **small))


@pytest.mark.parametrize("name", ["raft", "unimatch", "gmflow"])
def test_both_directions_of_every_pair_in_order(name: str) -> None:
    backend = _raft() if name == "raft" else _unimatch(name)
    frames = tiny_models.clip(4, SIZE)
    pairs = list(backend.stream(iter(frames)))
    assert len(pairs) == 3
    for forward_HW2, backward_HW2 in pairs:
        for field in (forward_HW2, backward_HW2):
            assert field.shape == (*SIZE[::-1], 2)
            assert field.dtype == np.float32
            assert np.isfinite(field).all()
    reverse = list(backend.stream(iter(frames[::-1])))
    for (forward, backward), (forward_r, backward_r) in zip(pairs, reverse[::-1], strict=True):
        np.testing.assert_allclose(forward, backward_r, atol=0.02)
        np.testing.assert_allclose(backward, forward_r, atol=0.02)
    assert np.abs(pairs[0][0] - pairs[1][0]).max() > 0.02
    assert backend.notes == []


def test_no_pairs_in_a_clip_of_one_frame() -> None:
    assert list(_raft().stream(iter(tiny_models.clip(1, SIZE)))) == []


class Shift(torch.nn.Module):
    """Says the mean difference of the pictures' red and blue channels as the flow."""

    def forward(self, first: Any, second: Any) -> Any:
        step_S3 = (second - first).mean(dim=(2, 3))
        return [step_S3[:, [0, 2], None, None].expand(-1, -1, *first.shape[2:])]


def test_raft_gets_rgb_from_minus_one_to_one() -> None:
    from dynamicverse.backends.flow.raft import Raft

    black = np.zeros((*SIZE[::-1], 3), np.uint8)
    red = black.copy()
    red[..., 0] = 255
    forward, backward = next(Raft(KeyframesConfig(), Shift()).stream(iter([black, red])))
    np.testing.assert_allclose(forward[0, 0], [2, 0], atol=1e-6)
    np.testing.assert_allclose(backward[0, 0], [-2, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["unimatch", "gmflow"])
def test_whole_clips_at_once_give_what_ptlflow_gives_pair_by_pair(name: str) -> None:
    backend = _unimatch(name)
    for weight in backend._model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.04)
    backend = type(backend)(KeyframesConfig(), backend._model)  # which lays its weights out
    frames = tiny_models.clip(3, SIZE)
    bgr = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).flip(1).float() / 255
    with torch.inference_mode():
        there = backend._model({"images": torch.stack([bgr[:-1], bgr[1:]], 1)})["flows"][:, 0]
        back = backend._model({"images": torch.stack([bgr[1:], bgr[:-1]], 1)})["flows"][:, 0]
    assert there.abs().mean() > 1  # px: not a field of nothing
    found = list(backend.stream(iter(frames)))
    for pair, (forward_HW2, backward_HW2) in enumerate(found):
        np.testing.assert_allclose(forward_HW2, there[pair].permute(1, 2, 0), atol=0.01)
        np.testing.assert_allclose(backward_HW2, back[pair].permute(1, 2, 0), atol=0.01)


def test_large_pictures_are_solved_in_fewer_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamicverse.backends.flow import unimatch

    backend = _unimatch("gmflow")
    frames = tiny_models.clip(4, SIZE)
    together = list(backend.stream(iter(frames)))
    monkeypatch.setattr(unimatch, "MOST_BYTES", 1.0)
    seen = []
    solved = backend._solved
    monkeypatch.setattr(backend, "_solved", lambda pairs: seen.append(len(pairs)) or solved(pairs))
    one_by_one = list(backend.stream(iter(frames)))
    assert seen == [1, 1, 1]
    np.testing.assert_allclose(np.array(one_by_one), np.array(together), atol=0.01)


@pytest.mark.parametrize("name", ["raft", "unimatch", "gmflow"])
def test_missing_weights_are_one_clear_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from dynamicverse.backends.flow import raft, unimatch

    tiny_models.real("torchvision" if name == "raft" else "ptlflow")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    known: Any = {"raft": raft.Raft, "unimatch": unimatch.UniMatch, "gmflow": unimatch.GmFlow}
    with pytest.raises(MissingModelError, match=f"dynamicverse weights pull {name}"):
        known[name](KeyframesConfig())
