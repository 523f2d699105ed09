"""What in one frame the static background does not explain, over several time gaps.

For each gap the flow is compared with what the background would do. Three questions are asked:
how far is it from the dominant plane's motion (all that moves, and all parallax); how far from
the epipolar line (moves for sure, but motion along the line is not seen; after a long gap what
is slow shows, too); and how far, along the line, from where one rigid scene would have it after
all gaps (`rigidity`). A residual counts only where the picture can tell: where the frame,
warped by the static explanation, fits worse than warped by the flow. Textureless regions, where
flow is a guess, do not vote.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import Flow, Valid
from dynamicverse.backends.analysis.background import (
    EPIPOLAR_FLOOR,
    Background,
    epipolar_offset,
    fit_background,
    plane_flow,
)
from dynamicverse.backends.analysis.rigidity import rigid_residuals
from dynamicverse.backends.analysis.working import Map, WorkingClip

GAPS = (1, 2, 4, 8)  # of the plane's motion
RIGID_GAPS = (*GAPS, 16)  # what keeps in step with the camera for long looks static
RIGID_LIMIT = 8.0  # noises; one gap that is wrong does not decide
EPIPOLAR_FROM = 2  # frames; the distance to the line is small against noise over one frame
LEAST_FRAMES = 0.25  # of those of all gaps; what is seen over fewer counts less
PATCH_SIGMA = 1.2  # px, the neighbourhood that is compared
PICTURE_NOISE = 40.0  # squared RGB difference that is nothing
PLANE_NOISE_CAP = 0.15  # px times sqrt(gap): parallax is not noise
PARALLAX_FROM = 0.3  # px times sqrt(gap), residual that shows parallax
PARALLAX_ALONG = 0.2  # share of it that may be off the epipolar line
COVERED_FROM, COVERED_RANGE = 100.0, 400.0  # squared RGB difference


@dataclass(frozen=True)
class Evidence:
    """Residual speeds of one frame, working px per frame, averaged over the gaps.

    plane_HW, epipolar_HW: where the picture confirms them; ..._raw_HW: wherever flow is
    consistent. parallax_HW: share of the gaps in which a pixel leaves the plane but keeps to
    its epipolar line. rigid_HW, rigid_raw_HW: the residual along the line in its own noises,
    squared. noise: of the epipolar residual, px. plane_H: to the next frame.
    """

    plane_HW: Map
    plane_raw_HW: Map
    epipolar_HW: Map
    epipolar_raw_HW: Map
    parallax_HW: Map
    rigid_HW: Map
    rigid_raw_HW: Map
    noise: float
    plane_H: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class _Residual:
    """One gap. plane, epipolar: px a frame beyond noise; seen_plane, seen_epipolar: 0..1, does
    the picture confirm it; misfit: squared RGB difference under the plane's motion."""

    valid_HW: Valid
    plane_HW: Map
    seen_plane_HW: Map
    misfit_HW: Map
    epipolar_HW: Map
    seen_epipolar_HW: Map
    parallax_HW: Valid


def collect_evidence(clip: WorkingClip) -> Iterator[Evidence]:
    """Evidence of every frame, in order. Deterministic: the seed is the frame and the gap.

    While a frame is judged, the background models of the next one are fitted.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="evidence") as executor:
        judging: Future[Evidence] | None = None
        for explained in _explained(clip):
            following = executor.submit(_judge, clip, explained)
            if judging is not None:
                yield judging.result()
            judging = following
        if judging is not None:
            yield judging.result()


@dataclass(frozen=True)
class _Explained:
    """A frame: flow over all gaps, and the background's motion over those where it is known."""

    frame: int
    chains: dict[int, tuple[Flow, Valid]]
    backgrounds: dict[int, Background]
    plane_H: npt.NDArray[np.float64] | None


def _explained(clip: WorkingClip) -> Iterator[_Explained]:
    fits: dict[tuple[int, int], Background | None] = {}
    for frame in range(clip.frame_count):
        forward = clip.chains(frame, RIGID_GAPS, 1)
        backward = clip.chains(frame, RIGID_GAPS, -1)
        for gap, (flow_HW2, valid_HW) in forward.items():
            fits[frame, gap] = _fit(clip, flow_HW2, valid_HW, frame * 64 + gap)
        chains = forward | backward
        backgrounds: dict[int, Background] = {}
        for gap in chains:
            fit = fits[frame, gap] if gap > 0 else fits.pop((frame + gap, -gap))
            if fit is not None:
                backgrounds[gap] = fit if gap > 0 else fit.reversed()
        following = fits.get((frame, 1))
        yield _Explained(frame, chains, backgrounds, None if following is None else following.H)


