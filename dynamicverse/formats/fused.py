"""fused_4d.npz: static and moving points, cameras and small pictures in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.npz import (
    ArraySpec,
    ArrayStream,
    Header,
    NpzReader,
    conform,
    match,
    write_npz,
)
from dynamicverse.formats.poses import check_cameras, is_rotation
from dynamicverse.formats.reconstruction_info import ObjectModel, Scale

MAX_PICTURE_SIDE = 256
OBJECT_MODELS = get_args(ObjectModel)
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
    "object_model": ArraySpec("U", ("M",)),
    "object_poses": ArraySpec("f8", ("M", "F", 4, 4)),
}
_NO_RGBS = {name: spec for name, spec in SPEC.items() if name != "rgbs"}


@dataclass(frozen=True)
class Fused:
    """A fused 4D scene; points and centres in the world frame, in the units of `scale`.

    static_confidence: (P) 0..1. Frame f owns `dyn_points[dyn_offsets[f]:dyn_offsets[f+1]]`;
    dyn_instance: (Q) id in the masks, 0 where unlabelled.
    c2w, Ks, timestamps: as in `poses.Poses`, but Ks in pixels of the full-size frames.
    rgbs: (F, h, w, 3) small pictures, longer side at most 256; a stream when written, and
    None when read without them.
    object_centres: (M, F, 3), the middle of what is seen, NaN where unknown.
    object_model: (M) "rigid", "deforming", "contact" or "unknown", as in reconstruction.json.
    object_poses: (M, F, 4, 4) object-to-world of rigid objects: the origin is the middle of the
    object's points, the axes are those of the world in its first frame; NaN where unknown. The
    translation alone is NaN where the scale of the object is unknown.
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
    object_model: NDArray[np.str_]
    object_poses: NDArray[np.float64]


def write(path: Path, value: Fused) -> None:
    """Write fused_4d.npz; raises ArtifactError if the value does not hold."""
    if value.rgbs is None:
        raise invalid(path, "rgbs are missing")
    others = {name: getattr(value, name) for name in SPEC if name != "rgbs"}
    arrays: dict[str, NDArray[Any] | ArrayStream] = {**conform(path, others, _NO_RGBS)}
    _check(path, arrays)
    arrays["rgbs"] = value.rgbs
    headers = {n: Header(np.dtype(a.dtype), tuple(a.shape)) for n, a in arrays.items()}
    match(path, headers, SPEC)
    _check_pictures(path, headers["rgbs"].shape)
    write_npz(path, {name: arrays[name] for name in SPEC})


def read(path: Path, with_rgbs: bool = True) -> Fused:
    """Read fused_4d.npz, with or without the pictures; raises ArtifactError."""
    with NpzReader(path, SPEC) as reader:
        _check_pictures(path, reader.shape("rgbs"))
        members: dict[str, Any] = {
            name: reader.read(name) if with_rgbs or name != "rgbs" else None for name in SPEC
        }
    _check(path, members)
    return Fused(**(members | {"scale": cast(Scale, str(members["scale"]))}))


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
        _check_pictures(path, reader.shape("rgbs"))
        if thorough:
            for _ in reader.blocks("rgbs", 16):
                pass
    if thorough:
        read(path, with_rgbs=False)


def _check_pictures(path: Path, shape: tuple[int, ...]) -> None:
    if not 1 <= min(shape[1:3]) <= max(shape[1:3]) <= MAX_PICTURE_SIDE:
        raise invalid(path, f"pictures of {shape[2]}x{shape[1]}, at most {MAX_PICTURE_SIDE}")


def _check(path: Path, arrays: Mapping[str, Any]) -> None:
    c2w_F44 = arrays["c2w"]
    registered_F = np.asarray(~np.isnan(c2w_F44).all(axis=(1, 2)), np.bool_)
    times_F, scale = arrays["timestamps"], str(arrays["scale"])
    check_cameras(path, c2w_F44, arrays["Ks"], times_F, registered_F, scale)
    offsets, moving = arrays["dyn_offsets"], len(arrays["dyn_points"])
    if offsets[0] != 0 or offsets[-1] != moving or (offsets[1:] < offsets[:-1]).any():
        raise invalid(path, f"dyn_offsets do not rise from 0 to {moving}")
    for name in ("static_points", "dyn_points"):
        if not np.isfinite(arrays[name]).all():
            raise invalid(path, f"'{name}' holds a point that is not finite")
    confidence = arrays["static_confidence"]
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise invalid(path, "static_confidence is outside 0..1")
    ids = arrays["object_ids"]
    if len(np.unique(ids)) != len(ids):
        raise invalid(path, "object_ids are not unique")
    if np.isinf(arrays["object_centres"]).any():
        raise invalid(path, "object_centres holds infinities")
    _check_objects(path, arrays["object_model"], arrays["object_poses"])


def _check_objects(path: Path, model_M: NDArray[np.str_], poses_MF44: NDArray[np.float64]) -> None:
    unknown = sorted({str(m) for m in model_M} - set(OBJECT_MODELS))
    if unknown:
        raise invalid(path, f"object_model {unknown[0][:20]!r} is none of {OBJECT_MODELS}")
    known_MF = np.asarray(~np.isnan(poses_MF44).all((2, 3)))
    if known_MF[model_M != "rigid"].any():
        raise invalid(path, "object_poses of an object that is not rigid must be NaN")
    poses_K44 = poses_MF44[known_MF]
    R_K33 = poses_K44[:, :3, :3]
    placed_K3 = np.isnan(poses_K44[:, :3, 3])
    whole = placed_K3.all(1) | np.isfinite(poses_K44[:, :3, 3]).all(1)
    if not whole.all() or not is_rotation(R_K33) or (poses_K44[:, 3] != [0, 0, 0, 1]).any():
        raise invalid(path, "object_poses holds a matrix that is not [R t; 0 1]")
