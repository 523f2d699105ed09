"""Where the depth of a frame comes from: the plane sweep, or a prior, with moving objects."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dynamicverse.config import ReconstructionConfig
from dynamicverse.dynamicba.dense import dynamic_points
from dynamicverse.dynamicba.dense.densify import Densifier, Frames
from dynamicverse.dynamicba.dense.dynamic_points import DynamicPoints
from dynamicverse.dynamicba.dense.flow_refinement import FlowRefinement, ReadFlow, flow_bytes
from dynamicverse.dynamicba.dense.scaling import ScaleField, scale_field
from dynamicverse.dynamicba.dense.upsample import upsample
from dynamicverse.dynamicba.dense.views import SparsePoints, View, choose_views
from dynamicverse.dynamicba.frame_pool import compute_device, in_order
from dynamicverse.dynamicba.motion import contact
from dynamicverse.dynamicba.motion.contact import Anchor
from dynamicverse.formats.masks import present
from dynamicverse.formats.tracks import Tracks

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

FLOW_AHEAD = 128 << 20  # bytes of flow that is read while moving objects are solved
MOST_ANCHORS = 400  # tracks of an object in a frame that its depth is known from
MOVING_CONFIDENCE = 0.5  # factor for moving objects whose depth comes from a prior


@dataclass(frozen=True)
class Clip:
    """A clip with solved cameras. c2w_F44 is NaN where a frame is not registered.

    tracks: with the labels that their motion agrees with. distortion: k1 of `lens.py`.
    """

    frames: Frames
    tracks: Tracks
    sparse: SparsePoints
    c2w_F44: Floats
    K_F33: Floats
    registered_F: npt.NDArray[np.bool_]
    distortion: float = 0.0

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
    """Depth of registered frames at full size: static and moving, 0 where unknown.

    Called from several threads.
    """

    statements: list[str]
    moving: DynamicPoints

    def depth(self, frame: int, rgb_HW3: Bytes, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W)."""
        ...


