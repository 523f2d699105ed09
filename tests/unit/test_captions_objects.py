"""Object captions from synthetic masks and tracks whose motion is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner import wording
from dynamicverse.backends.captioner.episodes import MotionSegment
from dynamicverse.backends.captioner.follow import tracking
from dynamicverse.backends.captioner.object_motion import (
    Seen,
    background_path,
    observe,
    picture_motion,
)
from dynamicverse.formats.tracks import Tracks

WIDTH, HEIGHT = 200, 100


def disc_masks(centres, radii, instance_id=3):
    """One disc a frame; None is an empty frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = []
    for centre, radius in zip(centres, radii, strict=True):
        ids_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        if centre is not None:
            ids_HW[np.hypot(x - centre[0], y - centre[1]) <= radius] = instance_id
        masks.append(ids_HW)
    return masks


def seen_disc(centres, radii=None) -> Seen:
    masks = disc_masks(centres, radii or [10] * len(centres))
    found = observe(masks.__getitem__, len(masks), [3], lambda done, total: None)
    return found[3]


def test_observe_measures_place_area_and_box():
    seen = seen_disc([(50, 40), None, (150, 60)])
    assert seen.frames_n.tolist() == [0, 2]
    assert seen.centre_n2[0] == pytest.approx([50 / WIDTH, 40 / HEIGHT])
    assert seen.box_n4[1].tolist() == [140, 50, 160, 70]
    assert seen.area_n[0] * WIDTH * HEIGHT == pytest.approx(np.pi * 100, rel=0.05)


def test_observe_leaves_out_what_no_mask_shows():
    masks = disc_masks([(50, 40)], [8])
    calls = []
    found = observe(masks.__getitem__, 1, [3, 9], lambda *args: calls.append(args))
    assert set(found) == {3}
    assert calls == [(1, 1)]


def test_edges_and_wholeness():
    seen = seen_disc([(5, 50), (100, 50), (195, 97)])
    assert seen.edges(0) == ("left",)
    assert seen.edges(1) == ()
    assert set(seen.edges(2)) == {"right", "bottom"}
    assert seen.whole().tolist() == [False, True, False]


def test_shift_way_and_size():
    centres = [(30 + 3 * i, 30 + i) for i in range(40)]
    motion = picture_motion(seen_disc(centres, [8 + 0.25 * i for i in range(40)]), None)
    assert motion.shift == pytest.approx((117 / WIDTH, 39 / HEIGHT), abs=0.04)
    assert motion.way == pytest.approx(np.hypot(117, 39) / WIDTH, abs=0.03)
    assert motion.size_ratio == pytest.approx((8 + 0.25 * 36) / (8 + 0.25 * 4), rel=0.12)
    assert motion.against_background is None


def test_a_turn_is_no_approach():
    """Only the width shrinks: the object turned, nothing came closer or went away."""
    masks = []
    for i in range(20):
        ids_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        ids_HW[30:70, 80 : 130 - 2 * i] = 3
        masks.append(ids_HW)
    seen = observe(masks.__getitem__, 20, [3], lambda done, total: None)[3]
    assert picture_motion(seen, None).size_ratio == 1.0


def test_a_single_bad_mask_does_not_lengthen_the_path():
    centres = [(100.0, 50.0)] * 20
    centres[7] = (30.0, 50.0)
    assert picture_motion(seen_disc(centres), None).way == pytest.approx(0, abs=1e-6)


def tracks_of(shift_per_frame: float, frames: int, owner: int = 0) -> Tracks:
    grid = np.stack(np.meshgrid(np.arange(20, 180, 40.0), np.arange(20, 80, 20.0)), -1)
    start_N2 = grid.reshape(-1, 2)
    steps = np.arange(frames)[:, None, None] * [shift_per_frame, 0.0]
    xy_FN2 = (start_N2[None] + steps).astype(np.float32)
    visible = np.ones(xy_FN2.shape[:2], bool)
    count = len(start_N2)
    return Tracks(
        xy_FN2,
        visible,
        visible.astype(np.float32),
        np.zeros(count, np.int32),
        np.full(count, owner, np.int32),
        (WIDTH, HEIGHT),
    )


def test_background_path_adds_up_and_ignores_objects():
    path = background_path(tracks_of(-2.0, 11))
    assert path[-1] == pytest.approx([-20, 0])
    assert np.isnan(background_path(tracks_of(-2.0, 11, owner=5))[-1]).all()


def test_motion_against_the_background():
    """It stays in the middle while the background slides to the left: it moves to the right."""
    seen = seen_disc([(100, 50)] * 21)
    motion = picture_motion(seen, background_path(tracks_of(-4.0, 21)))
    assert motion.shift == pytest.approx((0, 0), abs=1e-6)
    assert motion.against_background == pytest.approx((80 / WIDTH, 0), abs=1e-3)


def segment(labels, forward=0.0, last=20) -> MotionSegment:
    return MotionSegment(0, last, labels, True, 1.0, (0, 0, 0), (0, 0, forward))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (("truck-right",), "side-tracking"),
        (("pan-right",), "pan-tracking"),
        (("tilt-up",), "tilt-tracking"),
        (("arc-CW", "tilt-up"), "arc-tracking"),
        (("dolly-in",), None),
    ],
)
def test_tracking_shots(labels, kind):
    background_F2 = background_path(tracks_of(-4.0, 21))
    seen = seen_disc([(100, 50)] * 21)
    assert tracking(segment(labels), seen, background_F2) == kind


def test_no_tracking_where_the_object_moves_with_the_background():
    background_F2 = background_path(tracks_of(-4.0, 21))
    seen = seen_disc([(150 - 4 * i, 50) for i in range(21)])
    assert tracking(segment(("truck-right",)), seen, background_F2) is None


@pytest.mark.parametrize(
    ("label", "forward", "kind"),
    [("dolly-in", 0.5, "tail-tracking"), ("dolly-out", -0.5, "lead-tracking")],
)
def test_following_ahead_and_behind(label, forward, kind):
    still_F2 = np.zeros((21, 2))
    assert tracking(segment((label,), forward), seen_disc([(100, 50)] * 21), still_F2) == kind
    growing = seen_disc([(100, 50)] * 21, [8 + 0.5 * i for i in range(21)])
    assert tracking(segment((label,), forward), growing, still_F2) is None


def test_tracking_needs_the_object_in_view():
    background_F2 = background_path(tracks_of(-4.0, 21))
    seen = seen_disc([(100, 50) if i < 9 else None for i in range(21)])
    assert tracking(segment(("pan-right",)), seen, background_F2) is None


def test_words():
    assert wording.listed(["a", "b", "c"]) == "a, b and c"
    assert wording.count(1, "thing") == "one thing"
    assert wording.count(12, "thing") == "12 things"
    assert wording.percent(0.0303) == "3 %"
    assert wording.percent(0.004) == "0.4 %"
    assert wording.percent(0.0) == "less than 0.1 %"
    assert wording.heading(0.5, -0.2, 0.1) == "from left to right and upwards"
    assert wording.heading(0.01, 0.01, 0.1) == ""
    assert wording.place(0.1, 0.9) == "in the lower left of the picture"
    for label in v.PRIMITIVES:
        assert wording.phrase(label)
