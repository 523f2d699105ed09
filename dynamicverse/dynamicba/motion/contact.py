"""Where objects stand on the static scene.

One camera cannot tell the distance of a thing that moves: nearer and slower looks the same as
farther and faster. The assumption made here is contact: the lowest part of an object's mask
touches the surface that is seen just below it. A plane is fitted to the inverse depth of that
surface (exact for flat ground) and continued to the contact. Where the contact is not seen (cut
off by the picture, or no ground below), nothing is known. Above the contact an object is taken to
stand upright on that ground: before a camera that looks down its head is nearer than its feet.
How thick it is no single view shows: it is taken to be as thick as it is wide, a solid of
revolution about a vertical axis, whose near side is seen. What bulges over its footprint, like a
ball, is nearer than the ground below it; what stands on all of its width is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dynamicverse.formats.masks import present

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BASE = 0.15  # share of an object's height whose columns count as standing on the ground
BAND = (1, 14)  # rows below the contact that show the ground, px of the working resolution
MIN_AREA = 12  # px of the working resolution
MIN_GROUND = 12  # pixels of ground that a plane is fitted to
FIT_ROUNDS = 10
MAX_CUT = 0.5  # share of the base that may be cut off by the picture
BORDER = 0.025  # of the height of the picture: masks end so far before what cuts them off
LEAST_STEEP = 0.02  # tangent of the angle at which rays meet the ground
MOST_BULGE = 0.3  # of the depth: what is wider fills the picture
LEAST_UPRIGHT = 0.3  # bound of the change of inverse depth over an upright object
SMOOTH_FRAMES = 1.5  # standard deviation of the smoothing over time
BRIDGE_FRAMES = 4  # contacts farther away in time say nothing
JUMP = 0.15  # a contact that differs so much from its neighbours in time is dropped


@dataclass(frozen=True)
class Anchor:
    """Depth of an object along the optical axis at some pixels (x, y) of one frame.

    From outside the object: the ground that it stands on, or a depth prior. lean_2: how much the
    inverse depth of an upright object changes a px, relative to that at the pixels. middle_2:
    the middle of the object in the picture, None where the pixels are all over it. bulge: share
    of the depth by which an object as thick as wide is nearer than upright over the pixels.
    """

    pixels_K2: Floats
    depth_K: Floats
    lean_2: Floats = field(default_factory=lambda: np.zeros(2))
    middle_2: Floats | None = None
    bulge: float = 0.0

    @property
    def inverse(self) -> float:
        """The inverse depth of the object as a whole: of its visible side in its middle."""
        inverse = float(np.median(1 / self.depth_K)) / (1 - self.bulge)
        return inverse if self.middle_2 is None else inverse * float(self.upright(self.middle_2))

    def over_whole(self, pixels_N2: Floats) -> Floats:
        """Inverse depth (N) of an upright object at some pixels, over that of the whole."""
        if self.middle_2 is None:
            return np.ones(len(pixels_N2))
        return self.upright(pixels_N2) / float(self.upright(self.middle_2))

    def upright(self, pixels_N2: Floats) -> Floats:
        """Inverse depth (N) of an upright object at some pixels, over that at the anchor."""
        change_N = (pixels_N2 - self.pixels_K2.mean(0)) @ self.lean_2
        return np.asarray(np.maximum(1 + change_N, LEAST_UPRIGHT))

    def enlarged(self, zoom_2: Floats) -> Anchor:
        """The same in a picture that is larger by the factors (x, y)."""
        middle_2 = None if self.middle_2 is None else (self.middle_2 + 0.5) * zoom_2 - 0.5
        pixels_K2 = (self.pixels_K2 + 0.5) * zoom_2 - 0.5
        return Anchor(pixels_K2, self.depth_K, self.lean_2 / zoom_2, middle_2, self.bulge)


def contacts(ids_hw: Bytes, depth_hw: Floats32 | None, K: Floats) -> dict[int, Anchor | None]:
    """The contact of every object in a frame, None where it is not seen.

    At working resolution, as K (3,3) is; depth_hw: static depth, 0 = unknown, None where there
    is none.
    """
    found: dict[int, Anchor | None] = {}
    for instance in sorted(present(ids_hw)):
        rows, columns = np.nonzero(ids_hw == instance)
        found[instance] = None
        if depth_hw is not None and len(rows) >= MIN_AREA:
            found[instance] = _contact(rows, columns, ids_hw, depth_hw, K)
    return found


def steady_depth(inverse_F: Floats) -> Floats:
    """Depth over time from inverse depths (NaN = unknown): jumps dropped, smoothed, short gaps
    bridged; NaN far from any contact.
    """
    return np.asarray(1 / _smooth(_without_jumps(inverse_F)))


def _contact(
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    ids_hw: Bytes,
    depth_hw: Floats32,
    K: Floats,
) -> Anchor | None:
    """The ground where an object's lowest part touches it; None if unseen."""
    height = depth_hw.shape[0]
    lowest = np.full(depth_hw.shape[1], -1)
    np.maximum.at(lowest, columns, rows)
    bottom, top = int(rows.max()), int(rows.min())
    base = np.flatnonzero(lowest >= bottom - BASE * (bottom - top + 1))
    border = min(height - 2, int((1 - BORDER) * height))
    if np.mean(lowest[base] >= border) > MAX_CUT:
        return None
    base = base[lowest[base] < border]
    row_BC = lowest[base][:, None] + np.arange(*BAND)
    column_BC = np.broadcast_to(base[:, None], row_BC.shape)
    inside = row_BC < height
    row_G, column_G = row_BC[inside], column_BC[inside]
    ground = (depth_hw[row_G, column_G] > 0) & (ids_hw[row_G, column_G] == 0)
    row_G, column_G = row_G[ground], column_G[ground]
    if len(row_G) < MIN_GROUND:
        return None
    plane = _fit_plane(row_G, column_G, 1 / depth_hw[row_G, column_G].astype(np.float64))
    if plane is None:
        return None
    inverse = plane[0] + plane[1] * base + plane[2] * lowest[base]
    front = inverse > 0
    if 2 * front.sum() < len(base):
        return None
    pixels = np.stack([base, lowest[base]], 1)[front].astype(np.float64)
    ray_3, across_3 = _directions(plane, pixels.mean(0), K)
    lean_2 = across_3[:2] / np.diag(K)[:2] / (across_3 @ ray_3)
    away = float(np.linalg.norm(across_3))
    steep = max(float(ray_3 @ ray_3) / away**2 - 1.0, 0.0) ** 0.5
    bulge = float(_bulge(rows, steep) / (K[0, 0] * away))
    middle_2 = np.array([columns.mean(), rows.mean()])
    return Anchor(pixels, 1 / inverse[front], lean_2, middle_2, min(bulge, MOST_BULGE))


