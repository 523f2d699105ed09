"""Symmetric systems of cameras in a chain: block tridiagonal with a border (torch).

Cameras that share no track do not meet in the reduced system, so it has a band as wide as the
longest track. Consecutive cameras are put into segments at least as long as that: the system is
block tridiagonal, and the unknowns that all cameras share are its border. One segment is the
dense case. Block Cholesky; the wanted blocks of the inverse by the recursion of Takahashi,
Fagan and Chen ("Formation of a sparse bus impedance matrix", 1973).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DENSE = 64  # cameras that are always one segment
SEGMENT = 24  # cameras a segment at least, so that its products are worth their overhead


@dataclass(frozen=True)
class Plan:
    """How cameras × dof unknowns are cut into segments of `size` cameras."""

    frames: int
    dof: int
    shared: int
    size: int

    @property
    def segments(self) -> int:
        """Number of segments; the last may be padded."""
        return -(-self.frames // self.size)


def plan(frames: int, dof: int, shared: int, widest: int) -> Plan:
    """Segments for windows of at most `widest` cameras."""
    size = max(widest, SEGMENT)
    return Plan(frames, dof, shared, frames if frames <= max(DENSE, size) else size)


class System:
    """H·step = −g, unknowns (dof × cameras) a segment, then the shared ones.

    diagonal_SDD, below_SDD (block s couples segment s + 1 with s), border_SDB with g as its
    last column, corner_BB likewise.
    """

    def __init__(self, shape: Plan, like: Tensor) -> None:
        self.plan = shape
        unknowns, columns = shape.dof * shape.size, shape.shared + 1
        self.diagonal_SDD = like.new_zeros((shape.segments, unknowns, unknowns))
        self.below_SDD = like.new_zeros((shape.segments - 1, unknowns, unknowns))
        self.border_SDB = like.new_zeros((shape.segments, unknowns, columns))
        self.corner_BB = like.new_zeros((columns, columns))

    def scaled(self, factor: float) -> System:
        """A copy times a number."""
        copy = System(self.plan, self.corner_BB)
        for name in ("diagonal_SDD", "below_SDD", "border_SDB", "corner_BB"):
            getattr(copy, name).add_(getattr(self, name), alpha=factor)
        return copy

    def without(self, part: System, weight: float) -> System:
        """A copy less `weight` times the curvature of a part; its slope is minus the part's."""
        rest = self.scaled(1.0)
        for name in ("diagonal_SDD", "below_SDD", "border_SDB", "corner_BB"):
            getattr(rest, name).sub_(getattr(part, name), alpha=weight)
        rest.border_SDB[:, :, -1] = -part.border_SDB[:, :, -1]
        rest.corner_BB[:-1, -1] = -part.corner_BB[:-1, -1]
        return rest

    def add(self, part: Tensor, first: int, window: int) -> None:
        """Add the system of a window: unknowns (dof × window), shared, and g as a column."""
        dof, size = self.plan.dof, self.plan.size
        split = dof * window
        inner = part[:split, :split].view(dof, window, dof, window)
        border = part[:split, split:].view(dof, window, -1)
        pieces = list(_pieces(first, window, size))
        for segment, here, near in pieces:
            block = self.diagonal_SDD[segment].view(dof, size, dof, size)
            block[:, here, :, here] += inner[:, near, :, near]
            self.border_SDB[segment].view(dof, size, -1)[:, here] += border[:, near]
        if len(pieces) == 2:
            (segment, right, left_near), (_, lower, lower_near) = pieces
            block = self.below_SDD[segment].view(dof, size, dof, size)
            block[:, lower, :, right] += inner[:, lower_near, :, left_near]
        self.corner_BB += part[split:, split:]

    def add_chain(self, unknown: int, own_F: Tensor, slope_F: Tensor, between: float) -> None:
        """Add a prior on one unknown of every camera: own and slope, −between its neighbours."""
        size = self.plan.size
        row = unknown * size
        for segment in range(self.plan.segments):
            part = slice(segment * size, min((segment + 1) * size, self.plan.frames))
            count = part.stop - part.start
            block = self.diagonal_SDD[segment, row : row + count, row : row + count]
            block.diagonal().add_(own_F[part])
            for offset in (-1, 1):
                block.diagonal(offset).sub_(between)
            self.border_SDB[segment, row : row + count, -1] += slope_F[part]
            if segment:
                self.below_SDD[segment - 1, row, row + size - 1] -= between

    def factor(self, free_SD: Tensor, free_B: Tensor) -> Factor:
        """Block Cholesky of the scaled system, fixed unknowns (0 in the masks) held."""
        diagonal = torch.diagonal(self.diagonal_SDD, dim1=1, dim2=2)
        scale_SD = diagonal.clamp(min=1e-30).rsqrt() * free_SD
        shared = self.plan.shared
        scale_B = self.corner_BB.diagonal()[:shared].clamp(min=1e-30).rsqrt() * free_B
        border_scale = torch.cat((scale_B, scale_B.new_ones(1)))
        D = self.diagonal_SDD * scale_SD[:, :, None] * scale_SD[:, None]
        torch.diagonal(D, dim1=1, dim2=2).clamp_(min=1.0)  # fixed or unseen: an empty row
        E = self.below_SDD * scale_SD[1:, :, None] * scale_SD[:-1, None]
        right = self.border_SDB * scale_SD[:, :, None] * border_scale
        corner = self.corner_BB * border_scale[:, None] * border_scale
        corner[:shared, :shared].diagonal().copy_(torch.ones_like(scale_B))
        return _factorise(D, E, right, corner, scale_SD, scale_B)


