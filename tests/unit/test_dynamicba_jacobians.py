"""Analytic derivatives against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.functional import jacobian

from dynamicverse.dynamicba.bundle.jacobians import (
    Intrinsics,
    derivatives,
    perturb,
    project,
    residuals,
    rotations,
)

SHARED = ("log_focal", "cx", "cy", "k1")


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    skew = normal(4, 3, 3)
    R = torch.linalg.matrix_exp(0.2 * (skew - skew.transpose(1, 2)))
    points = normal(3, 5) + torch.tensor([[0.0], [0.0], [6.0]], dtype=torch.float64)
    return R, 0.3 * normal(4, 3), points, 100 * normal(2, 5, 4), normal(5, 4).abs()


def error(
    R: torch.Tensor,
    t: torch.Tensor,
    points: torch.Tensor,
    xy: torch.Tensor,
    shared: torch.Tensor,
    own: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    """shared: log f, cx, cy, k1; own: log of each camera's focal length over the shared one."""
    skew = torch.zeros(4, 3, 3, dtype=torch.float64)
    for (i, j), k, sign in (((2, 1), 0, 1), ((0, 2), 1, 1), ((1, 0), 2, 1)):
        skew[:, i, j], skew[:, j, i] = sign * step[:, k], -sign * step[:, k]
    turn = torch.linalg.matrix_exp(skew)
    moved, shifted = turn @ R, (turn @ t[:, :, None])[:, :, 0] + step[:, 3:]
    projection = project(moved.permute(1, 2, 0), shifted.T, points)
    intrinsics = Intrinsics((shared[0] + own).exp(), shared[1:3], shared[3])
    return residuals(projection, intrinsics, xy)


@pytest.mark.parametrize("k1", [0.0, -0.2, 0.3])
def test_derivatives_equal_automatic_ones(k1: float) -> None:
    R, t, points, xy, factor = scene()
    shared = torch.tensor([6.2, 3.0, -2.0, k1], dtype=torch.float64)
    own = 0.1 * torch.arange(4).double()
    still = torch.zeros(4, 6).double()
    projection = project(R.permute(1, 2, 0), t.T, points)
    bent = shared[3] if k1 else None
    intrinsics = Intrinsics((shared[0] + own).exp(), shared[1:3], bent)
    at_hand = residuals(projection, intrinsics, xy)
    found = derivatives(projection, R.permute(1, 2, 0), intrinsics, at_hand, factor, SHARED, True)
    torch.testing.assert_close(found.error_2PW, factor * at_hand)
    arguments = (R, t, points, xy, shared, own, still)

    def by(position: int) -> torch.Tensor:
        def of_one(value: torch.Tensor) -> torch.Tensor:
            return error(*arguments[:position], value, *arguments[position + 1 :])

        return jacobian(of_one, arguments[position])

    by_point, by_shared, by_own, by_step = by(2), by(4), by(5), by(6)
    for p in range(5):
        for w in range(4):
            expected = factor[p, w] * by_step[:, p, w, w]
            torch.testing.assert_close(found.columns_2PCW[:, p, :6, w], expected)
            expected = factor[p, w] * by_own[:, p, w, w]
            torch.testing.assert_close(found.columns_2PCW[:, p, 6, w], expected)
            expected = factor[p, w] * by_point[:, p, w, :, p]
            torch.testing.assert_close(found.point_23PW[:, :, p, w], expected)
    expected = factor[:, :, None] * by_shared
    torch.testing.assert_close(found.columns_2PCW[:, :, 7:-1], expected.permute(0, 1, 3, 2))
    # a camera's step moves nothing in the others
    others = by_step[:, :, 0, 1:]
    assert float(others.abs().max()) == 0.0


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.5, 3.0])
def test_rotations_equal_the_exponential(size: float) -> None:
    w = size * torch.nn.functional.normalize(torch.tensor([[1.0, -2.0, 0.5]]).double())
    x, y, z = w[0].tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]).double()
    torch.testing.assert_close(rotations(w)[0], torch.linalg.matrix_exp(skew))


def test_a_perturbed_rotation_stays_one() -> None:
    R, t, *_ = scene()
    moved, _ = perturb(R, t, torch.full((4, 6), 0.7, dtype=torch.float64))
    torch.testing.assert_close(moved @ moved.transpose(1, 2), torch.eye(3).double().expand(4, 3, 3))


def test_points_behind_the_camera_have_finite_residuals() -> None:
    R, t, points, xy, _ = scene()
    projection = project(R.permute(1, 2, 0), t.T, -points)
    found = residuals(projection, Intrinsics(torch.tensor(500.0, dtype=torch.float64)), xy)
    assert bool(found.isfinite().all())
    assert float(found.square().sum(0).sqrt().median()) > 1e6  # far off, so never an optimum
