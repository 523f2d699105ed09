"""Masks against truth: region similarity J, boundary F, instances, id switches.

- `davis2016`: all instances together against the binary truth;
- `davis2017-unsupervised`: estimated ids are matched to true ones over the whole clip, so that
  the sum of (J + F) / 2 is the largest (Hungarian); a true instance without a match has 0.

First and last frame are left out. Perazzi et al., "A benchmark dataset and evaluation
methodology for video object segmentation", CVPR 2016; Caelles et al., "The 2019 DAVIS
challenge on VOS", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Ids = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

PROTOCOLS = ("davis2016", "davis2017-unsupervised")
TOLERANCE = 0.008  # of the image diagonal
SWITCH_OVERLAP = 0.5  # of a true and an estimated instance that count as the same in a frame


@dataclass(frozen=True)
class MaskScores:
    """j, f: means over instances and frames; instances: true ones; estimated: ids found.

    false_foreground: share of all pixels that are foreground and should not be.
    id_switches: changes of the estimated id that covers a true instance; None for `davis2016`.
    """

    protocol: str
    j: float
    f: float
    frames: int
    instances: int
    estimated: int
    false_foreground: float
    id_switches: int | None


def mask_scores(protocol: str, estimates: Sequence[Ids], truths: Sequence[Ids]) -> MaskScores:
    """Compare the instance masks (H,W) of a clip; 0 is background.

    Raises ValueError for an unknown protocol, unequal lengths or sizes, fewer than three frames.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol '{protocol}' (known: {', '.join(PROTOCOLS)})")
    if len(estimates) != len(truths) or len(truths) < 3:
        raise ValueError(f"{len(estimates)} masks for {len(truths)} true ones; at least 3 needed")
    for one, two in zip(estimates, truths, strict=True):
        if one.shape != two.shape:
            raise ValueError(f"masks of {one.shape} and {two.shape} pixels")
    together = protocol == "davis2016"
    found = [(m > 0).astype(np.uint8) if together else m for m in estimates[1:-1]]
    true = [(m > 0).astype(np.uint8) if together else m for m in truths[1:-1]]
    found_ids, true_ids = _present(found), _present(true)
    wrong = [np.mean((f > 0) & (t == 0)) for f, t in zip(found, true, strict=True)]
    if together:
        j, f = _binary(found, true)
    else:
        j, f = _matched(found, true, found_ids, true_ids)
    return MaskScores(
        protocol,
        j,
        f,
        len(true),
        len(true_ids),
        len(found_ids),
        float(np.mean(wrong)),
        None if together else id_switches(found, true),
    )


def jaccard(one_HW: Mask, two_HW: Mask) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(one_HW | two_HW)
    return np.count_nonzero(one_HW & two_HW) / union if union else 1.0


def boundary_f(estimate_HW: Mask, truth_HW: Mask) -> float:
    """F1 of boundary pixels that have one of the other mask within 0.008 of the diagonal.

    1 where both masks have no boundary, 0 where only one has.
    """
    reach = disk(estimate_HW.shape)
    found, true = boundary(estimate_HW), boundary(truth_HW)
    near = (cv2.dilate(b.astype(np.uint8), reach) > 0 for b in (found, true))
    return _f1(found, true, *near)


def boundary(mask_HW: Mask) -> Mask:
    """Pixels that differ from their neighbour to the right, below, or across.

    As in the DAVIS code (after Martin's `seg2bmap`): the last column compares with the pixel
    below only, the last row with the one to the right, the last pixel never.
    """
    m = np.asarray(mask_HW, np.bool_)
    edge = np.zeros_like(m)
    edge[:-1, :-1] = (m[:-1, :-1] ^ m[:-1, 1:]) | (m[:-1, :-1] ^ m[1:, :-1])
    edge[:-1, :-1] |= m[:-1, :-1] ^ m[1:, 1:]
    edge[-1, :-1] = m[-1, :-1] ^ m[-1, 1:]
    edge[:-1, -1] = m[:-1, -1] ^ m[1:, -1]
    return edge


