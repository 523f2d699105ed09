"""Where an object is in the picture, and how it moves there: from masks and point tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.tracks import Tracks

Array = NDArray[np.float64]
EDGE_PX = 2  # so near to it a box touches the edge of the picture
ENDS = 0.2  # the first and last part of the frames that the size is compared over


@dataclass(frozen=True)
class Seen:
    """One instance in the n frames where its mask is not empty.

    frames_n: 0-based. area_n: share of the picture. centre_n2: of the mask, x and y as shares
    of the width and height. box_n4: x0, y0, x1, y1 in pixels, inclusive.
    """

    instance_id: int
    frames_n: NDArray[np.int64]
    area_n: Array
    centre_n2: Array
    box_n4: NDArray[np.int64]
    width: int
    height: int

    def edges(self, k: int) -> tuple[str, ...]:
        """The edges of the picture that the box touches in its k-th frame."""
        x0, y0, x1, y1 = self.box_n4[k]
        touches = {
            "left": x0 < EDGE_PX,
            "right": x1 >= self.width - EDGE_PX,
            "top": y0 < EDGE_PX,
            "bottom": y1 >= self.height - EDGE_PX,
        }
        return tuple(name for name, touch in touches.items() if touch)

    def whole(self) -> NDArray[np.bool_]:
        """Where the box touches no edge, so that its size is the object's (n)."""
        x0, y0, x1, y1 = self.box_n4.T
        inside_x = (x0 >= EDGE_PX) & (x1 < self.width - EDGE_PX)
        return np.asarray(inside_x & (y0 >= EDGE_PX) & (y1 < self.height - EDGE_PX))


def observe(
    mask: Callable[[int], NDArray[np.uint8]],
    frames: int,
    ids: Iterable[int],
    progress: Callable[[int, int], None],
) -> dict[int, Seen]:
    """Read all masks once; instances that no mask shows are left out."""
    rows: dict[int, list[tuple[int, float, float, float, int, int, int, int]]]
    rows = {i: [] for i in ids}
    width = height = 0
    for frame in range(frames if rows else 0):
        ids_HW = mask(frame)
        height, width = ids_HW.shape
        for i in np.flatnonzero(np.bincount(ids_HW.reshape(-1), minlength=256)):
            if int(i) in rows:
                rows[int(i)].append((frame, *_outline(ids_HW, int(i))))
        progress(frame + 1, frames)
    return {i: _seen(i, found, width, height) for i, found in rows.items() if found}


def _outline(
    ids_HW: NDArray[np.uint8], instance_id: int
) -> tuple[float, float, float, int, int, int, int]:
    binary_HW = (ids_HW == instance_id).view(np.uint8)
    x, y, w, h = cv2.boundingRect(binary_HW)
    moments = cv2.moments(binary_HW[y : y + h, x : x + w], binaryImage=True)
    area = moments["m00"]
    return (
        area / ids_HW.size,
        (moments["m10"] / area + x) / ids_HW.shape[1],
        (moments["m01"] / area + y) / ids_HW.shape[0],
        x,
        y,
        x + w - 1,
        y + h - 1,
    )


def _seen(
    instance_id: int,
    rows: list[tuple[int, float, float, float, int, int, int, int]],
    width: int,
    height: int,
) -> Seen:
    table = np.array(rows, np.float64)
    return Seen(
        instance_id,
        table[:, 0].astype(np.int64),
        table[:, 1],
        table[:, 2:4],
        table[:, 4:].astype(np.int64),
        width,
        height,
    )


@dataclass(frozen=True)
class PictureMotion:
    """How an instance moves in the picture.

    start, end: centres as shares of width and height. shift: end − start.
    way: length of its path, picture widths. size_ratio: size at the end over the start, as
    far as width and height agree; None where the object was hardly ever whole in view.
    against_background: its shift less that of the background behind it, in picture widths
    (x, y); None without tracks.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    shift: tuple[float, float]
    way: float
    size_ratio: float | None
    against_background: tuple[float, float] | None


def picture_motion(seen: Seen, background_F2: Array | None) -> PictureMotion:
    """Motion of an instance over the frames in which it is seen.

    background_F2: accumulated shift of the background, pixels (see `background_path`).
    """
    smooth_n2 = _smooth(seen.centre_n2)
    start, end = smooth_n2[0], smooth_n2[-1]
    aspect = np.array([1.0, seen.height / seen.width])
    way = float(np.linalg.norm(np.diff(smooth_n2, axis=0) * aspect, axis=1).sum())
    shift = end - start
    against = None
    if background_F2 is not None:
        behind = background_F2[seen.frames_n[-1]] - background_F2[seen.frames_n[0]]
        if np.isfinite(behind).all():
            relative = shift * aspect - behind / seen.width
            against = (float(relative[0]), float(relative[1]))
    return PictureMotion(_pair(start), _pair(end), _pair(shift), way, _size_ratio(seen), against)


def _pair(values: Array) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _smooth(path_n2: Array) -> Array:
    """Median of five, so that a single bad mask does not lengthen the path."""
    if len(path_n2) < 5:
        return path_n2
    padded = np.pad(path_n2, ((2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0)
    return np.asarray(np.median(windows, axis=-1))


def _size_ratio(seen: Seen) -> float | None:
    """The change that width and height of the box share: a turn changes one, distance both."""
    whole = np.flatnonzero(seen.whole())
    if len(whole) < 4:
        return None
    ends = max(2, round(ENDS * len(whole)))
    x0, y0, x1, y1 = seen.box_n4[whole].T
    ratios = [
        float(np.median(side_n[-ends:]) / np.median(side_n[:ends]))
        for side_n in (x1 - x0 + 1, y1 - y0 + 1)
    ]
    if min(ratios) > 1:
        return min(ratios)
    return max(ratios) if max(ratios) < 1 else 1.0


def background_path(tracks: Tracks) -> Array:
    """Accumulated shift of the background (F,2), pixels: the sum of median track steps.

    NaN from a frame on where no background track connects it to the one before.
    """
    frames = tracks.visibility_FN.shape[0]
    background_N = tracks.instance_id_N <= 0
    steps_F2 = np.zeros((frames, 2))
    for i in range(1, frames):
        both_N = tracks.visibility_FN[i - 1] & tracks.visibility_FN[i] & background_N
        if both_N.sum() < 5:
            steps_F2[i] = np.nan
        else:
            move_N2 = tracks.tracks_FN2[i, both_N] - tracks.tracks_FN2[i - 1, both_N]
            steps_F2[i] = np.median(move_N2, axis=0)
    return np.cumsum(steps_F2, axis=0)
