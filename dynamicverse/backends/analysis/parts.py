"""What moves, split by motion over time: points that keep together are one object.

Points are seeded on a grid over what moves and carried along the flow. Two points that are
ever near each other are compared over windows of some frames: how far do they move apart,
against what noise, deformation and turning explain. The points are then joined, most alike
first, as long as part of the common border keeps together: limbs hang together at their
joints, boxes that slide past each other do not hang together anywhere.

Trajectories and their pairwise differences as in Keuper, Andres and Brox, "Motion trajectory
segmentation via minimum cost multicuts", ICCV 2015; the number of objects is not given.
"""

from __future__ import annotations

import heapq

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from dynamicverse.backends.analysis import Flow, Valid

Places = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SPACING = 4  # px between points
NEIGHBOURS = 10.0  # px; points so near each other are compared
REACH = 12.0  # px; a pixel so near a point has its group
WINDOW, SHORTEST = 8, 7  # frames over which motion is compared; all of a shorter clip
NOISE = 1.0  # px
SLACK = 0.05  # of the way that the points go: flow errs more on what is fast
STRAIN = 0.06  # a frame and px of distance: what turns or comes nearer
BORDER_SHARE = 0.5  # of the common border that must keep together
BORDER_PAIRS = 1.0  # pairs a point of the smaller group, at least: things that pass have few
REFUSED_PAIRS = 5  # of a border that does not keep together: surely two
LEAVES_AFTER = 3  # frames outside of what moves
FEWEST_SEEN = 24  # points of a group, summed over the frames; fewer name no pixel
_LOW = (1 << 32) - 1