class SweptDepth:
    """Plane-sweep depth of the static scene; moving objects placed by ground contact."""

    def __init__(self, densifier: Densifier, moving: DynamicPoints) -> None:
        self._densifier = densifier
        self.moving = moving
        self.statements = dynamic_points.about(moving.objects)

    def depth(self, frame: int, rgb_HW3: Bytes, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W) of a registered frame."""
        depth_HW, confidence_HW = upsample(*self._densifier.confirmed(frame), rgb_HW3)
        moving_HW = ids_HW > 0
        if moving_HW.any():
            own_HW, sure_HW = self.moving.depth(frame, ids_HW)
            depth_HW[moving_HW] = own_HW[moving_HW]
            confidence_HW[moving_HW] = sure_HW[moving_HW]
        return depth_HW, confidence_HW


class PriorDepth:
    """A depth prior in the scale of the static points, refined by flow where there is any; the
    pixels of moving objects follow the points of their own object.
    """

    def __init__(
        self,
        clip: Clip,
        settings: ReconstructionConfig,
        read: Callable[[int], tuple[Floats32, Floats32]],
        read_flow: ReadFlow | None = None,
    ) -> None:
        self._clip, self._read = clip, read
        self._refinement: FlowRefinement | None = None
        if read_flow is not None:
            width, height = clip.tracks.size
            fields = FLOW_AHEAD // flow_bytes(width, height)
            self._refinement = FlowRefinement(
                clip.c2w_F44, clip.K_F33, clip.distortion, read_flow, fields
            )
        self._field: dict[int, ScaleField] = {}
        anchors_F = list(in_order(self._anchors, range(len(clip.registered_F))))
        with self._refinement.reading() if self._refinement else nullcontext():
            self.moving = solve_moving(clip, settings, anchors_F, "prior")
        self.statements = dynamic_points.about(self.moving.objects)

    def depth(self, frame: int, rgb_HW3: Bytes, ids_HW: Bytes) -> tuple[Floats32, Floats32]:
        """Depth and confidence (H,W) of a registered frame."""
        scaled_HW, confidence_HW, sigma = self._scaled(frame)
        if self._refinement is not None:
            scaled_HW = self._refinement.refine(frame, scaled_HW, ids_HW, sigma)
        depth_HW = self.moving.corrected(frame, ids_HW, scaled_HW)
        factor = np.where(ids_HW > 0, MOVING_CONFIDENCE, 1.0)
        return depth_HW, (confidence_HW * factor).astype(np.float32)

    def _scaled(self, frame: int) -> tuple[Floats32, Floats32, float]:
        """The prior of a frame in the scale of the static points that it shows, its confidence,
        and the standard deviation of its logarithm.
        """
        prior_HW, confidence_HW = self._read(frame)
        if frame not in self._field:
            index = self._clip.sparse.seen(frame)
            c2w = self._clip.c2w_F44[frame]
            depth_N = (self._clip.sparse.points_N3[index] - c2w[:3, 3]) @ c2w[:3, 2]
            pixels_N2 = self._clip.tracks.tracks_FN2[frame, index].astype(np.float64)
            self._field[frame] = scale_field(prior_HW, pixels_N2, depth_N)
        field = self._field[frame]
        return field.scaled(prior_HW), confidence_HW, field.sigma

    def _anchors(self, frame: int) -> dict[int, Anchor | None]:
        """The depth that the prior gives the tracks of each object."""
        clip = self._clip
        ids_HW = clip.frames.ids(frame)
        shown = sorted(present(ids_HW))
        anchors: dict[int, Anchor | None] = dict.fromkeys(shown)
        if not shown or not clip.registered_F[frame]:
            return anchors
        depth_HW, _, _ = self._scaled(frame)
        for instance in shown:
            mine = clip.tracks.visibility_FN[frame] & (clip.tracks.instance_id_N == instance)
            pixels_K2 = clip.tracks.tracks_FN2[frame, mine].astype(np.float64)
            anchors[instance] = _prior_anchor(pixels_K2, depth_HW, ids_HW == instance)
        return anchors


def _prior_anchor(
    pixels_K2: Floats, depth_HW: Floats32, mask_HW: npt.NDArray[np.bool_]
) -> Anchor | None:
    """The depth at some of the tracks that lie on a mask; of the mask as a whole without any."""
    height, width = depth_HW.shape
    column, row = np.rint(pixels_K2).astype(np.intp).T
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    on = np.flatnonzero(mask_HW[row, column] & (depth_HW[row, column] > 0))
    if len(on):
        on = on[:: -(-len(on) // MOST_ANCHORS)]
        return Anchor(pixels_K2[on], depth_HW[row[on], column[on]].astype(np.float64))
    known_HW = mask_HW & (depth_HW > 0)
    if not known_HW.any():
        return None
    rows, columns = np.nonzero(known_HW)
    middle_12 = np.array([[columns.mean(), rows.mean()]])
    return Anchor(middle_12, np.array([float(np.median(depth_HW[known_HW]))]))


def solve_moving(
    clip: Clip,
    settings: ReconstructionConfig,
    anchors_F: Sequence[Mapping[int, Anchor | None]],
    source: Literal["prior", "contact"],
) -> DynamicPoints:
    """Reconstruct the moving objects of a clip."""
    # the solver needs torch, which takes seconds to import: only when there is work
    from dynamicverse.dynamicba.cameras.mapping import Tolerances
    from dynamicverse.dynamicba.motion.moving_objects import solve_objects
    from dynamicverse.dynamicba.motion.object_scale import Cameras

    cameras = settings.cameras
    tolerances = Tolerances(
        cameras.inlier_px,
        np.radians(cameras.min_angle),
        cameras.loss_px,
        compute_device(settings.device),
    )
    solved = solve_objects(
        clip.tracks,
        Cameras(clip.c2w_F44, clip.K_F33, clip.distortion),
        anchors_F,
        source,
        tolerances,
        cameras.max_frames,
    )
    return DynamicPoints(clip.tracks, solved)


@contextmanager
def swept_depth(
    clip: Clip, settings: ReconstructionConfig, progress: Progress
) -> Iterator[SweptDepth]:
    """Search the depth of all registered frames; intermediate files live while it is open."""
    with tempfile.TemporaryDirectory(prefix="dynamicverse-") as scratch:
        dense = settings.dense
        size = clip.tracks.size
        densifier = Densifier(
            clip.frames, size, clip.c2w_F44, clip.K_F33, dense, Path(scratch), clip.distortion
        )
        views = choose_views(
            clip.sparse, clip.c2w_F44, clip.registered_F, dense.neighbours, dense.reach
        )
        densifier.match(views, progress)
        contacts_F = list(_contacts(clip, densifier, {view.frame: view for view in views}))
        yield SweptDepth(densifier, solve_moving(clip, settings, contacts_F, "contact"))


def _contacts(
    clip: Clip, densifier: Densifier, views: Mapping[int, View]
) -> Iterator[dict[int, Anchor | None]]:
    """Confirm the depth of every frame and find where its objects touch the ground."""
    zoom_2 = np.array(densifier.size.full) / np.array(densifier.size.work)
    for frame in range(len(clip.registered_F)):
        depth_hw = densifier.confirm(views[frame]) if frame in views else None
        K = densifier.size.intrinsics(clip.K_F33[frame])
        found = contact.contacts(densifier.small_ids(frame), depth_hw, K)
        yield {instance: seen and seen.enlarged(zoom_2) for instance, seen in found.items()}
