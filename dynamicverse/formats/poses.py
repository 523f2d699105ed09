"""poses.npz: camera-to-world poses, intrinsics and times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.npz import ArraySpec, NpzReader, conform, read_npz, write_npz
from dynamicverse.formats.reconstruction_info import Scale

SCALES = ("metric", "relative", "unobservable")
MAX_BYTES = 1 << 30
SPEC = {
    "c2w": ArraySpec("f8", ("F", 4, 4)),
    "K": ArraySpec("f8", ("F", 3, 3)),
    "timestamps": ArraySpec("f8", ("F",)),
    "registered": ArraySpec("b1", ("F",)),
    "scale": ArraySpec("U", ()),
    "distortion": ArraySpec("f8", ()),
    "pose_sigma": ArraySpec("f8", ("F", 6)),
    "focal_sigma": ArraySpec("f8", ("F",)),
}
SEGMENTS = {  # only where there are several
    "segment": ArraySpec("i4", ("F",)),
    "segment_c2w": ArraySpec("f8", ("F", 4, 4)),
}


@dataclass(frozen=True)
class Poses:
    """The cameras of F frames.

    c2w_F44: camera to world, OpenCV axes (x right, y down, z forward); NaN where not
    registered. Translation in metres, or in units of the reconstruction, as `scale` says.
    K_F33: pixels, (0,0) the first pixel's centre. timestamps_F: seconds.
    distortion: k1; a camera point (x, y, z) is seen at K·((1 + k1·r²)·(x/z, y/z), 1) with
    r² = (x² + y²)/z².
    pose_sigma_F6: standard deviations of the rotation about the camera's axes (rad) and of the
    camera's centre along these axes (unit of the translations), relative to the first
    registered camera and to the scale, which are held. focal_sigma_F: standard deviations of
    the focal lengths in pixels. NaN where not estimated; None is NaN everywhere.
    segment_F: stretches of the clip that no track connects: 0 the registered frames, 1, 2, …
    further stretches, -1 neither. segment_c2w_F44: the poses of those further stretches, NaN
    elsewhere; each has a world and a unit of length of its own, so they cannot be put together
    with c2w. Both None where there is only one segment.
    """

    c2w_F44: NDArray[np.float64]
    K_F33: NDArray[np.float64]
    timestamps_F: NDArray[np.float64]
    registered_F: NDArray[np.bool_]
    scale: Scale
    distortion: float = 0.0
    pose_sigma_F6: NDArray[np.float64] | None = None
    focal_sigma_F: NDArray[np.float64] | None = None
    segment_F: NDArray[np.int32] | None = None
    segment_c2w_F44: NDArray[np.float64] | None = None


def write(path: Path, value: Poses) -> None:
    """Write poses.npz; raises ArtifactError if the value does not hold."""
    frames = len(value.timestamps_F)
    pose_sigma, focal_sigma = value.pose_sigma_F6, value.focal_sigma_F
    given = {
        "c2w": value.c2w_F44,
        "K": value.K_F33,
        "timestamps": value.timestamps_F,
        "registered": value.registered_F,
        "scale": value.scale,
        "distortion": value.distortion,
        "pose_sigma": np.full((frames, 6), np.nan) if pose_sigma is None else pose_sigma,
        "focal_sigma": np.full(frames, np.nan) if focal_sigma is None else focal_sigma,
    }
    spec = SPEC
    if value.segment_F is not None and value.segment_c2w_F44 is not None:
        given |= {"segment": value.segment_F, "segment_c2w": value.segment_c2w_F44}
        spec = SPEC | SEGMENTS
    arrays = conform(path, given, spec)
    _check(path, arrays)
    write_npz(path, arrays)


def read(path: Path) -> Poses:
    """Read poses.npz; raises ArtifactError."""
    with NpzReader(path) as reader:
        spec = SPEC | SEGMENTS if set(SEGMENTS) & set(reader.names) else SPEC
    arrays = read_npz(path, spec, MAX_BYTES)
    _check(path, arrays)
    return Poses(
        arrays["c2w"],
        arrays["K"],
        arrays["timestamps"],
        arrays["registered"],
        cast(Scale, str(arrays["scale"])),
        float(arrays["distortion"]),
        arrays["pose_sigma"],
        arrays["focal_sigma"],
        arrays.get("segment"),
        arrays.get("segment_c2w"),
    )


def validate(path: Path, frame_count: int) -> None:
    """Raise ArtifactError if the file does not fit a scene of `frame_count` frames."""
    found = len(read(path).timestamps_F)
    if found != frame_count:
        raise invalid(path, f"{found} poses, the scene has {frame_count} frames")


def check_cameras(
    path: Path,
    c2w_F44: NDArray[Any],
    K_F33: NDArray[Any],
    timestamps_F: NDArray[Any],
    registered_F: NDArray[np.bool_],
    scale: str,
) -> None:
    """Raise ArtifactError if these are not cameras."""
    if not len(timestamps_F):
        raise invalid(path, "no frames")
    if scale not in SCALES:
        raise invalid(path, f"scale {scale[:20]!r} is none of {SCALES}")
    if not np.isfinite(timestamps_F).all() or (np.diff(timestamps_F) < 0).any():
        raise invalid(path, "timestamps are not finite or decrease")
    if not np.isfinite(K_F33).all() or (K_F33[:, [0, 1], [0, 1]] <= 0).any():
        raise invalid(path, "K is not finite with positive focal lengths")
    if (K_F33[:, [1, 2, 2], [0, 0, 1]] != 0).any() or (K_F33[:, 2, 2] != 1).any():
        raise invalid(path, "K is not [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    if not np.isnan(c2w_F44[~registered_F]).all():
        raise invalid(path, "c2w of a frame that is not registered must be NaN")
    c2w_R44 = c2w_F44[registered_F]
    if not np.isfinite(c2w_R44).all() or (c2w_R44[:, 3] != [0, 0, 0, 1]).any():
        raise invalid(path, "c2w of a registered frame is not a finite [R t; 0 1]")
    if not is_rotation(c2w_R44[:, :3, :3]):
        raise invalid(path, "c2w holds a matrix that is not a rotation")


def is_rotation(R_N33: NDArray[Any]) -> bool:
    """Whether all matrices are finite rotations."""
    if not np.isfinite(R_N33).all() or (np.abs(R_N33) > 2).any():  # products could overflow
        return False
    gram_N33 = R_N33 @ R_N33.transpose(0, 2, 1)
    return bool(np.allclose(gram_N33, np.eye(3), atol=1e-4) and (np.linalg.det(R_N33) > 0).all())


def _check(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    check_cameras(
        path,
        arrays["c2w"],
        arrays["K"],
        arrays["timestamps"],
        arrays["registered"],
        str(arrays["scale"]),
    )
    if not np.isfinite(arrays["distortion"]):
        raise invalid(path, "distortion is not finite")
    for name in ("pose_sigma", "focal_sigma"):
        if (arrays[name] < 0).any():
            raise invalid(path, f"{name} holds a negative standard deviation")
    if not np.isnan(arrays["pose_sigma"][~arrays["registered"]]).all():
        raise invalid(path, "pose_sigma of a frame that is not registered must be NaN")
    if "segment" in arrays:
        _check_segments(path, arrays["segment"], arrays["segment_c2w"], arrays["registered"])


def _check_segments(
    path: Path,
    segment_F: NDArray[Any],
    c2w_F44: NDArray[Any],
    registered_F: NDArray[np.bool_],
) -> None:
    if not np.array_equal(segment_F == 0, registered_F):
        raise invalid(path, "segment 0 must be the registered frames")
    found = np.unique(segment_F[segment_F > 0])
    if (segment_F < -1).any() or not np.array_equal(found, np.arange(1, len(found) + 1)):
        raise invalid(path, "segments are not -1, 0, 1, 2, … without gaps")
    if not np.isnan(c2w_F44[segment_F < 1]).all():
        raise invalid(path, "segment_c2w must be NaN outside segments 1, 2, …")
    c2w_R44 = c2w_F44[segment_F > 0]
    if not np.isfinite(c2w_R44).all() or (c2w_R44[:, 3] != [0, 0, 0, 1]).any():
        raise invalid(path, "segment_c2w is not a finite [R t; 0 1]")
    if not is_rotation(c2w_R44[:, :3, :3]):
        raise invalid(path, "segment_c2w holds a matrix that is not a rotation")