class Points:
    """Points on what moves, carried from frame to frame; feed the frames in order.

    Holds the places of all points in all frames: about 2 kB a frame where a fifth of the
    picture moves.
    """

    def __init__(self, frames: int) -> None:
        """frames: of the clip."""
        self.count = 0
        self._shortest = max(1, min(SHORTEST, frames - 1))
        self._ids: Numbers = np.zeros(0, np.int64)  # ascending
        self._path: Places = np.zeros((0, WINDOW + 1, 2), np.float32)  # newest last
        self._age: Numbers = np.zeros(0, np.int64)
        self._outside: Numbers = np.zeros(0, np.int64)
        self._keys: Numbers = np.zeros(0, np.int64)  # of pairs, the lower number first
        self._apart: Places = np.zeros(0, np.float32)
        self._ended: list[tuple[Numbers, Places]] = []
        self._at: list[tuple[Numbers, Places]] = []

    def add(self, moving_HW: Mask, forward: tuple[Flow, Valid] | None) -> None:
        """A frame's mask, and its flow to the next (None: the last)."""
        inside = moving_HW[_pixel(self._path[:, -1], moving_HW.shape)]
        self._outside = np.where(inside, 0, self._outside + 1)
        self._keep(self._outside < LEAVES_AFTER)
        self._seed(moving_HW)
        self._compare()
        self._at.append((self._ids, self._path[:, -1].copy()))
        if forward is not None:
            self._carry(*forward)

    def groups(self) -> Groups:
        """Which points keep together."""
        keys, apart = (
            np.concatenate(list(both))
            for both in zip(*self._ended, (self._keys, self._apart), strict=True)
        )
        group_N, refused = join(self.count, keys >> 32, keys & _LOW, apart)
        seen = np.bincount(np.concatenate([ids for ids, _ in self._at]), minlength=self.count)
        enough = np.bincount(group_N, seen, minlength=self.count) >= FEWEST_SEEN
        return Groups(np.where(enough[group_N], group_N + 1, 0), refused, self._at)

    def _keep(self, chosen: Mask) -> None:
        self._ids, self._path = self._ids[chosen], self._path[chosen]
        self._age, self._outside = self._age[chosen], self._outside[chosen]

    def _seed(self, moving_HW: Mask) -> None:
        height, width = moving_HW.shape
        taken = np.zeros((height // SPACING + 1, width // SPACING + 1), np.bool_)
        rows, columns = _pixel(self._path[:, -1], moving_HW.shape)
        taken[rows // SPACING, columns // SPACING] = True
        y, x = np.mgrid[SPACING // 2 : height : SPACING, SPACING // 2 : width : SPACING]
        new = moving_HW[y, x] & ~taken[y // SPACING, x // SPACING]
        fresh_N2 = np.stack([x[new], y[new]], 1).astype(np.float32)
        n = len(fresh_N2)
        self._ids = np.append(self._ids, np.arange(self.count, self.count + n))
        path = np.repeat(fresh_N2[:, None], WINDOW + 1, 1)
        self._path = np.concatenate([self._path, path])
        self._age = np.append(self._age, np.zeros(n, np.int64))
        self._outside = np.append(self._outside, np.zeros(n, np.int64))
        self.count += n

    def _carry(self, flow_HW2: Flow, valid_HW: Valid) -> None:
        if not len(self._ids):
            return
        now_N2 = self._path[:, -1]
        x_N1, y_N1 = np.ascontiguousarray(now_N2.T)[..., None]
        step_N2 = np.asarray(cv2.remap(flow_HW2, x_N1, y_N1, cv2.INTER_LINEAR)).reshape(-1, 2)
        there_N2 = now_N2 + step_N2
        height, width = valid_HW.shape
        inside = ((there_N2 > -0.5) & (there_N2 < (width - 0.5, height - 0.5))).all(1)
        valid = valid_HW[_pixel(now_N2, valid_HW.shape)]
        self._path = np.concatenate([self._path[:, 1:], there_N2[:, None]], 1)
        self._age = self._age + 1
        self._keep(valid & inside)

    def _compare(self) -> None:
        """Pairs that are or were near each other: the largest difference so far."""
        old = np.flatnonzero(self._age >= self._shortest)
        near_P2 = cKDTree(self._path[old, -1]).query_pairs(NEIGHBOURS, output_type="ndarray")
        keys = (self._ids[old][near_P2].min(1) << 32) + self._ids[old][near_P2].max(1)
        keys = np.concatenate([self._keys, np.setdiff1d(keys, self._keys)])
        apart = np.append(self._apart, np.zeros(len(keys) - len(self._apart), np.float32))
        alive = np.isin(keys >> 32, self._ids) & np.isin(keys & _LOW, self._ids)
        self._ended.append((keys[~alive], apart[~alive]))
        self._keys, self._apart = keys[alive], apart[alive]
        a, b = (np.searchsorted(self._ids, k) for k in (self._keys >> 32, self._keys & _LOW))
        over = np.minimum(np.minimum(self._age[a], self._age[b]), WINDOW)
        moved_a, moved_b = (self._path[k, -1] - self._path[k, WINDOW - over] for k in (a, b))
        distance = np.linalg.norm(self._path[a, -1] - self._path[b, -1], axis=1)
        way = (np.linalg.norm(moved_a, axis=1) + np.linalg.norm(moved_b, axis=1)) / 2
        allowed = NOISE + SLACK * way + STRAIN * over * np.minimum(distance, NEIGHBOURS)
        now = np.linalg.norm(moved_a - moved_b, axis=1) / allowed
        self._apart = np.maximum(self._apart, now).astype(np.float32)


def _pixel(points_N2: Places, shape: tuple[int, ...]) -> tuple[Numbers, Numbers]:
    x, y = np.rint(points_N2).astype(np.int64).T
    return y.clip(0, shape[0] - 1), x.clip(0, shape[1] - 1)


def join(
    count: int, one: Numbers, two: Numbers, apart: Places
) -> tuple[Numbers, set[tuple[int, int]]]:
    """Groups of `count` points: the most alike neighbours are joined first, as long as a share
    of the pairs between two groups is less than 1 apart.

    Returns the group of every point, and the pairs of groups (the lower first) that have a
    border and do not keep together.
    """
    borders: list[dict[int, list[float]]] = [{} for _ in range(count)]
    heap = []
    for a, b, d in zip(one.tolist(), two.tolist(), apart.tolist(), strict=True):
        borders[a][b] = borders[b][a] = [d]
        if d < 1:
            heap.append((d, a, b, 1))
    heapq.heapify(heap)
    root, points = list(range(count)), [1] * count
    while heap:
        _, a, b, pairs = heapq.heappop(heap)
        if root[a] != a or root[b] != b or len(borders[a][b]) != pairs:
            continue  # joined since, or its border has grown
        if pairs < BORDER_PAIRS * min(points[a], points[b]):
            continue
        if len(borders[a]) < len(borders[b]):
            a, b = b, a
        root[b] = a
        points[a] += points[b]
        del borders[a][b], borders[b][a]
        for c, more in borders[b].items():
            both = sorted(borders[a].get(c, []) + more)
            borders[a][c] = borders[c][a] = both
            del borders[c][b]
            value = both[int(BORDER_SHARE * len(both))]
            if value < 1:
                heapq.heappush(heap, (value, a, c, len(both)))
        borders[b] = {}
    for k in range(count):
        while root[k] != root[root[k]]:
            root[k] = root[root[k]]
    names = {r: i for i, r in enumerate(sorted(set(root)))}
    refused = {
        (names[a], names[b])
        for a in names
        for b, pairs in borders[a].items()
        if a < b and len(pairs) >= REFUSED_PAIRS
    }
    return np.array([names[r] for r in root], np.int64), refused


class Groups:
    """Points by group: 1, 2, …; 0 = too little seen."""

    def __init__(
        self,
        group_N: Numbers,
        refused: set[tuple[int, int]],
        at: list[tuple[Numbers, Places]],
    ) -> None:
        self._group_N, self._at = group_N, at
        self._refused = refused

    def apart(self, one: int, two: int) -> bool:
        """Two groups that have a common border and do not keep together."""
        return (min(one, two) - 1, max(one, two) - 1) in self._refused

    def spread(self, frame: int, moving_HW: Mask) -> npt.NDArray[np.int32]:
        """The group (H,W) of the nearest point, where something moves; 0 where none is near."""
        groups_HW = np.zeros(moving_HW.shape, np.int32)
        ids, places_N2 = self._at[frame]
        group_N = self._group_N[ids]
        if not (group_N > 0).any():
            return groups_HW
        rows, columns = np.nonzero(moving_HW)
        tree = cKDTree(places_N2[group_N > 0])
        _, nearest = tree.query(np.stack([columns, rows], 1), distance_upper_bound=REACH)
        groups_HW[rows, columns] = np.append(group_N[group_N > 0], 0)[nearest]
        return groups_HW
