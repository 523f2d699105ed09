"""Bounded pictures, colour maps and the sampling of frames."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from dynamicverse.report import pictures


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.split(",", 1)[1])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("limit", [2_000, 20_000, 200_000])
def test_photo_fits_even_for_noise(limit):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    uri = pictures.photo(noise, limit)
    assert len(base64.b64decode(uri.split(",", 1)[1])) <= limit
    assert decoded(uri).shape[1] / decoded(uri).shape[0] == pytest.approx(4 / 3, rel=0.1)


def test_photo_keeps_colours():
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 220
    b, g, r = decoded(pictures.photo(red, 50_000)).reshape(-1, 3).mean(0)
    assert r > 200
    assert max(b, g) < 20


def test_overlay_fits_and_stays_transparent():
    ids = np.random.default_rng(0).integers(0, 3, (200, 300), dtype=np.uint8)
    rgba = pictures.mask_rgba(ids, {1: (255, 0, 0), 2: (0, 0, 255)})
    uri = pictures.overlay(rgba, 6_000)
    assert len(base64.b64decode(uri.split(",", 1)[1])) <= 6_000
    assert decoded(uri).shape[2] == 4
    assert (rgba[ids == 0, 3] == 0).all()
    assert (rgba[ids == 1, 0] == 255).all()


def test_sample_is_even_and_keeps_the_ends():
    assert pictures.sample(3, 40) == [0, 1, 2]
    chosen = pictures.sample(1000, 40)
    assert len(chosen) == len(set(chosen)) == 40
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert np.ptp(np.diff(chosen)) <= 1
    assert pictures.sample(9, 1) == [4]
    assert pictures.sample(1, 40) == [0]


def test_fit_keeps_type_and_values_of_depth():
    depth = np.full((100, 400), 2.5, np.float32)
    small = pictures.fit(depth, 50, nearest=True)
    assert small.dtype == np.float32
    assert small.shape == (12, 50)
    assert (small == 2.5).all()


def test_depth_colours_near_is_bright_and_unknown_is_grey():
    depth = np.array([[1.0, 4.0, 0.0]], np.float32)
    near, far, unknown = pictures.depth_colours(depth, 1.0, 4.0)[0].astype(int)
    assert near.sum() > far.sum() + 200
    assert (unknown == pictures.UNKNOWN_GREY).all()
    ramp = pictures.viridis(8)
    assert sum(ramp[-1]) > sum(ramp[0])


def test_flow_colours_follow_the_direction():
    flow = np.array([[[1, 0], [-1, 0], [0, 0]]], np.float32)
    right, left, still = pictures.flow_colours(flow, np.ones((1, 3), bool), 1.0)[0].astype(int)
    assert right[0] > 200
    assert right[1] < 60  # red
    assert left[0] < 60
    assert left[2] > 200  # cyan
    assert np.ptp(still) < 4
    hidden = pictures.flow_colours(flow, np.zeros((1, 3), bool), 1.0)
    assert (hidden == pictures.UNKNOWN_GREY).all()


def test_colours_become_legible_and_keep_their_hue():
    assert pictures.legible((128, 0, 0))[0] >= 239
    r, _, b = pictures.legible((0, 0, 64))
    assert b > r
    assert b >= 239
    assert pictures.hex_colour((1, 2, 255)) == "#0102ff"
