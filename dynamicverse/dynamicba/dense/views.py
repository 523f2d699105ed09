"""Which frames to compare for dense depth, and in which range of depth to look.

The choice follows the view selection of MVSNet (Yao et al., ECCV 2018): points seen by both
frames vote with a weight that is highest at a triangulation angle of a few degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BEST_ANGLE = np.deg2rad(3.0)
NARROW, WIDE = np.deg2rad(1.5), np.deg2rad(5.0)  # spread of the weight to either side
LEAST_ANGLE = np.deg2rad(0.5)  # a pair with less parallax says nothing
MIN_SHARED = 8
MAX_POINTS = 1500  # of one frame that vote
NEAR_SHARE, FAR_SHARE = 1.0, 97.0  # percentiles of the depth of the points
APART = 3  # neighbours on a side are apart by this part of how far away they are
MARGIN = 1.4  # of the range to either side, as a factor


@dataclass(frozen=True)
class SparsePoints:
    """What the cameras were solved with, static points only.

    points_N3: world, NaN where unknown. visible_FN: seen in that frame.
    """

    points_N3: Floats
    visible_FN: Mask

    def seen(self, frame: int) -> npt.NDArray[np.intp]:
        """Points that are known and seen in a frame."""
        return np.flatnonzero(self.visible_FN[frame] & np.isfinite(self.points_N3[:, 0]))


@dataclass(frozen=True)
class View:
    """A frame, the frames to match it with (best first) and the depth range to search."""

    frame: int
    neighbours: tuple[int, ...]
    near: float
    far: float


def choose_views(
    sparse: SparsePoints, c2w_F44: Floats, registered_F: Mask, count: int, reach: int
) -> list[View]:
    """A view for every registered frame; without neighbours where nothing can be matched.

    count: neighbours a view. reach: neighbours are at most so many registered frames away.
    """
    frames = np.flatnonzero(registered_F)
    views = []
    for rank, frame in enumerate(frames):
        index = sparse.seen(int(frame))
        bounds = depth_range(sparse.points_N3[index], c2w_F44[frame])
        if bounds is None:
            views.append(View(int(frame), (), 0.0, 0.0))
            continue
        candidates = frames[max(0, rank - reach) : rank + reach + 1]
        scores = {
            int(other): _score(sparse, index, c2w_F44, int(frame), int(other))
            for other in candidates
            if other != frame
        }
        views.append(View(int(frame), _choose(scores, int(frame), count), *bounds))
    return views


def depth_range(points_N3: Floats, c2w: Floats) -> tuple[float, float] | None:
    """Nearest and farthest depth to search, from points seen in a frame; None without them."""
    z_N = (points_N3 - c2w[:3, 3]) @ c2w[:3, 2]
    z_N = z_N[z_N > 0]
    if len(z_N) < MIN_SHARED:
        return None
    near, far = np.percentile(z_N, [NEAR_SHARE, FAR_SHARE])
    return float(near / MARGIN), float(far * MARGIN)


def _score(
    sparse: SparsePoints, index: npt.NDArray[np.intp], c2w_F44: Floats, frame: int, other: int
) -> float:
    shared = index[sparse.visible_FN[other, index]]
    if len(shared) < MIN_SHARED:
        return 0.0
    shared = shared[:: -(-len(shared) // MAX_POINTS)]
    scale = len(index) / len(shared)
    first, second = (sparse.points_N3[shared] - c2w_F44[f, :3, 3] for f in (frame, other))
    cosine = np.sum(first * second, 1)
    cosine /= np.maximum(np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1), 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.median(angle) < LEAST_ANGLE:
        return 0.0
    spread = np.where(angle < BEST_ANGLE, NARROW, WIDE)
    weight = np.exp(-0.5 * ((angle - BEST_ANGLE) / spread) ** 2)
    return float(weight.sum() * scale)


def _choose(scores: dict[int, float], frame: int, count: int) -> tuple[int, ...]:
    """The best of the frames before and after in turn: what one side covers the other shows.

    Frames side by side show the same: one that is close to a better one waits for the others.
    """
    useful = [g for g in sorted(scores, key=lambda g: (-scores[g], g)) if scores[g] > 0]
    apart: list[int] = []
    for candidate in useful:
        least = abs(candidate - frame) // APART
        if all(abs(candidate - other) >= least for other in apart):
            apart.append(candidate)
    sides = [[g for g in apart if g < frame], [g for g in apart if g > frame]]
    half = count // 2
    chosen = sides[0][:half] + sides[1][:half]
    rest = [g for g in (*apart, *useful) if g not in chosen]
    chosen += list(dict.fromkeys(rest))[: count - len(chosen)]
    return tuple(sorted(chosen, key=lambda g: (-scores[g], g)))
