"""Where moving objects are, from one camera: they stand on the static scene.

One camera cannot tell the distance of a thing that moves: nearer and slower looks the same as
farther and faster. The assumption made here is contact: the lowest part of an object's mask
touches the surface that is seen just below it. A plane is fitted to the inverse depth of that
surface (exact for flat ground) and continued to the contact. The whole object gets the depth of
its contact, smoothed over time, at low confidence. Where the contact is not seen (cut off by
the picture, or no ground below), nothing is known and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.formats.masks import present
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.projection import rays

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CONFIDENCE = 0.2  # of everything that rests on the assumption
BASE = 0.15  # share of an object's height whose columns count as standing on the ground
BAND = (1, 14)  # rows below the contact that show the ground, px of the working resolution
MIN_AREA = 12  # px of the working resolution
MIN_GROUND = 12  # pixels of ground that a plane is fitted to
FIT_ROUNDS = 10
MAX_CUT = 0.5  # share of the base that may be cut off by the picture
SMOOTH_FRAMES = 1.5  # standard deviation of the smoothing over time
BRIDGE_FRAMES = 4  # contacts farther away in time say nothing
JUMP = 0.15  # a contact that differs so much from its neighbours in time is dropped


@dataclass(frozen=True)
class ObjectDepths:
    """Depth (M,F) along the optical axis of each object in each frame, NaN where unknown.

    ids_M: instance ids, ascending.
    """

    ids_M: npt.NDArray[np.int32]
    depth_MF: Floats

    def at(self, frame: int) -> Floats32:
        """Depth by instance id (256,); 0 where unknown."""
        table = np.zeros(256, np.float32)
        depth_M = self.depth_MF[:, frame]
        known_M = np.isfinite(depth_M)
        table[self.ids_M[known_M]] = depth_M[known_M]
        return table

    @property
    def without_depth(self) -> list[int]:
        """Objects whose depth is unknown in every frame."""
        return [int(i) for i in self.ids_M[~np.isfinite(self.depth_MF).any(1)]]


def contacts(ids_hw: Bytes, depth_hw: Floats32 | None) -> dict[int, float]:
    """Inverse depth of the contact of every object in a frame, NaN where it is not seen.

    At working resolution; depth_hw: static depth, 0 = unknown, None where there is none.
    """
    found = {}
    for instance in sorted(present(ids_hw)):
        rows, columns = np.nonzero(ids_hw == instance)
        found[instance] = float("nan")
        if depth_hw is not None and len(rows) >= MIN_AREA:
            found[instance] = _contact(rows, columns, ids_hw, depth_hw)
    return found


def place(contacts_F: Sequence[Mapping[int, float]]) -> ObjectDepths:
    """Depths of all objects over time from the contacts of every frame."""
    ids = sorted({i for frame in contacts_F for i in frame})
    depth_MF = np.full((len(ids), len(contacts_F)), np.nan)
    for row, instance in enumerate(ids):
        inverse_F = np.array([frame.get(instance, np.nan) for frame in contacts_F])
        seen_F = np.array([instance in frame for frame in contacts_F])
        smooth_F = _smooth(_without_jumps(inverse_F))
        depth_MF[row] = np.where(seen_F, 1 / smooth_F, np.nan)
    return ObjectDepths(np.array(ids, np.int32), depth_MF)


def centre(
    instance: int, ids_HW: Bytes, depth_HW: Floats32, c2w: Floats, K: Floats
) -> Floats | None:
    """World position (3,) of the visible part of an object; None where its depth is unknown.

    The middle of its mask at the median of its depth.
    """
    rows, columns = np.nonzero((ids_HW == instance) & (depth_HW > 0))
    if not len(rows):
        return None
    middle_2 = np.array([columns.mean(), rows.mean()])
    camera_3 = rays(middle_2, K) * float(np.median(depth_HW[rows, columns]))
    return np.asarray(c2w[:3, :3] @ camera_3 + c2w[:3, 3])


def track_points(
    tracks: Tracks, frame: int, ids_HW: Bytes, depth_HW: Floats32, c2w: Floats, K: Floats
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """World points (T,3) of the tracks on moving objects in a frame, and which tracks these are.

    Only tracks that lie on the mask of their own object, where its depth is known.
    """
    height, width = depth_HW.shape
    index = np.flatnonzero(tracks.visibility_FN[frame] & (tracks.instance_id_N > 0))
    pixel_T2 = tracks.tracks_FN2[frame, index].astype(np.float64)
    column, row = np.rint(pixel_T2).astype(np.intp).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index, pixel_T2, row, column = index[inside], pixel_T2[inside], row[inside], column[inside]
    own = (ids_HW[row, column] == tracks.instance_id_N[index]) & (depth_HW[row, column] > 0)
    camera_T3 = rays(pixel_T2[own], K) * depth_HW[row[own], column[own], None]
    return camera_T3 @ c2w[:3, :3].T + c2w[:3, 3], index[own]


def _contact(
    rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], ids_hw: Bytes, depth_hw: Floats32
) -> float:
    """Inverse depth of the ground where an object's lowest part touches it; NaN if unseen."""
    height = depth_hw.shape[0]
    lowest = np.full(depth_hw.shape[1], -1)
    np.maximum.at(lowest, columns, rows)
    bottom, top = int(rows.max()), int(rows.min())
    base = np.flatnonzero(lowest >= bottom - BASE * (bottom - top + 1))
    if np.mean(lowest[base] >= height - 2) > MAX_CUT:
        return float("nan")
    base = base[lowest[base] < height - 2]
    row_BC = lowest[base][:, None] + np.arange(*BAND)
    column_BC = np.broadcast_to(base[:, None], row_BC.shape)
    inside = row_BC < height
    row_G, column_G = row_BC[inside], column_BC[inside]
    ground = (depth_hw[row_G, column_G] > 0) & (ids_hw[row_G, column_G] == 0)
    row_G, column_G = row_G[ground], column_G[ground]
    if len(row_G) < MIN_GROUND:
        return float("nan")
    plane = _fit_plane(row_G, column_G, 1 / depth_hw[row_G, column_G].astype(np.float64))
    if plane is None:
        return float("nan")
    return float(np.median(plane[0] + plane[1] * base + plane[2] * lowest[base]))


