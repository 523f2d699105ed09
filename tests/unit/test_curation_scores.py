"""Scores of synthetic clips whose blur, exposure and motion are known; the verdict."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from media_files import Image, shot, texture

from dynamicverse.config import FilterConfig
from dynamicverse.curation.motion import there_and_back
from dynamicverse.curation.scores import ClipScores, Scores, verdict

WIDTH, HEIGHT = 320, 180
DIAGONAL = float(np.hypot(WIDTH, HEIGHT))


def score(frames: list[Image]) -> Scores:
    clip = ClipScores()
    for frame in frames:
        clip.add(frame)
    return clip.scores()


def pan(count: int = 24, step: float = 2.0, seed: int = 1) -> list[Image]:
    return shot(seed, count, WIDTH, HEIGHT, step=step)


def value(scores: Scores, name: str) -> float:
    found = scores[name]
    assert found is not None
    return found


def two_layers(count: int = 24, near: float = 4.0, far: float = 1.5) -> list[Image]:
    """A camera that moves sideways: near things (every other stripe) move faster."""
    back, front = texture(1, 700, 212), texture(2, 700, 212)
    frames = []
    stripes = (np.arange(700) // 60 % 2).astype(np.uint8)
    mask = np.repeat(np.repeat(stripes[None, :, None], 212, 0), 3, 2)
    for i in range(count):
        centre = (WIDTH / 2 + 20.0, 106.0)
        b = cv2.getRectSubPix(back, (WIDTH, HEIGHT), (centre[0] + far * i, centre[1]))
        f = cv2.getRectSubPix(front, (WIDTH, HEIGHT), (centre[0] + near * i, centre[1]))
        m = cv2.getRectSubPix(mask, (WIDTH, HEIGHT), (centre[0] + near * i, centre[1]))
        frames.append(np.where(m > 0, f, b))
    return frames


@pytest.mark.parametrize("step", [0.0, 1.0, 3.0, 8.0])
def test_motion_is_the_shift_over_the_diagonal(step: float) -> None:
    scores = score(pan(step=step))
    assert value(scores, "motion") == pytest.approx(step / DIAGONAL, abs=0.1 / DIAGONAL)
    assert value(scores, "camera_smoothness") > 0.9
    assert value(scores, "moving_share") < 0.05


def test_a_rotating_camera_has_no_parallax_and_a_moving_one_has() -> None:
    focal, picture = 300.0, texture(3, 900, 500)
    K = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    wide = np.array([[focal, 0, 450.0], [0, focal, 250], [0, 0, 1]])
    frames = []
    for i in range(24):
        R = cv2.Rodrigues(np.array([0.002 * i, 0.012 * i, 0.003 * i]))[0]
        H = K @ R @ np.linalg.inv(wide)
        frames.append(cv2.warpPerspective(picture, H, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR))
    rotation, translation = score(frames), score(two_layers())
    assert value(rotation, "motion") > 0.005
    assert value(rotation, "parallax") < 0.05
    assert value(rotation, "moving_share") < 0.05
    assert value(translation, "parallax") > 0.25


def test_a_static_camera_has_no_parallax_score() -> None:
    still = texture(1, WIDTH, HEIGHT)
    scores = score([still] * 10)
    assert scores["parallax"] is None
    assert value(scores, "motion") == 0.0
    assert value(scores, "duplicate_share") == 1.0
    assert value(scores, "moving_share") == 0.0


def test_moving_share_is_the_part_of_the_picture_that_moves() -> None:
    still, thing = texture(1, WIDTH, HEIGHT), texture(2, 128, 90)
    frames = []
    for i in range(20):
        frame = still.copy()
        frame[40:130, 20 + 4 * i : 148 + 4 * i] = thing
        frames.append(frame)
    share = 128 * 90 / (WIDTH * HEIGHT)
    assert value(score(frames), "moving_share") == pytest.approx(share, abs=0.1)


def test_a_shaking_camera_is_less_smooth() -> None:
    rng = np.random.default_rng(0)
    picture = texture(1, 500, 360)
    frames = [
        cv2.getRectSubPix(picture, (WIDTH, HEIGHT), (250 + float(x), 180 + float(y)))
        for x, y in rng.normal(0, 4, (24, 2))
    ]
    assert (
        value(score(frames), "camera_smoothness") < 0.6 < value(score(pan()), "camera_smoothness")
    )


def test_blur_lowers_sharpness_whatever_the_contrast() -> None:
    sharp = pan(8)
    blurred = [cv2.GaussianBlur(f, (0, 0), 4) for f in sharp]
    faint = [(100 + 0.3 * f).astype(np.uint8) for f in sharp]
    assert value(score(blurred), "sharpness") < 0.1 * value(score(sharp), "sharpness")
    ratio = value(score(faint), "sharpness") / value(score(sharp), "sharpness")
    assert 0.7 < ratio < 1.4


def test_exposure() -> None:
    half = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    half[:, :80] = 0
    half[:, 240:] = 255
    scores = score([half] * 3)
    assert value(scores, "clipped_share") == pytest.approx(0.5)
    assert value(scores, "brightness") == pytest.approx((0.5 * 128 + 0.25 * 255) / 255, abs=1e-3)
    assert value(scores, "contrast") == pytest.approx(half[..., 0].std() / 255, abs=1e-3)


def test_repeated_frames() -> None:
    frames = [f for f in pan(10) for _ in range(2)]
    assert value(score(frames), "duplicate_share") == pytest.approx(10 / 19, abs=1e-6)


def test_one_frame_and_no_frame() -> None:
    one = score(pan(1))
    assert one["motion"] is None
    assert one["duplicate_share"] is None
    assert value(one, "sharpness") > 0
    assert set(score([]).values()) == {None}
    assert one["focal_stability"] is None


def test_frames_smaller_than_a_cell() -> None:
    assert score([np.zeros((8, 8, 3), np.uint8)] * 3)["motion"] is None


def test_the_same_frames_give_the_same_scores() -> None:
    assert score(two_layers()) == score(two_layers())


def test_default_verdict_rejects_only_the_useless() -> None:
    limits = FilterConfig()
    still = texture(1, WIDTH, HEIGHT)
    good = {
        "pan": pan(),
        "static": [still] * 8,
        "one frame": [still],
        "night": [(f * 0.12).astype(np.uint8) for f in pan()],
        "grey": [np.repeat(f[..., :1], 3, 2) for f in pan()],
    }
    for name, frames in good.items():
        assert verdict(score(frames), limits) == [], name
    flat = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    bad = {
        "black": ([np.zeros_like(flat)] * 8, "black"),
        "uniform": ([flat] * 8, "uniform"),
        "blurred": ([cv2.GaussianBlur(f, (0, 0), 12) for f in pan()], "blurred"),
    }
    for name, (frames, word) in bad.items():
        assert word in " ".join(verdict(score(frames), limits)), name


def test_thresholds_and_reasons() -> None:
    scores: Scores = {"motion": 0.01, "parallax": None, "brightness": 0.5, "sharpness": 1.0}
    limits = FilterConfig(min_motion=0.02, max_motion=0.03, min_parallax=0.5, max_brightness=0.4)
    reasons = verdict(scores, limits)
    assert len(reasons) == 2  # an unknown score decides nothing
    assert any(r.startswith("too little motion: motion 0.01 is below 0.02") for r in reasons)
    assert any("brightness 0.5 is above 0.4" in r for r in reasons)


def test_every_threshold_names_a_score() -> None:
    names = set(score(pan(3)))
    for field in FilterConfig.model_fields:
        side, _, name = field.partition("_")
        assert name in names or side not in ("min", "max"), field


def test_tracking_forth_and_back() -> None:
    first, second = (cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in pan(2, step=3.0))
    points = np.array([[100, 90], [160, 60], [200, 120]], np.float32)
    moved, kept = there_and_back(first, second, points)
    assert kept.all()
    np.testing.assert_allclose(moved - points, np.tile([-3.0, 0.0], (3, 1)), atol=0.1)
