"""Clips and their truth as files.

OUT/clips/<name>/rgb/00001.png …     frames without loss: an input of `dynamicverse run`
OUT/truth/clips/<name>/              the truth, laid out as `run` lays out its results:
    dynamicBA/poses.npz              exact cameras, metric
    dynamicBA/depth/00001.exr        exact depth, confidence 1
    dynamicBA/flow/00001_00002.png   exact flow both ways; valid = its end is seen
    qwen/Annotations/frame_00000.png instance masks
    tracks/tracks.npz                dense tracks with visibility
    truth.npz                        poses of objects, 3D positions of the tracks
    recipe.json                      what the clip follows from
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dynamicverse.errors import ConfigError
from dynamicverse.formats import depth_exr, flow_png, images, jsonfile, masks, poses, tracks
from dynamicverse.formats.model import Model
from dynamicverse.formats.npz import ArraySpec, conform, read_npz, write_npz
from dynamicverse.geometry.lie import Array
from dynamicverse.scene import Scene
from dynamicverse.synthetic.scenes import KINDS, Kind, Recipe, World, make_world
from dynamicverse.synthetic.truth import Truth

DATASET = "clips"  # the default of `run`, so that truth and results lie alike
TRACK_STEP = 16  # px between tracks at 640 px of width
TRACK_INTERVAL = 10
SPEC = {
    "object_ids": ArraySpec("i4", ("M",)),
    "object_kind": ArraySpec("U", ("M",)),
    "object_poses": ArraySpec("f8", ("M", "F", 4, 4)),
    "part_instance": ArraySpec("i4", ("P",)),
    "part_name": ArraySpec("U", ("P",)),
    "part_poses": ArraySpec("f8", ("P", "F", 4, 4)),
    "track_points": ArraySpec("f4", ("F", "N", 3)),
}


@dataclass(frozen=True)
class Objects:
    """truth.npz: what moves, in the world frame of poses.npz, metres.

    object_kind_M: rigid, articulated (rigid parts) or deforming. object_poses_MF44:
    object-to-world, of an articulated object that of its root, of a deforming one that of the
    frame it deforms in. part_poses_PF44: of every part; part_instance_P: the object it belongs
    to. track_points_FN3: positions of the points of tracks.npz, seen or not.
    """

    object_ids_M: NDArray[np.int32]
    object_kind_M: NDArray[Any]
    object_poses_MF44: Array
    part_instance_P: NDArray[np.int32]
    part_name_P: NDArray[Any]
    part_poses_PF44: Array
    track_points_FN3: NDArray[np.float32]


class RecipeFile(Model):
    """recipe.json."""

    kind: Kind
    seed: Annotated[int, Field(ge=0)]
    frames: Annotated[int, Field(ge=1)]
    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    objects: Annotated[int, Field(ge=0, le=255)] | None
    noise: Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Layout:
    """The paths of one clip below the output folder."""

    out: Path
    name: str

    @classmethod
    def of_truth(cls, scene: Scene) -> Layout:
        """The layout that a scene of the truth belongs to."""
        return cls(scene.root.parent, scene.name)

    @property
    def clip(self) -> Path:
        """The frame folder to give to `dynamicverse run`."""
        return self.out / "clips" / self.name

    def rgb(self, frame: int) -> Path:
        return self.clip / "rgb" / f"{frame + 1:05d}.png"

    @property
    def scene(self) -> Scene:
        """The truth, by the paths of the output tree."""
        return Scene(self.out / "truth", DATASET, self.name)

    @property
    def objects(self) -> Path:
        return self.scene.folder / "truth.npz"

    @property
    def recipe(self) -> Path:
        return self.scene.folder / "recipe.json"


def clip_name(recipe: Recipe) -> str:
    """The name of a clip's folder: kind, seed, and the number of objects where it is given."""
    count = "" if recipe.objects is None else f"-{recipe.objects}objects"
    return f"{recipe.kind}-{recipe.seed}{count}"


