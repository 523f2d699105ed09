"""What votes for motion: residual speeds of single frames, with nothing else known."""

from __future__ import annotations

import numpy as np
from motion_layers import LayeredClip

from dynamicverse.backends.analysis.evidence import Evidence
from dynamicverse.backends.analysis.votes import vote
from dynamicverse.backends.analysis.working import Scratch, WorkingClip

FRAMES = 3
FAST, BESIDE, FAR = np.s_[30:60, 20:50], np.s_[30:60, 52:60], np.s_[30:60, 160:190]
Part = tuple[slice, slice]


def votes_off_the_lines(*speeds: tuple[Part, float], noise: float) -> np.ndarray:
    """Votes (H,W) of the frame in the middle, among parallax, where parts leave the lines."""
    with Scratch() as scratch:
        clip = WorkingClip(LayeredClip(FRAMES), scratch, lambda done: None)
        shape = (clip.height, clip.width)
        nothing, off_HW = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for part, speed in speeds:
            off_HW[part] = speed
        seen = Evidence(
            plane_HW=off_HW,
            plane_raw_HW=off_HW,
            epipolar_HW=off_HW,
            epipolar_raw_HW=off_HW,
            parallax_HW=np.ones(shape, np.float32),
            rigid_HW=nothing,
            rigid_raw_HW=nothing,
            noise=noise,
            plane_H=np.eye(3),
        )
        return vote(clip, [seen] * FRAMES, scratch).frame(1)


def test_what_is_slow_moves_where_nothing_fast_is_near() -> None:
    votes = votes_off_the_lines((FAST, 0.4), (BESIDE, 0.06), (FAR, 0.06), noise=0.03)
    assert (votes[FAST] > 1).all()
    assert (votes[FAR] > 0).all()
    assert (votes[BESIDE] < 0).all()  # the rim of what is fast, where flow is between the two
    assert (votes[80:] < 0).all()


def test_what_is_slow_beside_the_fastest_is_rest_wherever_it_is() -> None:
    votes = votes_off_the_lines((FAST, 1.6), (FAR, 0.06), noise=0.03)
    assert (votes[FAST] > 1).all()
    assert (votes[FAR] < 0).all()


def test_what_is_slow_is_rest_where_the_lines_are_uncertain() -> None:
    votes = votes_off_the_lines((FAST, 0.6), (FAR, 0.06), noise=0.05)
    assert (votes[FAST] > 1).all()
    assert (votes[FAR] < 0).all()
