"""The depth adapters on the real networks with tiny random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from dynamicverse.backends.depth.unidepth_steps import Encoded
from dynamicverse.config import DepthConfig
from dynamicverse.errors import MissingModelError
from dynamicverse.formats.intrinsics import PriorIntrinsics

SIZE = (60, 34)
CAMERA = PriorIntrinsics(fx=50, fy=50, cx=29.5, cy=16.5, source="test")


def test_depth_anything_streams_metres() -> None:
    from dynamicverse.backends.depth.depth_anything import DepthAnything

    backend = DepthAnything(DepthConfig(), *tiny_models.depth_anything(max_depth=80))
    frames = tiny_models.clip(19, SIZE)
    maps = list(backend.stream(iter(frames), CAMERA))
    assert len(maps) == len(frames)
    for depth_HW, confidence_HW in maps:
        assert depth_HW.shape == confidence_HW.shape == SIZE[::-1]
        assert depth_HW.dtype == confidence_HW.dtype == np.float32
        assert np.all((depth_HW >= 0) & (depth_HW < 80))
        np.testing.assert_array_equal(confidence_HW, depth_HW > 0)
    assert backend.notes == []


def test_depth_anything_does_not_depend_on_the_batch() -> None:
    from dynamicverse.backends.depth.depth_anything import DepthAnything

    backend = DepthAnything(DepthConfig(), *tiny_models.depth_anything())
    frames = tiny_models.clip(5, SIZE)
    together = [depth for depth, _ in backend.stream(iter(frames), CAMERA)]
    alone = [next(backend.stream(iter([frame]), CAMERA))[0] for frame in frames]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 1e-4  # it looks at the pictures


def test_what_is_only_far_is_unknown() -> None:
    from dynamicverse.backends.depth.depth_anything import DepthAnything

    model, processor = tiny_models.depth_anything()
    with torch.no_grad():  # the sigmoid says 1: as far as it can say
        model.head.conv3.weight.zero_()
        model.head.conv3.bias.fill_(100.0)
    depth_HW, confidence_HW = next(
        DepthAnything(DepthConfig(), model, processor).stream(
            iter(tiny_models.clip(1, SIZE)), CAMERA
        )
    )
    assert not depth_HW.any()
    assert not confidence_HW.any()


def test_the_camera_of_depth_anything_is_an_assumption() -> None:
    from dynamicverse.backends.depth.depth_anything import DepthAnything

    backend = DepthAnything(DepthConfig(), *tiny_models.depth_anything())
    camera = backend.intrinsics(iter(tiny_models.clip(2, SIZE)))
    assert camera == PriorIntrinsics(fx=60, fy=60, cx=29.5, cy=16.5, source="assumed", metric=True)
    assert backend.intrinsics(iter([])) is None


def test_depth_pro_takes_the_focal_length_of_the_clip() -> None:
    from dynamicverse.backends.depth.depth_pro import DepthPro

    backend = DepthPro(DepthConfig(), *tiny_models.depth_pro())
    frames = tiny_models.clip(11, SIZE)
    camera = backend.intrinsics(iter(frames))
    assert camera is not None
    assert (camera.fx, camera.cx, camera.cy) == (camera.fy, 29.5, 16.5)
    views = [backend._output([frames[t]]).field_of_view.item() for t in (0, 5, 10)]
    expected = SIZE[0] / 2 / np.tan(np.deg2rad(np.median(views)) / 2)
    assert camera.fx == pytest.approx(expected, rel=1e-3)


def test_depth_pro_gives_metres_that_grow_with_the_focal_length() -> None:
    from dynamicverse.backends.depth.depth_pro import DepthPro

    model, processor = tiny_models.depth_pro()
    with torch.no_grad():
        model.head.layers[-2].weight.mul_(0.0)
        model.head.layers[-2].bias.fill_(0.5)  # the inverse depth, everywhere
    backend = DepthPro(DepthConfig(), model, processor)
    frames = tiny_models.clip(3, SIZE)
    near = [depth for depth, _ in backend.stream(iter(frames), CAMERA)]
    twice = CAMERA.model_copy(update={"fx": 100.0, "fy": 100.0})
    far = [depth for depth, _ in backend.stream(iter(frames), twice)]
    assert near[0].shape == SIZE[::-1]
    np.testing.assert_allclose(near[0], CAMERA.fx / SIZE[0] / 0.5, rtol=1e-3)
    np.testing.assert_allclose(far, 2 * np.array(near), rtol=1e-3)


class Echo:
    """Stands in for UniDepthV2's steps where only the two passes matter: gives back its input."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode(self, rgb_B3HW: torch.Tensor) -> Encoded:
        self.encoded.append(len(rgb_B3HW))
        focal_B1 = rgb_B3HW[:, 0, 0, :1].float() + 1
        return Encoded((focal_B1,), focal_B1)

    def cameras(self, encoded: Encoded, rgb_B3HW: torch.Tensor) -> torch.Tensor:
        K_B33 = torch.eye(3).repeat(len(encoded), 1, 1)
        K_B33[:, 0, 0] = K_B33[:, 1, 1] = encoded.tokens[:, 0]
        K_B33[:, 0, 2], K_B33[:, 1, 2] = rgb_B3HW.shape[3] / 2, rgb_B3HW.shape[2] / 2
        return K_B33

    def depth(
        self, encoded: Encoded, rgb_B3HW: torch.Tensor, K_33: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (len(encoded), *rgb_B3HW.shape[2:])
        depth_B = encoded.tokens[:, 0] + K_33[0, 2]
        return depth_B[:, None, None].expand(shape), torch.full(shape, 2.0)


def _echo() -> tuple[Any, Echo]:
    from dynamicverse.backends.depth import unidepth

    echo = Echo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unidepth, "Steps", lambda model: echo)
        return unidepth.UniDepth(DepthConfig(), torch.nn.Identity()), echo