def disk(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The neighbourhood within which boundaries match, for an image of this shape."""
    radius = math.ceil(TOLERANCE * math.hypot(shape[0], shape[1]))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x**2 + y**2 <= radius**2, np.uint8)


def id_switches(estimates: Sequence[Ids], truths: Sequence[Ids]) -> int:
    """How often the estimated id of a true instance changes.

    In every frame ids are matched for the largest sum of J, among pairs of at least 0.5;
    frames in which an instance has no match say nothing.
    """
    last: dict[int, int] = {}
    switches = 0
    for estimate, truth in zip(estimates, truths, strict=True):
        found_ids, true_ids = _present([estimate]), _present([truth])
        overlap = np.zeros((len(true_ids), len(found_ids)))
        for row, true in enumerate(true_ids):
            for column, found in enumerate(found_ids):
                j = jaccard(truth == true, estimate == found)
                overlap[row, column] = j if j >= SWITCH_OVERLAP else 0.0
        for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
            if overlap[row, column]:
                true, found = true_ids[row], found_ids[column]
                switches += last.get(true, found) != found
                last[true] = found
    return switches


def instance_matches(estimates: Sequence[Ids], truths: Sequence[Ids]) -> dict[int, int]:
    """True id → estimated id, for the largest sum of IoU of the whole clip's pixels (Hungarian).

    Only pairs that overlap. Raises ValueError for unequal lengths or sizes.
    """
    both = np.zeros((256, 256))
    for estimate, truth in zip(estimates, truths, strict=True):
        if estimate.shape != truth.shape:
            raise ValueError(f"masks of {estimate.shape} and {truth.shape} pixels")
        pairs = truth.astype(np.int64) * 256 + estimate
        both += np.bincount(pairs.reshape(-1), minlength=1 << 16).reshape(256, 256)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=union > 0)[1:, 1:]
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return {int(r) + 1: int(c) + 1 for r, c in zip(rows, columns, strict=True) if iou[r, c] > 0}


def _present(masks: Sequence[Ids]) -> list[int]:
    return sorted({int(i) for m in masks for i in np.unique(m)} - {0})


def _binary(found: Sequence[Ids], true: Sequence[Ids]) -> tuple[float, float]:
    pairs = [(e > 0, t > 0) for e, t in zip(found, true, strict=True)]
    j = float(np.mean([jaccard(e, t) for e, t in pairs]))
    return j, float(np.mean([boundary_f(e, t) for e, t in pairs]))


def _matched(
    found: Sequence[Ids], true: Sequence[Ids], found_ids: list[int], true_ids: list[int]
) -> tuple[float, float]:
    """J and F of the true instances, each with the estimated id that is matched to it."""
    if not true_ids:  # nothing to find: right if nothing was found
        return (0.0, 0.0) if found_ids else (1.0, 1.0)
    j, f = (np.zeros((len(true_ids), len(found_ids))) for _ in range(2))
    for estimate, truth in zip(found, true, strict=True):
        reach = disk(truth.shape)
        ours, theirs = _outlines(estimate, found_ids, reach), _outlines(truth, true_ids, reach)
        for row, (region_t, edge_t, near_t) in enumerate(theirs):
            for column, (region_e, edge_e, near_e) in enumerate(ours):
                j[row, column] += jaccard(region_e, region_t) / len(true)
                f[row, column] += _f1(edge_e, edge_t, near_e, near_t) / len(true)
    rows, columns = linear_sum_assignment((j + f) / 2, maximize=True)
    return float(j[rows, columns].sum() / len(true_ids)), float(
        f[rows, columns].sum() / len(true_ids)
    )


def _outlines(
    ids_HW: Ids, wanted: list[int], reach: npt.NDArray[np.uint8]
) -> list[tuple[Mask, Mask, Mask]]:
    """Region, boundary, and what is near the boundary, of each id."""
    found = []
    for i in wanted:
        region = ids_HW == i
        edge = boundary(region)
        found.append((region, edge, np.asarray(cv2.dilate(edge.astype(np.uint8), reach) > 0)))
    return found


def _f1(found: Mask, true: Mask, near_found: Mask, near_true: Mask) -> float:
    count_found, count_true = np.count_nonzero(found), np.count_nonzero(true)
    if not count_found or not count_true:
        return float(count_found == count_true)
    precision = np.count_nonzero(found & near_true) / count_found
    recall = np.count_nonzero(true & near_found) / count_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
