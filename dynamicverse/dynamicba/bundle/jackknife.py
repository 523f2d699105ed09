"""How far the cameras move without the tracks of a part of the picture (torch).

Neighbours drift together (a shadow, an edge that slides, a part of a surface that is seen ever
more obliquely), farther than any cluster can be chosen in advance. So the tracks are put into
few groups, each a part of the picture much larger than such a drift, and the scatter of the
estimate is that of the steps it takes when one group is left out: the jackknife (Tukey 1958;
with groups as clusters: Bell, McCaffrey, "Bias reduction in standard errors for linear
regression with multi-stage samples", 2002, their CR3), one Gauss–Newton step for each group. A
sandwich of so few clusters would be too small, since the fit bends to each of them; a step
without the group does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Indices, Layout
from dynamicverse.dynamicba.bundle.normal import Linear, reduced_system
from dynamicverse.dynamicba.bundle.reduced import System
from dynamicverse.dynamicba.bundle.state import Freedom

HALVINGS = 3  # of the picture: 8 groups
LEFT_OUT = 0.9  # of the information of a group: a camera that it alone holds stays determined


def group_variances(
    whole: System, linear: list[Linear], layout: Layout, curvature: float, freedom: Freedom
) -> tuple[Tensor, Tensor] | None:
    """Of the segments' unknowns (S, D) and of the shared ones (B,), by leaving groups out.

    None where what is left does not determine the cameras.

    whole: curvature of the cost, that of the tracks being `curvature` times what `linear` sums
    to.
    """
    groups = 2**HALVINGS
    group_P = [torch.from_numpy(part) for part in parts_of_picture(layout)]
    variance_SD = torch.zeros_like(freedom.cameras_SD)
    variance_B = torch.zeros_like(freedom.shared_B)
    for group in range(groups):
        own = System(whole.plan, whole.corner_BB)
        for block, part, of_P in zip(layout.blocks, linear, group_P, strict=True):
            members = torch.nonzero(of_P == group)[:, 0].to(part.white_23PW.device)
            if len(members):
                reduced = reduced_system(part.select(members), whole.plan.dof)
                own.add(reduced, block.first, block.window)
        rest = whole.without(own, LEFT_OUT * curvature)
        factor = rest.factor(freedom.cameras_SD, freedom.shared_B)
        if int(factor.bad):
            return None
        step_SD, step_B = factor.solve()
        variance_SD += step_SD.square()
        variance_B += step_B.square()
    share = (groups - 1) / groups
    return share * variance_SD, share * variance_B


def parts_of_picture(layout: Layout) -> list[Indices]:
    """The group (P,) of each track of each block, by where it was first seen.

    Groups are equally large: the picture is halved again and again at the median of the tracks,
    across the side along which they spread more.
    """
    first = []
    for block in layout.blocks:
        column = (block.anchor_P - block.first)[None, :, None].expand(2, -1, 1)
        first.append(block.xy_2PW.gather(2, column)[:, :, 0])
    xy_N2 = torch.cat(first, 1).T.cpu().numpy()
    group_N = np.zeros(len(xy_N2), np.int64)
    for level in range(HALVINGS):
        for group in range(2**level):
            members = np.flatnonzero(group_N == group)
            if not len(members):
                continue
            side = int(np.argmax(np.ptp(xy_N2[members], axis=0)))
            order = members[np.argsort(xy_N2[members, side], kind="stable")]
            group_N[order[len(order) // 2 :]] += 2**level
    ends = np.cumsum([len(block.order_P) for block in layout.blocks])
    return np.split(group_N, ends[:-1])
