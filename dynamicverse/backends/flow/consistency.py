"""Where forward and backward flow agree: elsewhere a pixel is occluded or the flow wrong."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.flow import Flow

RELATIVE, ABSOLUTE = 0.01, 0.5  # of the squared lengths; px²
BAND = 120  # rows at a time: small arrays, whose memory is reused, are three times as fast


def consistency(forward_HW2: Flow, backward_HW2: Flow) -> npt.NDArray[np.bool_]:
    """Pixels (H,W) of the first frame whose flow leads back to them.

    |f(x) + b(x + f(x))|² < 0.01 (|f|² + |b|²) + 0.5 px², after Sundaram, Brox and Keutzer,
    "Dense point trajectories by GPU-accelerated large displacement optical flow" (ECCV
    2010). Pixels that leave the image do not agree. Swap the arguments for the other frame.
    """
    height, width = forward_HW2.shape[:2]
    agree_HW = np.empty((height, width), bool)
    column_W = np.arange(width, dtype=np.float32)
    row_H1 = np.arange(height, dtype=np.float32)[:, None]
    for top in range(0, height, BAND):
        band = slice(top, top + BAND)
        u_hW, v_hW = forward_HW2[band, :, 0], forward_HW2[band, :, 1]
        x_hW, y_hW = u_hW + column_W, v_hW + row_H1[band]
        back_hW2 = cv2.remap(
            backward_HW2, x_hW, y_hW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        back_u_hW, back_v_hW = back_hW2[..., 0], back_hW2[..., 1]
        error_hW = np.square(u_hW + back_u_hW) + np.square(v_hW + back_v_hW)
        lengths_hW = u_hW * u_hW + v_hW * v_hW + back_u_hW * back_u_hW + back_v_hW * back_v_hW
        inside_hW = (x_hW >= 0) & (y_hW >= 0) & (x_hW <= width - 1) & (y_hW <= height - 1)
        agree_HW[band] = inside_hW & (error_hW < RELATIVE * lengths_hW + ABSOLUTE)
    return agree_HW