def _judge(clip: WorkingClip, explained: _Explained) -> Evidence:
    chains, backgrounds = explained.chains, explained.backgrounds
    views = _views(clip, explained)
    found = {
        gap: _residual(clip, views[gap], gap, background, *chains[gap])
        for gap, background in backgrounds.items()
    }
    noises = [backgrounds[gap].epipolar_noise for gap in found if abs(gap) in GAPS]
    return _average(
        (clip.height, clip.width),
        found,
        _leaves_rigid_scene(clip, explained, views),
        max(float(np.mean(noises)), EPIPOLAR_FLOOR) if noises else 1.0,
        explained.plane_H,
    )


@dataclass(frozen=True)
class _View:
    """A frame and another, RGB; misfit: between the two along the flow."""

    now_HW3: Map
    then_HW3: Map
    misfit_HW: Map


def _views(clip: WorkingClip, explained: _Explained) -> dict[int, _View]:
    now = clip.rgb(explained.frame).astype(np.float32)
    views = {}
    for gap in explained.backgrounds:
        then = clip.rgb(explained.frame + gap).astype(np.float32)
        misfit_HW = _misfit(now, clip.warp(then, explained.chains[gap][0]))
        views[gap] = _View(now, then, misfit_HW)
    return views


def _fit(clip: WorkingClip, flow_HW2: Flow, valid_HW: Valid, seed: int) -> Background | None:
    use_HW = np.zeros_like(valid_HW)
    use_HW[::2, ::2] = valid_HW[::2, ::2]
    points_N2 = np.stack([clip.x_HW[use_HW], clip.y_HW[use_HW]], 1)
    return fit_background(points_N2, points_N2 + flow_HW2[use_HW], seed)


def _residual(
    clip: WorkingClip,
    view: _View,
    gap: int,
    background: Background,
    flow_HW2: Flow,
    valid_HW: Valid,
) -> _Residual:
    frames = abs(gap)
    now, then = view.now_HW3, view.then_HW3
    static_HW2 = plane_flow(background.H, clip.x_HW, clip.y_HW)
    plane_HW = np.asarray(cv2.magnitude(*cv2.split(flow_HW2 - static_HW2)))
    noise = min(background.plane_noise, PLANE_NOISE_CAP * frames**0.5)
    plane_misfit_HW = _misfit(now, clip.warp(then, static_HW2))
    seen_plane_HW = _confirmed(plane_misfit_HW, view.misfit_HW)
    if background.F is None:
        epipolar_HW, epipolar_noise = plane_HW, noise
        seen_epipolar_HW = seen_plane_HW
    else:
        epipolar_noise = background.epipolar_noise
        epipolar_HW, offset_HW2 = epipolar_offset(background.F, clip.x_HW, clip.y_HW, flow_HW2)
        line_misfit_HW = _misfit(now, clip.warp(then, flow_HW2 + offset_HW2))
        seen_epipolar_HW = _confirmed(line_misfit_HW, view.misfit_HW)
    parallax_HW = (
        valid_HW
        & (plane_HW > PARALLAX_FROM * frames**0.5)
        & (epipolar_HW < PARALLAX_ALONG * plane_HW)
        & (seen_plane_HW > 0.2)
    )
    return _Residual(
        valid_HW,
        np.maximum(plane_HW - 2 * noise, 0) / frames,
        seen_plane_HW,
        plane_misfit_HW,
        np.maximum(epipolar_HW - 2 * epipolar_noise, 0) / frames,
        seen_epipolar_HW * valid_HW,
        parallax_HW,
    )


