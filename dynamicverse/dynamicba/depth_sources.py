"""Where the depth of a frame comes from: the plane sweep, or a prior, with moving objects."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynamicverse.config import ReconstructionConfig
from dynamicverse.dynamicba import dynamic_points
from dynamicverse.dynamicba.densify import Densifier, Frames
from dynamicverse.dynamicba.dynamic_points import ObjectDepths
from dynamicverse.dynamicba.scaling import densify_with_prior
from dynamicverse.dynamicba.upsample import upsample
from dynamicverse.dynamicba.views import SparsePoints, View, choose_views
from dynamicverse.formats.tracks import Tracks

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

MOVING_CONFIDENCE = 0.5  # factor for moving objects whose depth comes from a prior


@dataclass(frozen=True)
class Clip:
    """A clip with solved cameras. c2w_F44 is NaN where a frame is not registered."""

    frames: Frames
    tracks: Tracks
    sparse: SparsePoints
    c2w_F44: Floats
    K_F33: Floats
    registered_F: npt.NDArray[np.bool_]

    @property
    def registered(self) -> list[int]:
        """The registered frames, ascending."""
        return [int(frame) for frame in np.flatnonzero(self.registered_F)]

    def median_depth(self) -> float | None:
        """Over all sightings of the sparse points; None without points."""
        depths = [
            (self.sparse.points_N3[self.sparse.seen(f)] - self.c2w_F44[f, :3, 3])
            @ self.c2w_F44[f, :3, 2]
            for f in self.registered
        ]
        z = np.concatenate([np.zeros(0), *depths])
        z = z[z > 0]
        return float(np.median(z)) if len(z) else None


class DepthSource(Protocol):
    """Depth of registered frames at full size: static and moving, 0 where unknown."""

    statements: list[str]

    def depth(self, frame: int, rgb_HW3: Bytes, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W)."""
        ...


class SweptDepth:
    """Plane-sweep depth of the static scene, moving objects placed by contact."""

    def __init__(self, densifier: Densifier, objects: ObjectDepths) -> None:
        self._densifier = densifier
        self._objects = objects
        self.statements = _about_objects(objects)

    def depth(self, frame: int, rgb_HW3: Bytes, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W) of a registered frame."""
        depth_HW, confidence_HW = upsample(*self._densifier.confirmed(frame), rgb_HW3)
        moving_HW = ids_HW > 0
        if moving_HW.any():
            depth_HW[moving_HW] = self._objects.at(frame)[ids_HW[moving_HW]]
            known_HW = moving_HW & (depth_HW > 0)
            confidence_HW[moving_HW] = 0
            confidence_HW[known_HW] = dynamic_points.CONFIDENCE
        return depth_HW, confidence_HW


class PriorDepth:
    """A depth prior in the scale of the static points, for static and moving pixels alike."""

    def __init__(self, clip: Clip, read: Callable[[int], tuple[Floats32, Floats32]]) -> None:
        self._clip, self._read = clip, read
        self.statements: list[str] = []

    def depth(self, frame: int, rgb_HW3: Bytes, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W) of a registered frame."""
        prior_HW, confidence_HW = self._read(frame)
        index = self._clip.sparse.seen(frame)
        c2w = self._clip.c2w_F44[frame]
        depth_N = (self._clip.sparse.points_N3[index] - c2w[:3, 3]) @ c2w[:3, 2]
        pixels_N2 = self._clip.tracks.tracks_FN2[frame, index].astype(np.float64)
        depth_HW = densify_with_prior(prior_HW, pixels_N2, depth_N)
        factor = np.where(ids_HW > 0, MOVING_CONFIDENCE, 1.0)
        return depth_HW, (confidence_HW * factor).astype(np.float32)


@contextmanager
def swept_depth(
    clip: Clip, settings: ReconstructionConfig, progress: Progress
) -> Iterator[SweptDepth]:
    """Search the depth of all registered frames; intermediate files live while it is open."""
    with tempfile.TemporaryDirectory(prefix="dynamicverse-") as scratch:
        dense = settings.dense
        size = clip.tracks.size
        densifier = Densifier(clip.frames, size, clip.c2w_F44, clip.K_F33, dense, Path(scratch))
        views = choose_views(
            clip.sparse, clip.c2w_F44, clip.registered_F, dense.neighbours, dense.reach
        )
        densifier.match(views, progress)
        contacts_F = list(_contacts(clip, densifier, {view.frame: view for view in views}))
        yield SweptDepth(densifier, dynamic_points.place(contacts_F))


def _contacts(
    clip: Clip, densifier: Densifier, views: Mapping[int, View]
) -> Iterator[dict[int, float]]:
    """Confirm the depth of every frame and find where its objects touch the ground."""
    for frame in range(len(clip.registered_F)):
        depth_hw = densifier.confirm(views[frame]) if frame in views else None
        yield dynamic_points.contacts(densifier.small_ids(frame), depth_hw)


def _about_objects(objects: ObjectDepths) -> list[str]:
    """What the depth of moving objects rests on, in plain words."""
    statements = []
    unknown = objects.without_depth
    if len(unknown) < len(objects.ids_M):
        statements.append(
            "depth of moving objects assumes that they stand on the ground seen below them"
        )
    if unknown:
        names = ", ".join(str(i) for i in unknown)
        statements.append(f"depth of moving objects unknown, no ground contact seen: {names}")
    return statements