def _fit_plane(
    row_G: npt.NDArray[np.intp], column_G: npt.NDArray[np.intp], inverse_G: Floats
) -> Floats | None:
    """Inverse depth = p0 + p1·column + p2·row, robustly; None if it is no ground.

    Ground comes nearer towards the lower edge of the picture.
    """
    design_G3 = np.stack([np.ones(len(row_G)), column_G, row_G], 1)
    weight_G = np.ones(len(row_G))
    plane: Floats = np.zeros(3)
    for _ in range(FIT_ROUNDS):
        solution = np.linalg.lstsq(design_G3 * weight_G[:, None], inverse_G * weight_G)
        plane = np.asarray(solution[0], np.float64)
        error_G = np.abs(inverse_G - design_G3 @ plane)
        scale = 1.5 * np.median(error_G) + 1e-9
        weight_G = 1 / np.maximum(error_G / scale, 1.0)
    return plane if plane[2] > 0 else None


def _without_jumps(inverse_F: Floats) -> Floats:
    """Drop contacts far from the median of those close in time."""
    kept_F = inverse_F.copy()
    for frame in np.flatnonzero(np.isfinite(inverse_F)):
        near = inverse_F[max(0, frame - BRIDGE_FRAMES) : frame + BRIDGE_FRAMES + 1]
        middle = np.nanmedian(near)
        if middle <= 0 or abs(inverse_F[frame] - middle) > JUMP * middle:
            kept_F[frame] = np.nan
    return kept_F


def _smooth(inverse_F: Floats) -> Floats:
    """Gaussian mean over time of what is known; NaN far from any contact."""
    known = np.flatnonzero(np.isfinite(inverse_F))
    smooth_F = np.full(len(inverse_F), np.nan)
    for frame in range(len(inverse_F)):
        near = known[np.abs(known - frame) <= BRIDGE_FRAMES]
        if len(near):
            weight = np.exp(-0.5 * ((near - frame) / SMOOTH_FRAMES) ** 2)
            smooth_F[frame] = float(weight @ inverse_F[near] / weight.sum())
    return smooth_F
