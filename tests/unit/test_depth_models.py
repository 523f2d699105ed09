"""The depth adapters on the real networks with tiny random weights."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch

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


class Echo(torch.nn.Module):
    """Stands in for UniDepthV2 where only the two passes matter: gives back its input."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel_decoder = torch.nn.Module()
        self.pixel_decoder.depth_layer = torch.nn.Identity()
        self.decoded = 0  # times that the depth decoder ran

    def infer(self, rgb_B3HW, camera_B33=None):  # type: ignore[no-untyped-def]
        self.decoded += "forward" not in vars(self.pixel_decoder.depth_layer)
        count, _, height, width = rgb_B3HW.shape
        focal_B = rgb_B3HW[:, 0, 0, 0].float() + 1
        K_B33 = torch.eye(3).repeat(count, 1, 1)
        K_B33[:, 0, 0] = K_B33[:, 1, 1] = focal_B
        K_B33[:, 0, 2], K_B33[:, 1, 2] = width / 2, height / 2
        depth = focal_B if camera_B33 is None else camera_B33[:, 0, 2]
        shape = (count, 1, height, width)
        return {
            "intrinsics": K_B33,
            "depth": depth.view(-1, 1, 1, 1).expand(shape),
            "confidence": torch.full(shape, 2.0),
        }


def test_unidepth_averages_the_cameras_and_uses_them() -> None:
    from dynamicverse.backends.depth.unidepth import UniDepth

    frames = [np.full((4, 6, 3), value, np.uint8) for value in (9, 19, 29)]
    echo = Echo()
    backend = UniDepth(DepthConfig(), echo)
    camera = backend.intrinsics(iter(frames))
    assert echo.decoded == 0  # the first pass leaves the depth decoder out
    assert camera == PriorIntrinsics(fx=20, fy=20, cx=2.5, cy=1.5, source="unidepth", metric=True)
    depth_HW, confidence_HW = next(backend.stream(iter(frames), camera))
    assert echo.decoded == 1
    np.testing.assert_array_equal(depth_HW, np.full((4, 6), 3.0))  # cx in its own convention
    np.testing.assert_array_equal(confidence_HW, np.full((4, 6), 0.5))
    assert backend.intrinsics(iter([])) is None


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
