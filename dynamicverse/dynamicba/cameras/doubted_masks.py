"""Masks that leave too little of a frame are put to the test: do they move, or only seem to?

What moves is found as what the motion of the background does not explain. Where masks leave less
than half of the tracks of a frame, as they may when a camera turns fast past something near, that
background may be the wrong one. The cameras are solved again with the masked tracks of such
frames. An object of which most tracks then agree with a static scene, while those of the
background go on agreeing, is refused its label there. A thing that really moves either does not
agree, or the background no longer does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dynamicverse.dynamicba.cameras.graph import Mask
from dynamicverse.dynamicba.cameras.solution import CameraSolution
from dynamicverse.formats.tracks import Tracks

LEFT = 0.5  # of the tracks of a frame: a background that is less may be the wrong one
STAND = 0.5  # of the tracks of an object, and of the background, agree with a static scene
KEPT = 0.95  # of the tracks of the background that agreed without the masked ones

Solve = Callable[[Tracks], CameraSolution]


def with_doubted_masks(tracks: Tracks, solve: Solve) -> CameraSolution:
    """The cameras from the tracks of the background, and from those that masks took wrongly.

    solve: cameras from the tracks without an instance id.
    """
    found = solve(tracks)
    masked_N, seen_FN = tracks.instance_id_N > 0, tracks.visibility_FN
    doubted_F = (seen_FN & ~masked_N).sum(1) < LEFT * seen_FN.sum(1)
    here_N = seen_FN[doubted_F].any(0)
    doubted_N = masked_N & here_N
    if found.status != "full" or not doubted_N.any():
        return found
    other = solve(_freed(tracks, doubted_N))
    refused = _standing(tracks, here_N, found, other)
    if not refused:
        return found
    refused_N = doubted_N & np.isin(tracks.instance_id_N, refused)
    if refused_N.sum() < doubted_N.sum():  # others do move
        other = solve(_freed(tracks, refused_N))
    if other.status != "full" or other.registered_F.sum() < found.registered_F.sum():
        return found
    names = ", ".join(str(i) for i in refused)
    told = (
        f"masks take most of {int(doubted_F.sum())} frames; what agrees with a static scene there "
        f"counts as background for the cameras: {int(refused_N.sum())} tracks of {names}"
    )
    return replace(other, statements=[*other.statements, told])


def _freed(tracks: Tracks, freed_N: Mask) -> Tracks:
    return replace(tracks, instance_id_N=np.where(freed_N, 0, tracks.instance_id_N))


def _standing(
    tracks: Tracks, here_N: Mask, found: CameraSolution, other: CameraSolution
) -> list[int]:
    """The objects that are one rigid scene with the background, by their tracks `here_N`.

    found: cameras from the background alone; other: with the doubted tracks.
    """
    background_N = here_N & (tracks.instance_id_N <= 0)
    before, after = (int(s.static_N[background_N].sum()) for s in (found, other))
    if after < max(STAND * background_N.sum(), KEPT * before):
        return []
    ids = np.unique(tracks.instance_id_N[here_N & (tracks.instance_id_N > 0)])
    share = {int(i): other.static_N[here_N & (tracks.instance_id_N == i)].mean() for i in ids}
    return [i for i, standing in share.items() if standing >= STAND]
