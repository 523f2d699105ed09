"""Estimates and truth from files: scenes of an output tree, and the forms data sets come in.

A scene is a folder of the output tree; all else is a file or a folder of pictures in the order
of their names. Everything that cannot be used is an ArtifactError in one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamicverse.errors import ArtifactError, Reason
from dynamicverse.formats import depth_exr, flow_png, masks, png, poses
from dynamicverse.formats.bounded import invalid, read_bytes
from dynamicverse.geometry.lie import Array, se3
from dynamicverse.scene import Scene, sanitise

Depth = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint8]

MAX_TEXT = 64 << 20
MILLIMETRES = 1000.0
COLUMNS = {12: (3, 4), 16: (4, 4)}  # numbers in a line of poses


@dataclass(frozen=True)
class Cameras:
    """c2w_F44: camera to world, NaN where not known; focal_F: px, None where not told."""

    c2w_F44: Array
    focal_F: Array | None


def scene_at(path: Path) -> Scene | None:
    """The scene whose folder `path` is, None where it is something else."""
    folder = path.resolve()
    parts = (folder.parent.name, folder.name)
    if not folder.is_dir() or any(sanitise(p) != p for p in parts):
        return None
    scene = Scene(folder.parent.parent, *parts)
    known = ("cameras", "depth", "masks", "flow", "tracks")
    return scene if any(scene.files(artifact) for artifact in known) else None


def read_cameras(path: Path) -> Cameras:
    """Poses of a scene, of a poses.npz, or of a text file.

    Text: a line a frame, 12 or 16 numbers (camera-to-world, row by row) or 8 (TUM: time,
    translation, quaternion x y z w).
    """
    scene = scene_at(path)
    file = path if scene is None else scene.poses
    if file.suffix == ".npz":
        found = poses.read(file)
        return Cameras(found.c2w_F44, found.K_F33[:, 0, 0])
    if file.is_dir():
        raise invalid(path, "a folder without poses; expected a scene, poses.npz or a text file")
    return Cameras(_text_poses(file), None)


def read_depth(path: Path) -> Iterator[Depth | None]:
    """Depth maps, frame by frame; None where a scene has none for a frame that it has a pose of.

    A scene, or a folder of EXR files or of 16-bit PNG files in millimetres; 0 is unknown.
    """
    scene = scene_at(path)
    if scene is not None and scene.files("depth"):
        for frame in range(frame_count(scene)):
            file = scene.depth(frame)
            yield depth_exr.read(file)[0] if file.exists() else None
        return
    for file in pictures(path, (".exr", ".png")):
        yield depth_exr.read(file)[0] if file.suffix == ".exr" else _millimetres(file)


def read_masks(path: Path) -> list[Ids]:
    """Instance masks of a scene, or of a folder of PNG files: palette indices, or grey levels."""
    scene = scene_at(path)
    files = scene.files("masks") if scene is not None else pictures(path, (".png",))
    if not files:
        raise missing(path, "masks")
    return [_ids(file) for file in files]


def flow_pairs(estimate: Path, truth: Path) -> list[tuple[Path, Path]]:
    """The flow files of a scene or folder, or one file, each with its true one by name."""
    if truth.is_file() and estimate.is_file():
        return [(estimate, truth)]
    ours, theirs = ({f.name: f for f in _flow_files(p)} for p in (estimate, truth))
    lacking = sorted(set(theirs) - set(ours))
    if lacking:
        raise invalid(estimate, f"no flow {lacking[0]} ({len(lacking)} of {len(theirs)} missing)")
    return [(ours[name], theirs[name]) for name in sorted(theirs)]


def read_flow(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A flow field (H,W,2) in px and where it is valid (H,W); 16-bit PNG as of KITTI."""
    return flow_png.read(path)


def track_file(path: Path) -> Path:
    """The tracks.npz of a scene, or the file itself."""
    scene = scene_at(path)
    return path if scene is None else scene.tracks


def frame_count(scene: Scene) -> int:
    """Frames of a scene, from its poses."""
    return len(poses.read(scene.poses).timestamps_F)


def pictures(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of the suffixes, by name."""
    if not folder.is_dir():
        raise missing(folder, f"folder of {' or '.join(suffixes)} files")
    found = sorted(f for f in folder.iterdir() if f.suffix.lower() in suffixes)
    if not found:
        raise missing(folder, f"{' or '.join(suffixes)} files")
    return found


def missing(path: Path, what: str) -> ArtifactError:
    """The error for something that is not there."""
    return ArtifactError(f"{path}: no {what} there", Reason.MISSING_ARTIFACT)


def _flow_files(path: Path) -> list[Path]:
    scene = scene_at(path)
    files = scene.files("flow") if scene is not None else pictures(path, (".png",))
    if not files:
        raise missing(path, "flow")
    return files


def _text_poses(file: Path) -> Array:
    try:
        text = read_bytes(file, MAX_TEXT).decode("ascii")
        rows = [
            [float(v) for v in line.split()] for line in text.splitlines() if _has_numbers(line)
        ]
        table = np.array(rows, np.float64)
    except ValueError as error:  # UnicodeDecodeError, not a number, lines of unequal length
        raise invalid(file, f"not a table of poses ({error})") from error
    if table.ndim == 2 and table.shape[1] in COLUMNS and len(table):
        c2w = np.tile(np.eye(4), (len(table), 1, 1))
        rows_count, columns = COLUMNS[table.shape[1]]
        c2w[:, :rows_count] = table.reshape(-1, rows_count, columns)
        return c2w
    if table.ndim == 2 and table.shape[1] == 8 and len(table):
        return _from_quaternions(file, table)
    raise invalid(file, "expected lines of 12, 16 or 8 numbers")


def _has_numbers(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _from_quaternions(file: Path, table_F8: Array) -> Array:
    q = table_F8[:, 4:]
    length = np.linalg.norm(q, axis=1, keepdims=True)
    if not (length > 0).all():
        raise invalid(file, "a quaternion of length zero")
    x, y, z, w = (q / length).T
    R = np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )
    return se3(R, table_F8[:, 1:4])


def _millimetres(file: Path) -> Depth:
    samples, _ = png.decode(file, png.GREY, 16)
    return np.asarray(samples / MILLIMETRES, np.float32)


def _ids(file: Path) -> Ids:
    header = png.read_header(file)
    if header.colour == png.PALETTE:
        return masks.read(file)
    samples, _ = png.decode(file, png.GREY, 8)
    return np.asarray(samples, np.uint8)
