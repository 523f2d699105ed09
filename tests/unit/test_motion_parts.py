"""What moves is split by motion over time; flow and masks are exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dynamicverse.backends.analysis.parts import Groups, Points, join

SHAPE = (60, 120)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
ALL = np.ones(SHAPE, bool)
Field = Callable[[int], np.ndarray]  # frame → flow (H,W,2)
Masks = Callable[[int], np.ndarray]


def watch(moving: Masks, flow: Field, frames: int = 24, valid: np.ndarray = ALL) -> Groups:
    points = Points(frames)
    for t in range(frames):
        forward = (flow(t).astype(np.float32), valid) if t + 1 < frames else None
        points.add(moving(t), forward)
    return points.groups()


def rectangle(x: float, y: int, width: int, height: int) -> np.ndarray:
    return (x <= X) & (x + width > X) & (y <= Y) & (y + height > Y)


def flow_of(*parts: tuple[np.ndarray, float, float]) -> np.ndarray:
    flow = np.zeros((*SHAPE, 2))
    for mask, u, v in parts:
        flow[mask] = (u, v)
    return flow


def test_what_slides_past_each_other_is_two() -> None:
    def halves(t: int) -> tuple[np.ndarray, np.ndarray]:
        return rectangle(10 + t, 10, 40, 20), rectangle(50 - t, 30, 40, 20)

    groups = watch(
        lambda t: halves(t)[0] | halves(t)[1],
        lambda t: flow_of((halves(t)[0], 1, 0), (halves(t)[1], -1, 0)),
    )
    for t in (0, 12, 23):
        found = groups.spread(t, halves(t)[0] | halves(t)[1])
        upper, lower = (np.bincount(found[h]).argmax() for h in halves(t))
        assert upper != lower
        assert (found[halves(t)[0]] == upper).mean() > 0.9
        assert (found[halves(t)[1]] == lower).mean() > 0.9
        assert groups.apart(upper, lower)
        assert groups.apart(lower, upper)


def test_a_clip_shorter_than_the_window_is_split_too() -> None:
    frames = 6

    def halves(t: int) -> tuple[np.ndarray, np.ndarray]:
        return rectangle(20 + 2 * t, 10, 40, 20), rectangle(40 - 2 * t, 30, 40, 20)

    groups = watch(
        lambda t: halves(t)[0] | halves(t)[1],
        lambda t: flow_of((halves(t)[0], 2, 0), (halves(t)[1], -2, 0)),
        frames,
    )
    found = groups.spread(frames - 1, halves(frames - 1)[0] | halves(frames - 1)[1])
    upper, lower = (np.bincount(found[h]).argmax() for h in halves(frames - 1))
    assert min(upper, lower) > 0
    assert groups.apart(upper, lower)


def test_points_that_live_for_some_frames_only_do_not_join() -> None:
    """Where one thing covers another, points die young; their short ways differ by little."""

    def halves(t: int) -> tuple[np.ndarray, np.ndarray]:
        return rectangle(10 + 1.35 * t, 10, 60, 20), rectangle(10 + 0.65 * t, 30, 60, 20)

    points = Points(24)
    for t in range(24):
        flow = flow_of((halves(t)[0], 1.35, 0), (halves(t)[1], 0.65, 0)).astype(np.float32)
        covered = (abs(Y - 29.5) < 7) & (t % 6 == 5)
        points.add(halves(t)[0] | halves(t)[1], (flow, ~covered) if t < 23 else None)
    found = points.groups().spread(12, halves(12)[0] | halves(12)[1])
    upper, lower = (np.bincount(found[h]).argmax() for h in halves(12))
    assert upper != lower


def test_what_goes_the_same_way_is_one() -> None:
    groups = watch(lambda t: rectangle(10 + t, 10, 60, 30), lambda t: flow_of((ALL, 1, 0)))
    found = groups.spread(20, rectangle(30, 10, 60, 30))
    assert len(np.unique(found)) == 2  # and nothing else
    assert np.array_equal(found > 0, rectangle(30, 10, 60, 30))


def test_a_limb_that_swings_about_its_joint_belongs_to_the_body() -> None:
    joint, speed = (60.0, 30.0), 0.03  # radians a frame: its far end goes 0.9 px

    def limb(t: int) -> np.ndarray:
        angle = speed * t
        along = (X - joint[0]) * np.cos(angle) + (Y - joint[1]) * np.sin(angle)
        across = (Y - joint[1]) * np.cos(angle) - (X - joint[0]) * np.sin(angle)
        return (along >= 0) & (along < 30) & (abs(across) < 6)

    body = rectangle(30, 15, 30, 30)

    def flow(t: int) -> np.ndarray:
        field = np.zeros((*SHAPE, 2))
        turn = np.stack([-(Y - joint[1]), X - joint[0]], -1) * speed
        field[limb(t) & ~body] = turn[limb(t) & ~body]
        return field

    groups = watch(lambda t: body | limb(t), flow)
    found = groups.spread(12, body | limb(12))
    assert np.bincount(found[body]).argmax() == np.bincount(found[limb(12) & ~body]).argmax()


def test_points_are_seeded_again_and_reach_a_little_way() -> None:
    def mask(t: int) -> np.ndarray:
        return rectangle(10, 10, 10 + t, 40)

    valid = ALL & (X < 34)
    groups = watch(mask, lambda t: flow_of(), frames=40, valid=valid)
    found = groups.spread(38, mask(38))
    assert (found > 0)[rectangle(10, 10, 32, 40)].all()
    assert not found[rectangle(46, 10, 2, 40)].any()  # flow was never consistent here


def test_nothing_moves() -> None:
    groups = watch(lambda t: ~ALL, lambda t: flow_of())
    assert not groups.spread(3, ~ALL).any()
    assert not groups.spread(3, ALL).any()


def test_a_border_is_joined_by_the_share_that_keeps_together() -> None:
    """Two lines of four points; most pairs have kept together, or one in eight."""
    one = np.array([0, 1, 2, 4, 5, 6, *range(4), *range(4)])
    two = np.array([1, 2, 3, 5, 6, 7, *range(4, 8), 7, 6, 5, 4])
    inside = [0.1] * 6
    most = np.float32([*inside, *[0.5] * 6, 3.0, 3.0])
    group, refused = join(8, one, two, most)
    assert len(np.unique(group)) == 1
    assert not refused
    eighth = np.float32([*inside, 0.5, *[3.0] * 7])
    group, refused = join(8, one, two, eighth)
    assert len(np.unique(group)) == 2
    assert len(np.unique(group[:4])) == 1
    assert refused == {(0, 1)}


def test_things_that_meet_at_a_few_points_are_two() -> None:
    """Twenty points each; three pairs across keep together, or twenty."""
    pairs = [(a, b) for b in range(20) for a in range(b)]
    inside = np.array([*pairs, *((a + 20, b + 20) for a, b in pairs)])

    def groups(meeting: int) -> int:
        one = np.append(inside[:, 0], np.arange(meeting))
        two = np.append(inside[:, 1], np.arange(meeting) + 20)
        apart = np.append(np.full(len(inside), 0.1), np.full(meeting, 0.3))
        return len(np.unique(join(40, one, two, apart.astype(np.float32))[0]))

    assert groups(3) == 2
    assert groups(20) == 1