def write_clip(
    out: Path, recipe: Recipe, progress: Callable[[int, int], None] = lambda done, total: None
) -> Layout:
    """Render a clip and write it with its truth; the same recipe gives the same bytes.

    Raises ConfigError for a recipe that cannot be rendered, MissingModelError without embreex.
    """
    check(recipe)
    layout, world = Layout(out, clip_name(recipe)), make_world(recipe)
    truth, scene = Truth(world), layout.scene
    frames = world.frame_count
    for frame in range(frames):
        seen = truth.view(frame).render()
        images.write_png(layout.rgb(frame), seen.rgb_HW3)
        depth_exr.write(scene.depth(frame), seen.depth_HW, np.ones_like(seen.depth_HW))
        masks.write(scene.mask(frame), seen.ids_HW)
        for source, target in ((frame - 1, frame), (frame, frame - 1)) if frame else ():
            flow_png.write(scene.flow(source, target), *truth.flow(source, target))
        progress(frame + 1, frames)
    known_F = np.ones(frames, np.bool_)
    cameras = poses.Poses(world.c2w_F44, world.K_F33, world.times_F, known_F, "metric")
    poses.write(scene.poses, cameras)
    _write_tracks(layout, truth)
    jsonfile.write_model(layout.recipe, _recipe_file(recipe))
    return layout


def read_objects(path: Path) -> Objects:
    """Read truth.npz; raises ArtifactError."""
    arrays = read_npz(path, SPEC)
    return Objects(*(arrays[name] for name in SPEC))


def read_recipe(path: Path) -> Recipe:
    """Read recipe.json; raises ArtifactError."""
    found = jsonfile.read_model(path, RecipeFile)
    width, height = found.size
    return Recipe(found.kind, found.seed, found.frames, (width, height), found.objects, found.noise)


def object_poses(world: World) -> tuple[NDArray[np.int32], Array]:
    """Ids (M) of what moves and object-to-world poses (M,F,4,4) of the roots."""
    roots = {body.instance: body for body in reversed(world.moving)}
    ids = np.array(sorted(roots), np.int32)
    found = [[roots[int(i)].o2w(f) for f in range(world.frame_count)] for i in ids]
    return ids, np.array(found, np.float64).reshape(len(ids), world.frame_count, 4, 4)


def _write_tracks(layout: Layout, truth: Truth) -> None:
    world = truth.world
    step = max(4, round(TRACK_STEP * world.size[0] / 640))
    exact = truth.tracks(step, TRACK_INTERVAL)
    tracks.write(
        layout.scene.tracks,
        tracks.Tracks(
            exact.tracks_FN2,
            exact.visibility_FN,
            exact.visibility_FN.astype(np.float32),
            exact.query_frame_N,
            exact.instance_id_N,
            world.size,
        ),
    )
    ids, roots = object_poses(world)
    parts = world.moving
    part_poses = [[b.o2w(f) for f in range(world.frame_count)] for b in parts]
    arrays = {
        "object_ids": ids,
        "object_kind": np.array([_object_kind(world, int(i)) for i in ids], "U16"),
        "object_poses": roots,
        "part_instance": np.array([b.instance for b in parts], np.int32),
        "part_name": np.array([b.name for b in parts], "U64"),
        "part_poses": np.array(part_poses, np.float64).reshape(-1, world.frame_count, 4, 4),
        "track_points": exact.points_FN3,
    }
    write_npz(layout.objects, conform(layout.objects, arrays, SPEC))


def _object_kind(world: World, instance: int) -> str:
    parts = [b for b in world.moving if b.instance == instance]
    if any(b.shape is not None for b in parts):
        return "deforming"
    return "articulated" if len(parts) > 1 else "rigid"


def _recipe_file(recipe: Recipe) -> RecipeFile:
    return RecipeFile(
        kind=recipe.kind,
        seed=recipe.seed,
        frames=recipe.frames,
        size=list(recipe.size),
        objects=recipe.objects,
        noise=recipe.noise,
    )


def check(recipe: Recipe) -> None:
    """Raise ConfigError for a recipe that cannot be rendered."""
    if recipe.kind not in KINDS:
        raise ConfigError(f"no kind of clip '{recipe.kind}' (known: {', '.join(KINDS)})")
    if recipe.frames < 1 or recipe.seed < 0 or not 0 <= (recipe.objects or 0) <= 255:
        raise ConfigError("a clip has at least one frame, a seed from 0 and at most 255 objects")
    if not 64 <= min(recipe.size) <= max(recipe.size) <= 4096:
        raise ConfigError(f"size {recipe.size[0]}x{recipe.size[1]}: each side is 64 to 4096 px")
