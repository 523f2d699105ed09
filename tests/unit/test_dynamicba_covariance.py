"""The stated standard deviations against the scatter of estimates around the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from camera_clips import FOCAL, film, room, walk

from dynamicverse.dynamicba.bundle.blocks import arrange
from dynamicverse.dynamicba.bundle.jackknife import parts_of_picture
from dynamicverse.dynamicba.bundle.loss import Loss, robust, slope
from dynamicverse.dynamicba.bundle.reduced import System, plan
from dynamicverse.dynamicba.bundle.solver import (
    FocalPrior,
    Options,
    Structure,
    free_cameras,
    solve,
)
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.lie import se3_inverse, so3_log

FRAMES, SEEDS = 8, 24
INTERVAL = 1.96  # standard deviations to either side that hold 95 %


def drifted(tracks: Tracks, seed: int, step: float, shared: float, side: float) -> Tracks:
    """Tracks that wander off by `step` px a frame, and by `shared` px with their neighbours.

    side: px, of the cells of neighbours.
    """
    rng = np.random.default_rng(seed)
    frames, count = tracks.visibility_FN.shape
    own = rng.normal(0, step, (frames, count, 2))
    cell_N2 = (tracks.tracks_FN2[tracks.query_frame_N, np.arange(count)] // side).astype(int)
    cells = rng.normal(0, shared, (frames, 20, 20, 2))
    together = cells[:, cell_N2[:, 0].clip(0, 19), cell_N2[:, 1].clip(0, 19)]
    wander = np.cumsum(own + together, 0).astype(np.float32)
    return replace(tracks, tracks_FN2=tracks.tracks_FN2 + wander)


def filmed_room() -> tuple[Structure, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The truth with the first camera as the origin, its points in the world, and the gauge."""
    w2c = se3_inverse(walk(FRAMES))
    first = w2c[0]
    w2c = w2c @ np.linalg.inv(first)
    points = room(200)
    R, t = w2c[:, :3, :3], w2c[:, :3, 3]
    truth = Structure(R, t, points @ first[:3, :3].T + first[:3, 3], FOCAL)
    return truth, points, free_cameras(FRAMES, 0, FRAMES - 1, t)


def scores(
    noise: float,
    outliers: float,
    options: Options,
    drift: tuple[float, float, float] = (0.0, 0.0, 40.0),
) -> tuple[npt.NDArray[np.float64], ...]:
    """(estimate − truth)/σ of the pose unknowns that are free (K,), of log f (SEEDS,), and the
    factors on its variance that are put down to correlated errors."""
    truth, points, free = filmed_room()
    R, t = truth.R_F33, truth.t_F3
    poses, focals, correlations = [], [], []
    for seed in range(SEEDS):
        clip = film(walk(FRAMES), points, noise=noise, outliers=outliers, seed=seed)
        tracks = drifted(clip.tracks, seed, *drift)
        seen = TrackGraph(tracks).observations(np.arange(FRAMES), 3)
        found = solve(truth, seen, free, replace(options, uncertainty=True))
        sigma = found.uncertainty
        assert sigma is not None
        turn = so3_log(found.structure.R_F33 @ np.swapaxes(R, 1, 2))
        moved = found.structure.t_F3 - np.einsum(
            "fij,fj->fi", found.structure.R_F33 @ np.swapaxes(R, 1, 2), t
        )
        score = np.concatenate([turn, moved], 1)[free] / sigma.pose_F6[free]
        poses.append(score)
        focals.append(np.log(found.structure.focal / FOCAL) / sigma.log_focal)
        correlations.append(sigma.correlation)
    return np.concatenate(poses), np.array(focals), np.array(correlations)


@pytest.mark.parametrize(
    ("loss", "scale", "noise", "outliers"),
    [
        ("huber", 1.5, 0.5, 0.0),
        ("huber", 1.0, 1.0, 0.05),  # a third of the residuals lie beyond the bound
        ("cauchy", 1.0, 0.4, 0.1),
        ("graduated", 4.0, 0.8, 0.2),
    ],
)
def test_95_per_cent_intervals_hold_about_that_share_of_the_truths(
    loss: str, scale: float, noise: float, outliers: float
) -> None:
    options = Options(loss, scale, FocalPrior(FOCAL, 10.0), 40, 1e-9)
    pose, focal, _ = scores(noise, outliers, options)
    assert 0.90 <= float(np.mean(np.abs(pose) < INTERVAL)) <= 0.99
    assert float(np.mean(np.abs(focal) < INTERVAL)) >= 0.85  # of 24
    assert 0.6 < float(np.std(focal)) < 1.5


@pytest.mark.parametrize(
    ("drift", "least"),
    [((0.4, 0.0, 40.0), 0.9), ((0.1, 0.3, 40.0), 0.9), ((0.05, 0.2, 80.0), 0.86)],
)
def test_intervals_hold_when_tracks_drift(drift: tuple[float, float, float], least: float) -> None:
    """Alone, or in cells of 40 px together, or of 80 px: then there are few draws."""
    options = Options("cauchy", 1.0, FocalPrior(FOCAL, 10.0), 40, 1e-9)
    pose, focal, correlation = scores(0.05, 0.0, options, drift)
    assert least <= float(np.mean(np.abs(pose) < INTERVAL)) <= 0.99
    assert float(np.mean(np.abs(focal) < INTERVAL)) >= 0.85  # of 24
    # with errors that were independent the intervals would be far too narrow
    assert np.median(correlation) > 2
    assert np.std(focal * np.sqrt(correlation)) > 1.4 * np.std(focal)


