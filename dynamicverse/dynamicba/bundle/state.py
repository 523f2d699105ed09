"""What the solver adjusts, and which of it may change (torch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicverse.dynamicba.bundle.blocks import Block, Floats
from dynamicverse.dynamicba.bundle.jacobians import CAMERA_DOF, Intrinsics, Shared
from dynamicverse.dynamicba.bundle.lens import IDEAL, Lens
from dynamicverse.dynamicba.bundle.options import Options
from dynamicverse.dynamicba.bundle.reduced import Plan


@dataclass(frozen=True)
class Structure:
    """Cameras x = R·X + t (world to camera), world points, the focal length in px, the lens."""

    R_F33: Floats
    t_F3: Floats
    points_N3: Floats
    focal: float
    lens: Lens = IDEAL


@dataclass(frozen=True)
class Unknowns:
    """What may change besides points: 6 or 7 a camera, and these that all cameras share."""

    own_focal: bool
    shared: tuple[Shared, ...]

    @property
    def dof(self) -> int:
        """Unknowns a camera."""
        return CAMERA_DOF + self.own_focal


def unknowns(options: Options) -> Unknowns:
    """What the priors set free."""
    names: list[Shared] = []
    own_focal = False
    if options.focal_prior is not None:
        own_focal = options.focal_prior.change_sigma is not None
        if not own_focal:
            names.append("log_focal")
    if options.lens_prior.centre_sigma is not None:
        names += ["cx", "cy"]
    if options.lens_prior.k1_sigma is not None:
        names.append("k1")
    return Unknowns(own_focal, tuple(names))


@dataclass(frozen=True)
class State:
    """Tensors of a structure. log_focal: () or, where frames have their own, (F,).

    centre_2, k1: None where they are zero and stay so.
    """

    R_F33: Tensor
    t_F3: Tensor
    points_N3: Tensor
    log_focal: Tensor
    centre_2: Tensor | None
    k1: Tensor | None

    def window(self, block: Block) -> tuple[Tensor, Tensor, Tensor, Intrinsics]:
        """R (3, 3, W), t (3, W), points (3, P) and intrinsics of a block."""
        cameras = slice(block.first, block.first + block.window)
        log_focal = self.log_focal[cameras] if self.log_focal.ndim else self.log_focal
        return (
            self.R_F33[cameras].permute(1, 2, 0).contiguous(),
            self.t_F3[cameras].T.contiguous(),
            self.points_N3[block.order_P].T.contiguous(),
            Intrinsics(log_focal.exp(), self.centre_2, self.k1),
        )

    def log_focal_of(self, camera_P: Tensor) -> Tensor:
        """log f of some cameras, () or (P,)."""
        return self.log_focal[camera_P] if self.log_focal.ndim else self.log_focal

    @staticmethod
    def of(start: Structure, free: Unknowns, device: torch.device) -> State:
        """The tensors of a structure."""

        def tensor(value: npt.ArrayLike) -> Tensor:
            return torch.tensor(np.asarray(value, np.float64), device=device)

        lens, log_focal = start.lens, float(np.log(start.focal))
        own = free.own_focal or lens.zoom_F is not None
        zoom_F = np.zeros(len(start.t_F3)) if lens.zoom_F is None else lens.zoom_F
        moved = "cx" in free.shared or bool(np.any(lens.centre_2))
        bent = "k1" in free.shared or lens.k1 != 0.0
        return State(
            tensor(start.R_F33),
            tensor(start.t_F3),
            tensor(start.points_N3),
            tensor(log_focal + zoom_F if own else log_focal),
            tensor(lens.centre_2) if moved else None,
            tensor(lens.k1) if bent else None,
        )

    def structure(self) -> Structure:
        """Back to NumPy. The shared focal length is the geometric mean where they differ."""
        log_focal = self.log_focal.cpu().numpy()
        mean = float(np.mean(log_focal))
        return Structure(
            self.R_F33.cpu().numpy(),
            self.t_F3.cpu().numpy(),
            self.points_N3.cpu().numpy(),
            float(np.exp(mean)),
            Lens(
                np.zeros(2) if self.centre_2 is None else self.centre_2.cpu().numpy(),
                0.0 if self.k1 is None else float(self.k1),
                log_focal - mean if log_focal.ndim else None,
            ),
        )


@dataclass(frozen=True)
class Freedom:
    """Masks (1.0 free, 0.0 held) of the unknowns of the segments (S, D) and the shared (B,)."""

    cameras_SD: Tensor
    shared_B: Tensor

    @staticmethod
    def of(free_F6: npt.NDArray[np.bool_], free: Unknowns, plan: Plan, like: Tensor) -> Freedom:
        """free_F6: poses that may move. Focal lengths are free wherever they are unknowns."""
        padded = np.zeros((plan.segments * plan.size, free.dof))
        padded[: len(free_F6), :CAMERA_DOF] = free_F6
        padded[: len(free_F6), CAMERA_DOF:] = 1.0
        masks = padded.reshape(plan.segments, plan.size, free.dof).transpose(0, 2, 1)
        cameras = torch.tensor(masks.reshape(plan.segments, -1), device=like.device)
        return Freedom(cameras, like.new_ones(len(free.shared)))
