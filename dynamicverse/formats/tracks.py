"""tracks.npz: point tracks over the whole clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats.bounded import invalid
from dynamicverse.formats.npz import ArraySpec, NpzReader, conform, read_npz, write_npz

SPEC = {
    "tracks": ArraySpec("f4", ("F", "N", 2)),
    "visibility": ArraySpec("b1", ("F", "N")),
    "confidence": ArraySpec("f4", ("F", "N")),
    "query_frame": ArraySpec("i4", ("N",)),
    "instance_id": ArraySpec("i4", ("N",)),
    "size": ArraySpec("i4", (2,)),
}


@dataclass(frozen=True)
class Tracks:
    """N point tracks over F frames.

    tracks_FN2: x, y in pixels, (0,0) the first pixel's centre; meaningless where not visible.
    visibility_FN: the point is seen in that frame; confidence_FN: 0..1.
    query_frame_N: the frame a track was started in.
    instance_id_N: id in the masks, 0 is background, -1 is unknown.
    size: (width, height) of the frames in pixels.
    """

    tracks_FN2: NDArray[np.float32]
    visibility_FN: NDArray[np.bool_]
    confidence_FN: NDArray[np.float32]
    query_frame_N: NDArray[np.int32]
    instance_id_N: NDArray[np.int32]
    size: tuple[int, int]


def write(path: Path, value: Tracks) -> None:
    """Write tracks.npz; raises ArtifactError if the value does not hold."""
    given = {
        "tracks": value.tracks_FN2,
        "visibility": value.visibility_FN,
        "confidence": value.confidence_FN,
        "query_frame": value.query_frame_N,
        "instance_id": value.instance_id_N,
        "size": value.size,
    }
    arrays = conform(path, given, SPEC)
    _check(path, arrays)
    write_npz(path, arrays)


def read(path: Path) -> Tracks:
    """Read tracks.npz; raises ArtifactError."""
    arrays = read_npz(path, SPEC)
    _check(path, arrays)
    width, height = (int(v) for v in arrays["size"])
    return Tracks(
        arrays["tracks"],
        arrays["visibility"],
        arrays["confidence"],
        arrays["query_frame"],
        arrays["instance_id"],
        (width, height),
    )


def validate(path: Path, frame_count: int, width: int, height: int, thorough: bool = False) -> None:
    """Raise ArtifactError if the file does not fit the scene; `thorough` reads all values."""
    with NpzReader(path, SPEC) as reader:
        size = tuple(int(v) for v in reader.read("size"))
        if reader.dimensions["F"] != frame_count:
            raise invalid(path, f"{reader.dimensions['F']} frames, the scene has {frame_count}")
        if size != (width, height):
            raise invalid(path, f"size {size}, the frames are {(width, height)}")
    if thorough:
        read(path)


def _check(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    query_N, instance_N = arrays["query_frame"], arrays["instance_id"]
    frames = len(arrays["tracks"])
    if arrays["size"].min() < 1:
        raise invalid(path, f"size {tuple(arrays['size'])}")
    if len(query_N) and not 0 <= query_N.min() <= query_N.max() < frames:
        raise invalid(path, f"query_frame is outside the {frames} frames")
    if len(instance_N) and not -1 <= instance_N.min() <= instance_N.max() <= 255:
        raise invalid(path, "instance_id is outside -1..255")
    for frame in range(frames):  # a frame at a time: no second copy of everything
        confidence_N = arrays["confidence"][frame]
        if not ((confidence_N >= 0) & (confidence_N <= 1)).all():
            raise invalid(path, f"confidence outside 0..1 or NaN in frame {frame}")
        if not np.isfinite(arrays["tracks"][frame][arrays["visibility"][frame]]).all():
            raise invalid(path, f"a visible point is not finite in frame {frame}")