@dataclass(frozen=True)
class Factor:
    """L (S, D, D) of the chain, W = L⁻¹·Eᵀ between segments, Y = L⁻¹·[border | g].

    bad: not zero where the system is not positive definite.
    """

    L_SDD: Tensor
    W_SDD: Tensor
    Y_SDB: Tensor
    corner_BB: Tensor
    corner_L: Tensor
    scale_SD: Tensor
    scale_B: Tensor
    bad: Tensor

    def solve(self) -> tuple[Tensor, Tensor]:
        """The step −H⁻¹·g: of the segments' unknowns (S, D), and of the shared (B,)."""
        shared = -torch.cholesky_solve(self.corner_BB[:-1, -1:], self.corner_L)
        weights = torch.cat((shared, shared.new_full((1, 1), -1.0)))
        weights[:-1].neg_()
        step = self._back(self.Y_SDB @ weights)[:, :, 0]
        return step * self.scale_SD, shared[:, 0] * self.scale_B

    def apply(self, right_SDK: Tensor, shared_BK: Tensor) -> tuple[Tensor, Tensor]:
        """H⁻¹ times columns: of the segments' unknowns (S, D, K) and of the shared (B, K)."""
        forward: list[Tensor] = []
        corner = shared_BK * self.scale_B[:, None]
        for s in range(len(self.L_SDD)):
            here = right_SDK[s] * self.scale_SD[s, :, None]
            if forward:
                here = here - self.W_SDD[s - 1].mT @ forward[-1]
            forward.append(torch.linalg.solve_triangular(self.L_SDD[s], here, upper=False))
            corner = corner - self.Y_SDB[s, :, :-1].mT @ forward[-1]
        shared = torch.cholesky_solve(corner, self.corner_L)
        found = self._back(torch.stack(forward) - self.Y_SDB[:, :, :-1] @ shared)
        return found * self.scale_SD[:, :, None], shared * self.scale_B[:, None]

    def variances(self) -> tuple[Tensor, Tensor]:
        """Diagonal of H⁻¹ of the segments' unknowns (S, D), and H⁻¹ of the shared (B, B)."""
        shared = torch.cholesky_inverse(self.corner_L)
        G = self._back(self.Y_SDB[:, :, :-1])
        result = ((G @ shared) * G).sum(2)
        later: Tensor | None = None
        for s in reversed(range(len(self.L_SDD))):
            block = torch.cholesky_inverse(self.L_SDD[s])
            if later is not None:
                K = torch.linalg.solve_triangular(self.L_SDD[s].mT, self.W_SDD[s], upper=True)
                block = block + K @ later @ K.mT
            result[s] += block.diagonal()
            later = block
        scale_B = self.scale_B
        return result * self.scale_SD.square(), shared * scale_B[:, None] * scale_B

    def _back(self, right_SDK: Tensor) -> Tensor:
        """L⁻ᵀ applied from the last segment to the first."""
        found: list[Tensor] = []
        for s in reversed(range(len(self.L_SDD))):
            here = right_SDK[s]
            if found:
                here = here - self.W_SDD[s] @ found[-1]
            found.append(torch.linalg.solve_triangular(self.L_SDD[s].mT, here, upper=True))
        return torch.stack(found[::-1])


def spread(values_CFK: Tensor, shape: Plan) -> Tensor:
    """Values of (padded) cameras as columns (S, D, K) of the segments' unknowns."""
    cut = values_CFK.reshape(shape.dof, shape.segments, shape.size, -1)
    return cut.transpose(0, 1).reshape(shape.segments, shape.dof * shape.size, -1)


def _factorise(
    D: Tensor, E: Tensor, right: Tensor, corner: Tensor, scale_SD: Tensor, scale_B: Tensor
) -> Factor:
    lower, between, forward = [], [], []
    block, here = D[0], right[0]
    bad = torch.zeros((), dtype=torch.int32, device=D.device)
    for s in range(len(D)):
        L, info = torch.linalg.cholesky_ex(block)
        bad = bad + info.abs()
        Y = torch.linalg.solve_triangular(L, here, upper=False)
        corner = corner - Y.mT @ Y
        lower.append(L)
        forward.append(Y)
        if s + 1 < len(D):
            W = torch.linalg.solve_triangular(L, E[s].mT, upper=False)
            block = D[s + 1] - W.mT @ W
            here = right[s + 1] - W.mT @ Y
            between.append(W)
    corner_L, info = torch.linalg.cholesky_ex(corner[:-1, :-1])
    W_SDD = torch.stack(between) if between else E
    return Factor(
        torch.stack(lower),
        W_SDD,
        torch.stack(forward),
        corner,
        corner_L,
        scale_SD,
        scale_B,
        bad + info.abs(),
    )


def _pieces(first: int, window: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """(segment, its cameras, the window's cameras) of a window; at most two."""
    start = first
    while start < first + window:
        segment = start // size
        stop = min(first + window, (segment + 1) * size)
        here = slice(start - segment * size, stop - segment * size)
        yield segment, here, slice(start - first, stop - first)
        start = stop
