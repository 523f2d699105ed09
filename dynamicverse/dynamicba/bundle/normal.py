"""The reduced camera system of bundle adjustment: linearise, eliminate points, step (torch).

Each block of tracks is linearised and at once reduced to its part of the camera system (Schur
complement, Brown 1958; Triggs et al., "Bundle adjustment: a modern synthesis", 2000): with the
point block V = L·Lᵀ and Z = L⁻¹·Wᵀ, the reduced system is S = U − Zᵀ·Z, one matrix product a
block that covers only the cameras the block sees. The robust loss enters by reweighting, the
damping by Marquardt's scaling of U and V.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Block, Layout
from dynamicverse.dynamicba.bundle.jacobians import (
    CAMERA_DOF,
    MIN_DEPTH,
    Derivatives,
    Intrinsics,
    derivatives,
    perturb,
    project,
    residuals,
)
from dynamicverse.dynamicba.bundle.loss import Loss, robust
from dynamicverse.dynamicba.bundle.reduced import Plan, System
from dynamicverse.dynamicba.bundle.state import State, Unknowns
from dynamicverse.dynamicba.threads import Map

LEAST_INVERSE, MOST_INVERSE = 0.1, 10.0  # factors on a point's inverse depth in one step
STRIPS = 4  # of ZᵀZ on a CPU, so that only its lower half is computed


@dataclass(frozen=True)
class Linear:
    """A linearised block: weighted derivatives and residuals, and the points whitened.

    white_23PW: L⁻¹·Jᵀ of every observation; L_6P: the rows of L = chol(V).
    """

    jacobian: Derivatives
    white_23PW: Tensor
    L_6P: tuple[Tensor, ...]

    def select(self, points: Tensor) -> Linear:
        """The part of some points (indices)."""
        jacobian = Derivatives(
            self.jacobian.columns_2PCW[:, points], self.jacobian.point_23PW[:, :, points]
        )
        white_23PW = self.white_23PW[:, :, points]
        return Linear(jacobian, white_23PW, tuple(row[points] for row in self.L_6P))


def total_cost(state: State, layout: Layout, loss: Loss, parallel: Map) -> Tensor:
    """Σρ over all observations."""

    def of_block(block: Block) -> Tensor:
        return _cost(state.window(block), block, loss)

    zero = state.t_F3.new_zeros(())
    return sum(parallel(of_block, layout.blocks), start=zero)


def _cost(window: tuple[Tensor, Tensor, Tensor, Intrinsics], block: Block, loss: Loss) -> Tensor:
    R, t, points, intrinsics = window
    error = residuals(project(R, t, points), intrinsics, block.xy_2PW)
    return robust(_squared(error), block.weight_PW, loss)[0].sum()


def _squared(error_2PW: Tensor) -> Tensor:
    return (error_2PW[0] * error_2PW[0]).addcmul_(error_2PW[1], error_2PW[1])


def linearise(
    state: State,
    layout: Layout,
    free: Unknowns,
    plan: Plan,
    loss: Loss,
    damping: Tensor | float,
    parallel: Map,
) -> tuple[System, list[Linear]]:
    """Sum the reduced camera systems of all blocks, always in the same order."""
    system = System(plan, state.t_F3)
    linear = []

    def of_block(block: Block) -> tuple[Linear, Tensor]:
        part = _linearise_block(state, block, free, loss, damping)
        return part, reduced_system(part, free.dof, damping)

    work = parallel(of_block, layout.blocks)
    for block, (part, reduced) in zip(layout.blocks, work, strict=True):
        system.add(reduced, block.first, block.window)
        linear.append(part)
    return system, linear


def _linearise_block(
    state: State, block: Block, free: Unknowns, loss: Loss, damping: Tensor | float
) -> Linear:
    R, t, points, intrinsics = state.window(block)
    projection = project(R, t, points)
    error = residuals(projection, intrinsics, block.xy_2PW)
    _, factor = robust(_squared(error), block.weight_PW, loss)
    root = factor.sqrt_()
    jacobian = derivatives(projection, R, intrinsics, error, root, free.shared, free.own_focal)
    return Linear(jacobian, *_whiten(jacobian.point_23PW, damping))


def _whiten(point_23PW: Tensor, damping: Tensor | float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """L⁻¹·Jᵀ of every observation (2, 3, P, W), and L = chol(V) as six rows (P)."""
    j = point_23PW
    v = {(i, k): (j[:, i] * j[:, k]).sum((0, 2)) for i in range(3) for k in range(i + 1)}
    floor = 1e-10 * (v[0, 0] + v[1, 1] + v[2, 2]) + 1e-30
    d0, d1, d2 = (v[i, i] * (1 + damping) + floor for i in range(3))
    l00 = d0.sqrt()
    l10, l20 = v[1, 0] / l00, v[2, 0] / l00
    l11 = (d1 - l10 * l10).clamp(min=floor).sqrt()
    l21 = (v[2, 1] - l20 * l10) / l11
    l22 = (d2 - l20 * l20 - l21 * l21).clamp(min=floor).sqrt()
    white = torch.empty_like(j)
    z0 = torch.div(j[:, 0], l00[:, None], out=white[:, 0])
    z1 = torch.sub(j[:, 1], l10[:, None] * z0, out=white[:, 1]).div_(l11[:, None])
    z2 = torch.sub(j[:, 2], l20[:, None] * z0, out=white[:, 2])
    z2.sub_(l21[:, None] * z1).div_(l22[:, None])
    return white, (l00, l10, l11, l20, l21, l22)


def reduced_system(part: Linear, dof: int, damping: Tensor | float = 0.0) -> Tensor:
    """U − Zᵀ·Z of one block: unknowns dof × its cameras, then the shared; the last column is g."""
    window = part.white_23PW.shape[3]
    split = dof * window
    system = _minus_gram(_whitened(part, dof))
    product_CCW = _products(part.jacobian.columns_2PCW)
    torch.diagonal(product_CCW[:-1, :-1], dim1=0, dim2=1).mul_(1 + damping)
    cameras = system[:split, :split].view(dof, window, dof, window)
    torch.diagonal(cameras, dim1=1, dim2=3).add_(product_CCW[:dof, :dof])
    beside = product_CCW[:dof, dof:].transpose(1, 2)
    system[:split, split:] += beside.reshape(split, -1)
    system[split:, split:] += product_CCW[dof:, dof:].sum(2)
    return system


def _products(columns_2PCW: Tensor) -> Tensor:
    """Sums over points and both coordinates of products of columns (C, C, W)."""
    _, points, count, window = columns_2PCW.shape
    if columns_2PCW.device.type != "cpu":
        by_camera = columns_2PCW.view(2 * points, count, window).permute(2, 0, 1).contiguous()
        return (by_camera.mT @ by_camera).permute(1, 2, 0).contiguous()
    product = columns_2PCW.new_empty((count, count, window))
    for c in range(count):
        row = columns_2PCW[:, :, : c + 1] * columns_2PCW[:, :, c : c + 1]
        torch.sum(row, (0, 1), out=product[c, : c + 1])
        product[:c, c] = product[c, :c]
    return product


def _whitened(part: Linear, dof: int) -> Tensor:
    """Z (3·P, …) with columns dof × cameras of the window, shared, residual."""
    J, white = part.jacobian.columns_2PCW, part.white_23PW
    _, points, count, window = J.shape
    split = dof * window
    Z = J.new_empty((3, points, split + count - dof))
    for k in range(3):
        columns = Z[k, :, :split].view(points, dof, window)
        torch.mul(J[0, :, :dof], white[0, k, :, None], out=columns)
        columns.addcmul_(J[1, :, :dof], white[1, k, :, None])
        others = (J[0, :, dof:] * white[0, k, :, None]).addcmul_(
            J[1, :, dof:], white[1, k, :, None]
        )
        torch.sum(others, 2, out=Z[k, :, split:])
    return Z.view(3 * points, -1)


def _minus_gram(Z: Tensor) -> Tensor:
    """−ZᵀZ; on a CPU the upper half is a copy of the lower one."""
    columns = Z.shape[1]
    product = Z.new_empty((columns, columns))
    strips = STRIPS if Z.device.type == "cpu" else 1
    edges = [columns * strip // strips for strip in range(strips + 1)]
    for low, high in pairwise(edges):
        part = product[low:high, :high]
        torch.addmm(part, Z[:, low:high].T, Z[:, :high], beta=0, alpha=-1, out=part)
        product[:low, low:high] = product[low:high, :low].T
    return product


@dataclass(frozen=True)
class Step:
    """Changes of cameras (F, dof) and of the shared unknowns (B,)."""

    cameras_FC: Tensor
    shared_B: Tensor


def unpack(plan: Plan, cameras_SD: Tensor, shared_B: Tensor) -> Step:
    """A solution of the reduced system, camera by camera."""
    cameras = cameras_SD.view(plan.segments, plan.dof, plan.size).transpose(1, 2)
    return Step(cameras.reshape(-1, plan.dof)[: plan.frames].contiguous(), shared_B)


def advance(state: State, step: Step, free: Unknowns) -> State:
    """Move cameras and shared unknowns; points stay."""
    R, t = perturb(state.R_F33, state.t_F3, step.cameras_FC[:, :CAMERA_DOF])
    log_focal, centre, k1 = state.log_focal, state.centre_2, state.k1
    if free.own_focal:
        log_focal = log_focal + step.cameras_FC[:, CAMERA_DOF]
    for name, change in zip(free.shared, step.shared_B, strict=True):
        if name == "log_focal":
            log_focal = log_focal + change
        elif name == "k1":
            assert k1 is not None
            k1 = k1 + change
    if "cx" in free.shared:
        assert centre is not None
        at = free.shared.index("cx")
        centre = centre + step.shared_B[at : at + 2]
    return State(R, t, state.points_N3, log_focal, centre, k1)


def retract(
    state: State,
    step: Step,
    layout: Layout,
    linear: list[Linear],
    free: Unknowns,
    loss: Loss,
    parallel: Map,
) -> tuple[State, Tensor, Tensor]:
    """Move cameras and intrinsics by the step, and points to their optimum given it.

    Returns the new state, its Σρ, and the cost that the linear model, with the present weights,
    loses by the step.
    """
    moved_state = advance(state, step, free)

    shared_BW = step.shared_B[:, None]

    def of_block(item: tuple[Block, Linear]) -> tuple[Tensor, Tensor, Tensor]:
        block, part = item
        cameras = step.cameras_FC[block.first : block.first + block.window].T
        near = torch.cat((cameras, shared_BW.expand(-1, block.window)))
        before = part.jacobian.error_2PW
        error = before + (part.jacobian.columns_2PCW[:, :, :-1] * near).sum(2)
        change_P3 = -_back_substitute(part, error)
        for k in range(3):
            error.addcmul_(part.jacobian.point_23PW[:, k], change_P3[:, k, None])
        points_P3 = _move_points(
            state.points_N3[block.order_P], change_P3, block.anchor_P, state, moved_state, step
        )
        R, t, _, intrinsics = moved_state.window(block)
        cost = _cost((R, t, points_P3.T.contiguous(), intrinsics), block, loss)
        return points_P3, cost, before.square().sum() - error.square_().sum()

    expected = state.t_F3.new_zeros(())
    cost = torch.zeros_like(expected)
    points_N3 = state.points_N3.clone()
    work = parallel(of_block, zip(layout.blocks, linear, strict=True))
    for block, (points_P3, part_cost, decrease) in zip(layout.blocks, work, strict=True):
        points_N3[block.order_P] = points_P3
        cost = cost + part_cost
        expected = expected + decrease
    return replace(moved_state, points_N3=points_N3), cost, expected


def _back_substitute(part: Linear, error_2PW: Tensor) -> Tensor:
    """V⁻¹·Jᵀ·error (P, 3)."""
    y0, y1, y2 = ((part.white_23PW[:, k] * error_2PW).sum((0, 2)) for k in range(3))
    l00, l10, l11, l20, l21, l22 = part.L_6P
    x2 = y2 / l22
    x1 = (y1 - l21 * x2) / l11
    x0 = (y0 - l10 * x1 - l20 * x2) / l00
    return torch.stack((x0, x1, x2), 1)


def _move_points(
    points_P3: Tensor,
    change_P3: Tensor,
    anchor_P: Tensor,
    state: State,
    new: State,
    step: Step,
) -> Tensor:
    """Take a step that is linear in pixel position and inverse depth in the anchor camera.

    To first order this is `points + change`. With little parallax, and along the valley where
    focal length, rotations and depths trade off, the reprojection is far closer to linear in
    these coordinates than in Euclidean ones (Civera, Davison, Montiel 2008): steps are longer.
    """
    R, t, turn = state.R_F33[anchor_P], state.t_F3[anchor_P], step.cameras_FC[anchor_P]
    local = (R @ points_P3[:, :, None])[:, :, 0] + t
    turned = torch.linalg.cross(turn[:, :3], local) + turn[:, 3:CAMERA_DOF]
    change = (R @ change_P3[:, :, None])[:, :, 0] + turned
    depth = local[:, 2:].clamp(min=MIN_DEPTH)
    zoom = (new.log_focal_of(anchor_P) - state.log_focal_of(anchor_P)).reshape(-1, 1)
    relative = change[:, 2:] / depth
    direction = local / depth
    direction = direction + (change / depth - direction * relative) + direction * zoom
    inverse = (1 - relative + zoom).clamp(LEAST_INVERSE, MOST_INVERSE)
    moved = torch.cat((direction[:, :2], zoom.exp().expand_as(depth)), 1) * (depth / inverse)
    R_new, t_new = new.R_F33[anchor_P], new.t_F3[anchor_P]
    back: Tensor = R_new.transpose(1, 2) @ (moved - t_new)[:, :, None]
    return back[:, :, 0]
