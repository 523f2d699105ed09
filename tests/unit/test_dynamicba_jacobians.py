"""Analytic derivatives against automatic differentiation."""

from __future__ import annotations

import torch
from torch.autograd.functional import jacobian

from dynamicverse.dynamicba.jacobians import derivatives, perturb, project, residuals


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
    log_focal: torch.Tensor,
    step: torch.Tensor,
) -> torch.Tensor:
    moved, shifted = perturb(R, t, step)
    projection = project(moved.permute(1, 2, 0), shifted.T, points)
    return residuals(projection, log_focal.exp(), xy)


def test_derivatives_equal_automatic_ones() -> None:
    R, t, points, xy, factor = scene()
    log_focal, still = torch.tensor(6.2, dtype=torch.float64), torch.zeros(4, 6).double()
    projection = project(R.permute(1, 2, 0), t.T, points)
    found = derivatives(projection, R.permute(1, 2, 0), log_focal.exp(), factor)
    by_step = jacobian(lambda step: error(R, t, points, xy, log_focal, step), still)
    by_point = jacobian(lambda moved: error(R, t, moved, xy, log_focal, still), points)
    by_focal = jacobian(lambda log_f: error(R, t, points, xy, log_f, still), log_focal)
    for p in range(5):
        for w in range(4):
            expected = factor[p, w] * by_step[:, p, w, w]
            torch.testing.assert_close(found.camera_2PCW[:, p, :, w], expected)
            expected = factor[p, w] * by_point[:, p, w, :, p]
            torch.testing.assert_close(found.point_23PW[:, :, p, w], expected)
    torch.testing.assert_close(found.focal_2PW, factor * by_focal)
    # a camera's step moves nothing in the others
    others = by_step[:, :, 0, 1:]
    assert float(others.abs().max()) == 0.0


def test_a_perturbed_rotation_stays_one() -> None:
    R, t, *_ = scene()
    moved, _ = perturb(R, t, torch.full((4, 6), 0.7, dtype=torch.float64))
    torch.testing.assert_close(moved @ moved.transpose(1, 2), torch.eye(3).double().expand(4, 3, 3))


def test_points_behind_the_camera_have_finite_residuals() -> None:
    R, t, points, xy, _ = scene()
    projection = project(R.permute(1, 2, 0), t.T, -points)
    found = residuals(projection, torch.tensor(500.0, dtype=torch.float64), xy)
    assert bool(found.isfinite().all())
    assert float(found.square().sum(0).sqrt().median()) > 1e6  # far off, so never an optimum
