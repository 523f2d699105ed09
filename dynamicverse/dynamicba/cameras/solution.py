"""What the tracks of a clip say of its cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from dynamicverse.dynamicba.bundle.blocks import Floats
from dynamicverse.dynamicba.cameras.graph import Mask

Segments = npt.NDArray[np.int32]
Status = Literal["full", "rotation_only", "static_camera", "too_short", "failed"]
FocalSource = Literal["estimated", "prior", "assumed"]


@dataclass(frozen=True)
class CameraSolution:
    """What the tracks say of the cameras and of the static scene.

    c2w_F44: float64 camera to world, NaN rows where not registered; the world is the first
    registered camera, lengths are relative (the median depth in it is about one).
    K_F33: float64 px. distortion: k1 of `lens.py`; points, c2w and K are those of the pinhole
    that is left when the pixels are straightened by it.
    pose_sigma_F6: standard deviations of the rotation about the camera's axes (rad) and of its
    centre along them, relative to the first registered camera and to the scale. focal_sigma_F:
    px. Both NaN, or None, where not estimated.
    points_N3: float64 world, NaN where a track has no static point of known depth; static_N: it
    has one. reprojection_rmse_px, observations: of the inliers.
    statements: plain words on what cannot be known.
    segment_F: 0 where registered, 1, 2, … further stretches that no track connects with those,
    -1 neither; segment_c2w_F44: the poses of the further stretches, each in a world and a unit
    of its own, NaN elsewhere. None where there is one segment.
    """

    status: Status
    c2w_F44: Floats
    K_F33: Floats
    registered_F: Mask
    focal_source: FocalSource
    points_N3: Floats
    static_N: Mask
    reprojection_rmse_px: float
    observations: int
    statements: list[str]
    distortion: float = 0.0
    pose_sigma_F6: Floats | None = None
    focal_sigma_F: Floats | None = None
    segment_F: Segments | None = None
    segment_c2w_F44: Floats | None = None

    def in_unit(self, factor: float) -> CameraSolution:
        """The same with all lengths times a factor."""
        c2w_F44, sigma_F6 = self.c2w_F44.copy(), self.pose_sigma_F6
        c2w_F44[:, :3, 3] *= factor
        if sigma_F6 is not None:
            sigma_F6 = sigma_F6 * [1, 1, 1, factor, factor, factor]
        points_N3 = factor * self.points_N3
        return replace(self, c2w_F44=c2w_F44, points_N3=points_N3, pose_sigma_F6=sigma_F6)
