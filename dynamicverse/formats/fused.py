"""fused_4d.npz: static and moving points, cameras and small pictures in one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.npz import ArraySpec, ArrayStream, NpzReader, write_npz
from dynamicverse.formats.poses import check_cameras
from dynamicverse.formats.reconstruction_info import Scale

MAX_PICTURE_SIDE = 256
SPEC = {
    "static_points": ArraySpec("f4", ("P", 3)),
    "static_rgbs": ArraySpec("u1", ("P", 3)),
    "static_confidence": ArraySpec("f4", ("P",)),
    "dyn_points": ArraySpec("f4", ("Q", 3)),
    "dyn_rgbs": ArraySpec("u1", ("Q", 3)),
    "dyn_offsets": ArraySpec("i8", ("F+1",)),
    "dyn_instance": ArraySpec("i4", ("Q",)),
    "c2w": ArraySpec("f8", ("F", 4, 4)),
    "Ks": ArraySpec("f8", ("F", 3, 3)),
    "timestamps": ArraySpec("f8", ("F",)),
    "scale": ArraySpec("U", ()),
    "rgbs": ArraySpec("u1", ("F", "h", "w", 3)),
    "object_ids": ArraySpec("i4", ("M",)),
    "object_centres": ArraySpec("f4", ("M", "F", 3)),
}


@dataclass(frozen=True)
class Fused:
    """A fused 4D scene; points and centres in the world frame, in the units of `scale`.

    static_confidence: (P) 0..1. Frame f owns `dyn_points[dyn_offsets[f]:dyn_offsets[f+1]]`;
    dyn_instance: (Q) id in the masks, 0 where unlabelled.
    c2w, Ks, timestamps: as in `poses.Poses`, but Ks in pixels of the full-size frames.
    rgbs: (F, h, w, 3) small pictures, longer side at most 256; a stream when written, and
    None when read without them.
    object_centres: (M, F, 3), NaN where unknown.
    """

    static_points: NDArray[np.float32]
    static_rgbs: NDArray[np.uint8]
    static_confidence: NDArray[np.float32]
    dyn_points: NDArray[np.float32]
    dyn_rgbs: NDArray[np.uint8]
    dyn_offsets: NDArray[np.int64]
    dyn_instance: NDArray[np.int32]
    c2w: NDArray[np.float64]
    Ks: NDArray[np.float64]
    timestamps: NDArray[np.float64]
    scale: Scale
    rgbs: NDArray[np.uint8] | ArrayStream | None
    object_ids: NDArray[np.int32]
    object_centres: NDArray[np.float32]


def write(path: Path, value: Fused) -> None:
    """Write fused_4d.npz; raises ArtifactError if the value does not hold."""
    _check(path, value)
    if value.rgbs is None:
        raise invalid(path, "rgbs are missing")
    arrays: dict[str, NDArray[Any] | ArrayStream] = {}
    for name, spec in SPEC.items():
        member = getattr(value, name)
        if isinstance(member, ArrayStream) or spec.dtype == "U":
            arrays[name] = member if isinstance(member, ArrayStream) else np.asarray(member)
        else:
            arrays[name] = np.asarray(member, spec.dtype)
    write_npz(path, arrays)


def read(path: Path, with_rgbs: bool = True) -> Fused:
    """Read fused_4d.npz, with or without the pictures; raises ArtifactError."""
    with NpzReader(path, SPEC) as reader:
        members: dict[str, Any] = {
            name: reader.read(name) if with_rgbs or name != "rgbs" else None for name in SPEC
        }
    members["scale"] = cast(Scale, str(members["scale"]))
    value = Fused(**members)
    _check(path, value)
    return value


@contextmanager
def open_rgbs(path: Path, rows: int = 16) -> Iterator[Iterator[NDArray[np.uint8]]]:
    """The small pictures in blocks of at most `rows` frames, (n, h, w, 3), with flat memory."""
    with NpzReader(path, SPEC) as reader:
        yield reader.blocks("rgbs", rows)


def validate(path: Path, frame_count: int, thorough: bool = False) -> None:
    """Raise ArtifactError if the file does not fit the scene; `thorough` reads all values."""
    with NpzReader(path, SPEC) as reader:
        if reader.dimensions["F"] != frame_count:
            raise invalid(path, f"{reader.dimensions['F']} frames, the scene has {frame_count}")
        if max(reader.shape("rgbs")[1:3]) > MAX_PICTURE_SIDE:
            raise invalid(path, f"pictures of {reader.shape('rgbs')} are too large")
        if thorough:
            for _ in reader.blocks("rgbs", 16):
                pass
    if thorough:
        read(path, with_rgbs=False)


def _check(path: Path, value: Fused) -> None:
    shapes = {"timestamps": value.timestamps.shape}
    for name in SPEC:
        member = getattr(value, name)
        if name not in ("scale",) and member is not None:
            shapes[name] = tuple(member.shape)
    frames = len(value.timestamps)
    registered_F = np.asarray(~np.isnan(value.c2w).all(axis=(1, 2)), np.bool_)
    check_cameras(path, value.c2w, value.Ks, value.timestamps, registered_F, value.scale)
    points, moving, objects = len(value.static_points), len(value.dyn_points), len(value.object_ids)
    expected: dict[str, tuple[int, ...]] = {
        "static_points": (points, 3),
        "static_rgbs": (points, 3),
        "static_confidence": (points,),
        "dyn_points": (moving, 3),
        "dyn_rgbs": (moving, 3),
        "dyn_offsets": (frames + 1,),
        "dyn_instance": (moving,),
        "object_ids": (objects,),
        "object_centres": (objects, frames, 3),
    }
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise invalid(path, f"'{name}' is {shapes[name]}, expected {shape}")
    if "rgbs" in shapes and (
        len(shapes["rgbs"]) != 4
        or shapes["rgbs"][0] != frames
        or max(shapes["rgbs"][1:3]) > MAX_PICTURE_SIDE
    ):
        raise invalid(path, f"'rgbs' is {shapes['rgbs']} for {frames} frames")
    offsets = value.dyn_offsets
    if offsets[0] != 0 or offsets[-1] != moving or (np.diff(offsets) < 0).any():
        raise invalid(path, f"dyn_offsets do not rise from 0 to {moving}")
    if not np.isfinite(value.static_points).all() or not np.isfinite(value.dyn_points).all():
        raise invalid(path, "a point is not finite")
    confidence = value.static_confidence
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise invalid(path, "static_confidence is outside 0..1")
    if len(np.unique(value.object_ids)) != objects:
        raise invalid(path, "object_ids are not unique")
    if np.isinf(value.object_centres).any():
        raise invalid(path, "object_centres holds infinities")