def _directions(plane_3: Floats, pixel_2: Floats, K: Floats) -> tuple[Floats, Floats]:
    """The ray (x, y, 1) through a pixel, and its part along the ground, away from the camera.

    plane_3: inverse depth of the ground = p0 + p1·column + p2·row.
    """
    # n·X = 1 for points X of the ground in camera coordinates
    down_3 = np.array([plane_3[1], plane_3[2], plane_3[0]]) @ K
    down_3 /= np.linalg.norm(down_3)
    ray_3 = np.linalg.inv(K) @ np.append(pixel_2, 1.0)
    return ray_3, ray_3 - (ray_3 @ down_3) * down_3


def _bulge(rows: npt.NDArray[np.intp], steep: float) -> float:
    """How far the visible side of a solid of revolution is before where its lowest pixel meets
    the ground, on average over its pixels, px of its own size.

    rows: of the pixels of its mask. steep: tangent of the angle between ray and ground.
    """
    width_R = np.bincount(rows)[rows.min() : rows.max() + 1]
    radius_R = width_R / 2
    stretch = np.sqrt(1 + steep**2)  # heights are foreshortened before a camera that looks down
    height_R = (np.arange(len(radius_R))[::-1] + 0.5) * stretch
    # the ray that grazes it lowest meets the ground so far before the axis
    foot = float(np.max(radius_R - height_R / max(steep, LEAST_STEEP)))
    near_side = float(np.sum(width_R * np.pi / 4 * radius_R) / np.sum(width_R))
    return near_side - max(foot, 0.0)


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