def _leaves_rigid_scene(
    clip: WorkingClip, explained: _Explained, views: dict[int, _View]
) -> tuple[Map, Map]:
    """Squared residuals against one rigid scene in squared noises, averaged over the gaps:
    where the picture confirms them, and wherever flow is consistent."""
    seen_HW, raw_HW, known_HW = (np.zeros_like(clip.x_HW) for _ in range(3))
    chains = explained.chains
    found = rigid_residuals(chains, explained.backgrounds, clip.x_HW, clip.y_HW, explained.frame)
    for gap, rigid in found.items():
        flow_HW2, valid_HW = chains[gap]
        view = views[gap]
        noises_HW = np.minimum(rigid.noises_HW, RIGID_LIMIT)
        there_HW3 = clip.warp(view.then_HW3, flow_HW2 + rigid.offset_HW2)
        static_misfit_HW = _misfit(view.now_HW3, there_HW3)
        seen_HW += (noises_HW * _confirmed(static_misfit_HW, view.misfit_HW)) ** 2
        raw_HW += noises_HW**2
        known_HW += valid_HW
    known_HW = np.maximum(known_HW, len(found) / 2 + 1e-6)
    return seen_HW / known_HW, raw_HW / known_HW


def _misfit(one_HW3: Map, two_HW3: Map) -> Map:
    """Squared RGB difference (H,W), averaged over a patch."""
    difference = cv2.absdiff(one_HW3, two_HW3)
    squared = np.einsum("hwc,hwc->hw", difference, difference)
    return np.asarray(cv2.GaussianBlur(squared, (0, 0), PATCH_SIGMA))


def _confirmed(static_misfit_HW: Map, moved_misfit_HW: Map) -> Map:
    """0..1: how clearly the static explanation fits the picture worse than the flow does."""
    gain_HW = (static_misfit_HW - moved_misfit_HW) / (moved_misfit_HW + PICTURE_NOISE)
    return np.clip(gain_HW, 0, 1)


def _average(
    shape: tuple[int, int],
    found: dict[int, _Residual],
    rigid: tuple[Map, Map],
    noise: float,
    plane_H: npt.NDArray[np.float64] | None,
) -> Evidence:
    plane_HW, raw_HW, epipolar_HW, epipolar_raw_HW, parallax_HW, known_HW = (
        np.zeros(shape, np.float32) for _ in range(6)
    )
    longest = max((abs(gap) for gap in found), default=0)
    lines = {g: r for g, r in found.items() if abs(g) >= min(EPIPOLAR_FROM, longest)}
    frames_HW = np.zeros(shape, np.float32)
    for gap, residual in lines.items():  # the way of all gaps over the frames of all gaps
        way_HW = np.float32(abs(gap)) * residual.epipolar_HW
        epipolar_HW += way_HW * residual.seen_epipolar_HW
        epipolar_raw_HW += way_HW * residual.valid_HW
        frames_HW += np.float32(abs(gap)) * residual.valid_HW
    frames_HW = np.maximum(frames_HW, LEAST_FRAMES * max(sum(map(abs, lines)), 1))
    found = {gap: residual for gap, residual in found.items() if abs(gap) in GAPS}
    for residual in (found[gap] for gap in found if gap in lines):
        parallax_HW += residual.parallax_HW
        known_HW += residual.valid_HW
    for gap, residual in found.items():
        valid_HW = residual.valid_HW
        plane_HW += residual.plane_HW * residual.seen_plane_HW * valid_HW
        raw_HW += residual.plane_HW * valid_HW
        opposite = found.get(-gap)
        if abs(gap) <= 2 and opposite is not None:
            lost_HW = _covered(residual, opposite) * ~valid_HW
            plane_HW += lost_HW
            raw_HW += lost_HW
    return Evidence(
        plane_HW / max(len(found), 1),
        raw_HW / max(len(found), 1),
        epipolar_HW / frames_HW,
        epipolar_raw_HW / frames_HW,
        parallax_HW / np.maximum(known_HW, 1),
        *rigid,
        noise,
        plane_H,
    )


def _covered(one: _Residual, other: _Residual) -> Map:
    """Evidence where flow is inconsistent, as on fast limbs: the static explanation fails
    in the frame before and in the frame after. An uncovered background fails in one only."""
    misfit_HW = np.minimum(one.misfit_HW, other.misfit_HW)
    sure_HW = np.clip((misfit_HW - COVERED_FROM) / COVERED_RANGE, 0, 1)
    return np.minimum(one.plane_HW, other.plane_HW) * sure_HW
