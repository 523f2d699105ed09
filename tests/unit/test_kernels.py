"""The fused kernels against PyTorch, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch

HERE = Path(__file__)
WHERE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.slow
def test_the_kernels_in_the_interpreter() -> None:
    """In a process of its own: whether to interpret is decided when Triton is imported."""
    if torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ:
        pytest.skip("the other tests of this file run here")
    tiny_models.real("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "5 passed, 1 skipped" in done.stdout


needs_kernels = pytest.mark.skipif(
    WHERE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="the kernels run on a GPU or in Triton's interpreter",
)


@needs_kernels
def test_blended_is_two_interpolations() -> None:
    from dynamicverse.backends import kernels

    torch.manual_seed(0)
    corners = torch.rand(7, 4, 4, 16, device=WHERE)
    right, down = torch.rand(2, 7, device=WHERE)
    rows = torch.lerp(corners[:, :-1], corners[:, 1:], down[:, None, None, None])
    expected = torch.lerp(rows[:, :, :-1], rows[:, :, 1:], right[:, None, None, None]).flatten(1)
    torch.testing.assert_close(kernels.blended(corners, right, down), expected)


@needs_kernels
@pytest.mark.parametrize("far", [0.0, 30.0])
def test_windows_are_what_matching_looks_up(far: float) -> None:
    from dynamicverse.backends import kernels
    from dynamicverse.backends.flow import matching

    torch.manual_seed(0)
    width, height, radius = 9, 7, 2
    volume = torch.rand(20, width * height, device=WHERE)
    there = torch.rand(20, 2, device=WHERE) * 12 - 2 - far
    expected = matching._looked_up(volume[None], there[None], width, radius)[0]
    found = kernels.windows(volume, there, width, radius, 32)
    torch.testing.assert_close(found[:, :25], expected, atol=1e-5, rtol=1e-5)
    assert not found[:, 25:].any()
    assert expected.any() == (far == 0)


@needs_kernels
@pytest.mark.parametrize("affine", [False, True])
def test_normalised_is_a_layer_norm(affine: bool) -> None:
    from dynamicverse.backends import kernels

    torch.manual_seed(0)
    values = torch.randn(3, 5, 24, device=WHERE) * 4 + 2
    layer = torch.nn.LayerNorm(24, elementwise_affine=affine, eps=1e-6).to(WHERE)
    if affine:
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    found = kernels.normalised(values, layer.weight, layer.bias, layer.eps, torch.float16)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), layer(values), atol=5e-3, rtol=2e-3)