def test_unidepth_averages_the_cameras_and_uses_them() -> None:
    frames = [np.full((4, 6, 3), value, np.uint8) for value in (9, 19, 29)]
    backend, echo = _echo()
    camera = backend.intrinsics(iter(frames))
    assert camera == PriorIntrinsics(fx=20, fy=20, cx=2.5, cy=1.5, source="unidepth", metric=True)
    maps = list(backend.stream(iter(frames), camera))
    for value, (depth_HW, confidence_HW) in zip((10, 20, 30), maps, strict=True):
        np.testing.assert_array_equal(depth_HW, np.full((4, 6), value + 3.0))  # cx as it counts
        np.testing.assert_array_equal(confidence_HW, np.full((4, 6), 0.5))
    assert echo.encoded == [3]  # the second pass encodes nothing
    assert backend.intrinsics(iter([])) is None


def test_frames_that_the_first_pass_did_not_see_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dynamicverse.backends.depth import unidepth

    monkeypatch.setattr(unidepth, "HELD", 9)
    backend, echo = _echo()
    frames = [np.full((4, 6, 3), value, np.uint8) for value in range(20)]
    camera = backend.intrinsics(iter(frames))
    echo.encoded.clear()
    maps = list(backend.stream(iter(frames), camera))
    assert echo.encoded == [8, 4]
    assert [depth_HW[0, 0] - 3 for depth_HW, _ in maps] == [value + 1 for value in range(20)]
    echo.encoded.clear()
    others = [frame + 100 for frame in frames[:3]]
    assert [depth[0, 0] - 3 for depth, _ in backend.stream(iter(others), camera)] == [101, 102, 103]
    assert echo.encoded == [3]


def test_the_two_passes_give_what_unidepth_infers() -> None:
    from dynamicverse.backends.depth.unidepth import UniDepth

    model = tiny_models.unidepth()
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.05)
    size = (100, 30)  # wider than it takes: edges are added
    frames = tiny_models.clip(3, size)
    rgb_B3HW = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    model.eval()
    K_33 = torch.tensor([[80.0, 0, 51], [0, 70, 14], [0, 0, 1]])
    theirs = model.infer(rgb_B3HW)
    given = [model.infer(rgb_B3HW[b], K_33[None].clone()) for b in range(3)]
    backend = UniDepth(DepthConfig(), model)
    ours = [K for (K,) in backend._cameras(frames)]
    np.testing.assert_allclose(ours, theirs["intrinsics"].numpy(), rtol=1e-4, atol=1e-3)
    camera = PriorIntrinsics(fx=80, fy=70, cx=50.5, cy=13.5, source="test")
    for one, (depth_HW, confidence_HW) in zip(
        given, backend.stream(iter(frames), camera), strict=True
    ):
        assert depth_HW.std() > 1e-3
        assert confidence_HW.std() > 1e-3
        np.testing.assert_allclose(depth_HW, one["depth"][0, 0].clamp(0), rtol=1e-3)
        expected = (1 / one["confidence"][0, 0]).clamp(0, 1)
        np.testing.assert_allclose(confidence_HW, expected, rtol=1e-3)


def test_the_real_unidepth_runs_in_two_passes() -> None:
    from dynamicverse.backends.depth.unidepth import UniDepth

    backend = UniDepth(DepthConfig(), tiny_models.unidepth())
    frames = tiny_models.clip(2, (84, 56))
    camera = backend.intrinsics(iter(frames))
    assert camera is not None
    maps = list(backend.stream(iter(frames), camera))
    assert [depth.shape for depth, _ in maps] == [(56, 84)] * 2
    for depth_HW, confidence_HW in maps:
        assert np.all(depth_HW >= 0)
        assert np.all((confidence_HW >= 0) & (confidence_HW <= 1))


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [
        ("depth_anything", "DepthAnything", "transformers"),
        ("depth_pro", "DepthPro", "transformers"),
        ("unidepth", "UniDepth", "unidepth"),
    ],
)
def test_missing_weights_are_one_clear_line(
    module: str, name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from importlib import import_module

    tiny_models.real(package)
    tiny_models.real("huggingface_hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    backend = getattr(import_module(f"dynamicverse.backends.depth.{module}"), name)
    with pytest.raises(MissingModelError, match=f"dynamicverse weights pull {module}") as caught:
        backend(DepthConfig())
    assert "\n" not in str(caught.value)
