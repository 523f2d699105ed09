"""What the player draws: small frames, masks, boxes, tracks and the 4D scene, within a budget."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats import images, masks
from dynamicverse.formats.labels import Instance
from dynamicverse.formats.tracks import Tracks
from dynamicverse.report import cloud, pictures
from dynamicverse.report.findings import Findings

PICTURE_SIDE = 640
PICTURES_BYTES = 1_500_000  # of all frames together, before base64
MASKS_BYTES = 300_000
MAX_TRACKS = 360
MAX_BOXES = 60  # instances with a box in the player
HIDDEN = -32768  # a track that is not seen
NOMINAL_STEP_S = 0.1  # between frames whose times are not known
UNLABELLED = 0


def build(found: Findings, points: int) -> dict[str, Any]:
    """The data of the page; every part has a bound that does not depend on the clip's length."""
    colours = found.colours()
    shots = [_frame(found, f, colours) for f in found.frames]
    times = [found.info.times_s[f] for f in found.frames]
    if found.info.rate is None:
        times = [NOMINAL_STEP_S * k for k in range(len(found.frames))]
    return {
        "size": [found.info.width, found.info.height],
        "frameCount": found.info.frame_count,
        "frames": found.frames,
        "times": [round(t, 4) for t in times],
        "moments": [found.moment(f) for f in found.frames],
        "pictures": [picture for picture, _, _ in shots],
        "masks": [mask for _, mask, _ in shots],
        "boxes": [boxes for _, _, boxes in shots],
        "colours": {str(i): pictures.hex_colour(c) for i, c in colours.items()},
        "names": {str(i.id): _name(i) for i in found.instances},
        "tracks": _tracks(found.tracks, found.frames) if found.tracks else None,
        "cloud": _cloud(found, points),
    }


def _name(instance: Instance) -> str:
    """The name with the id in it."""
    name = instance.name[:60]
    return name if name.endswith(str(instance.id)) else f"{instance.id} {name}"


def _frame(
    found: Findings, frame: int, colours: dict[int, tuple[int, int, int]]
) -> tuple[str, str | None, list[list[int]]]:
    """Picture, mask and boxes (id, x0, y0, x1, y1) of one frame."""
    share = len(found.frames)
    rgb_HW3 = pictures.fit(images.read_rgb(found.scene.rgb(frame)), PICTURE_SIDE)
    picture = pictures.photo(rgb_HW3, PICTURES_BYTES // share)
    if not found.instances or not found.scene.mask(frame).is_file():
        return picture, None, []
    ids_HW = masks.read(found.scene.mask(frame))
    boxes = []
    for i in sorted(colours)[:MAX_BOXES]:
        x, y, w, h = cv2.boundingRect((ids_HW == i).view(np.uint8))
        if w:
            boxes.append([i, x, y, x + w - 1, y + h - 1])
    small_HW = pictures.fit(ids_HW, PICTURE_SIDE, nearest=True)
    mask = pictures.overlay(pictures.mask_rgba(small_HW, colours), MASKS_BYTES // share)
    return picture, mask, boxes


def _tracks(tracks: Tracks, frames: list[int]) -> dict[str, Any] | None:
    """Positions in quarter pixels at the shown frames, for tracks seen in many of them."""
    chosen_N = choose_tracks(tracks, frames, MAX_TRACKS)
    if len(chosen_N) == 0:
        return None
    xy_KN2 = np.rint(4 * tracks.tracks_FN2[frames][:, chosen_N])
    hidden_KN = ~tracks.visibility_FN[frames][:, chosen_N]
    hidden_KN |= ~np.isfinite(xy_KN2).all(2) | (np.abs(xy_KN2) > 32_000).any(2)
    xy_KN2[hidden_KN] = HIDDEN
    owner_N = np.maximum(tracks.instance_id_N[chosen_N], UNLABELLED)
    data = base64.b64encode(xy_KN2.astype("<i2").tobytes()).decode()
    return {"xy": data, "owner": owner_N.tolist()}


def choose_tracks(tracks: Tracks, frames: list[int], at_most: int) -> NDArray[np.int64]:
    """The tracks seen in most of `frames`, objects and background in equal parts if possible."""
    seen_N = tracks.visibility_FN[frames].sum(0)
    least = min(3, len(frames))
    parts = []
    for of_object in (True, False):
        candidates = np.flatnonzero((seen_N >= least) & ((tracks.instance_id_N > 0) == of_object))
        order = np.argsort(-seen_N[candidates], kind="stable")
        parts.append(candidates[order])
    objects, background = parts
    half = at_most // 2
    take = min(len(objects), max(half, at_most - len(background)))
    # the longest are crowded where the picture is easy: thin them evenly instead
    return np.sort(np.concatenate([objects[:take], _spread(background, at_most - take)]))


def _spread(candidates: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    longest = candidates[: 4 * count]
    if len(longest) <= count:
        return longest
    return np.sort(longest)[np.linspace(0, len(longest) - 1, count).astype(np.int64)]


def _cloud(found: Findings, points: int) -> dict[str, Any] | None:
    if found.fused is None or found.poses is None:
        return None
    size = (found.info.width, found.info.height)
    return cloud.payload(found.fused, found.poses, found.frames, points, size, found.up())