def test_spread_is_that_of_solving_again_without_each_part_of_the_picture() -> None:
    truth, points, free = filmed_room()
    tracks = drifted(film(walk(FRAMES), points, noise=0.05).tracks, 0, 0.02, 0.2, 80.0)
    seen = TrackGraph(tracks).observations(np.arange(FRAMES), 3)
    layout = arrange(seen, torch.device("cpu"))
    part_N = np.full(len(points), -1)
    for block, part_P in zip(layout.blocks, parts_of_picture(layout), strict=True):
        part_N[block.order_P.numpy()] = part_P
    assert np.ptp(np.bincount(part_N[part_N >= 0])) <= 3
    options = Options("cauchy", 1.0, FocalPrior(FOCAL, 10.0), 40, 1e-9)
    whole = solve(truth, seen, free, replace(options, uncertainty=True))
    shifts = []
    for part in range(8):
        rest = seen.select(part_N[seen.point_M] != part)
        again = solve(whole.structure, rest, free, options)
        shifts.append(np.log(again.structure.focal / whole.structure.focal))
    assert whole.uncertainty is not None
    spread = np.sqrt(7 / 8 * np.sum(np.square(shifts)))
    assert whole.uncertainty.log_focal == pytest.approx(spread, rel=0.25)


def test_what_is_held_has_no_uncertainty() -> None:
    w2c, points = se3_inverse(walk(FRAMES)), room(200)
    seen = TrackGraph(film(walk(FRAMES), points).tracks).observations(np.arange(FRAMES), 2)
    free = free_cameras(FRAMES, 0, FRAMES - 1, w2c[:, :3, 3])
    start = Structure(w2c[:, :3, :3], w2c[:, :3, 3], points, FOCAL)
    sigma = solve(start, seen, free, Options(uncertainty=True)).uncertainty
    assert sigma is not None
    assert not sigma.pose_F6[~free].any()
    assert (sigma.pose_F6[free] > 0).all()
    assert not sigma.log_focal_F.any()
    assert sigma.k1 == 0
    assert solve(start, seen, free, Options()).uncertainty is None


@pytest.mark.parametrize("kind", ["huber", "cauchy", "geman_mcclure"])
def test_weights_and_slopes_of_the_losses_equal_automatic_derivatives(kind: str) -> None:
    loss = Loss(kind, 1.5, 2.0 if kind == "geman_mcclure" else 1.0)
    weight = torch.tensor(4.0, dtype=torch.float64)
    for size in (0.1, 0.6, 3.0, 40.0):
        r = torch.tensor([size, -0.3 * size], dtype=torch.float64, requires_grad=True)
        rho, factor = robust(r.square().sum(), weight, loss)
        (gradient,) = torch.autograd.grad(rho, r)
        torch.testing.assert_close(gradient, 2 * factor * r)

        def influence(x: torch.Tensor) -> torch.Tensor:
            return robust(x.square().sum(), weight, loss)[1] * x / weight

        trace = torch.autograd.functional.jacobian(influence, r.detach()).trace() / 2
        torch.testing.assert_close(slope(r.detach().square().sum(), weight, loss), trace)


def test_variances_of_a_chain_are_the_diagonal_of_the_inverse() -> None:
    """A random bordered block tridiagonal system against the dense inverse and solution."""
    generator = torch.Generator().manual_seed(0)
    shape = plan(frames=130, dof=2, shared=3, widest=24)
    assert shape.segments == 6
    system = System(shape, torch.zeros((), dtype=torch.float64))
    dense = torch.zeros(2 * 130 + 4, 2 * 130 + 4, dtype=torch.float64)
    for first in range(0, 130 - 23, 2):
        J = torch.randn(80, 2 * 24 + 4, generator=generator, dtype=torch.float64)
        part = J.T @ J
        system.add(part, first, 24)
        index = [c * 130 + first + w for c in range(2) for w in range(24)]
        index += range(260, 264)
        dense[torch.tensor(index)[:, None], torch.tensor(index)] += part
    flat = torch.zeros(6 * 24, 2, dtype=torch.float64)
    flat[:130] = 1
    flat[7, 1] = 0
    free_SD = flat.view(6, 24, 2).transpose(1, 2).reshape(6, -1)
    factor = system.factor(free_SD, torch.ones(3, dtype=torch.float64))
    assert int(factor.bad) == 0
    keep = torch.tensor([i for i in range(263) if i != 130 + 7])
    H, g = dense[keep][:, keep], dense[keep, 263]
    step, shared = factor.solve()
    found = step.view(6, 2, 24).transpose(1, 2).reshape(-1, 2)[:130].T.reshape(-1)
    expected = -torch.linalg.solve(H, g)
    torch.testing.assert_close(torch.cat((found, shared))[keep], expected)
    assert float(found[130 + 7]) == 0
    variance_SD, covariance_BB = factor.variances()
    inverse = torch.linalg.inv(H)
    found = variance_SD.view(6, 2, 24).transpose(1, 2).reshape(-1, 2)[:130].T.reshape(-1)
    torch.testing.assert_close(found[keep[:-3]], inverse.diagonal()[:-3])
    torch.testing.assert_close(covariance_BB, inverse[-3:, -3:])
