"""Rendered truth against independent geometry: brute-force rays, analytic boxes, projection."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from program import dynamicverse
from textures import forget

from dynamicverse.errors import ConfigError, MissingModelError
from dynamicverse.formats import depth_exr, flow_png, images, masks, poses, tracks
from dynamicverse.geometry.lie import rotation_angle
from dynamicverse.geometry.projection import project, rays
from dynamicverse.synthetic import rays as tracing
from dynamicverse.synthetic.render import grid
from dynamicverse.synthetic.scenes import FLOOR, KINDS, Kind, Recipe, make_world
from dynamicverse.synthetic.surfaces import ball, box
from dynamicverse.synthetic.truth import Truth
from dynamicverse.synthetic.writer import Layout, read_objects, read_recipe, write_clip

SIZE = (96, 64)


@cache
def truth(kind: Kind, frames: int = 8, seed: int = 1, size: tuple[int, int] = SIZE) -> Truth:
    return Truth(make_world(Recipe(kind, seed, frames, size, noise=0.0)))


def brute_force_depth(found: Truth, frame: int, pixels_N2: np.ndarray) -> np.ndarray:
    """Nearest intersection with every triangle (Möller and Trumbore, 1997)."""
    world = found.world
    c2w = world.c2w_F44[frame]
    best = np.full(len(pixels_N2), np.inf)
    directions = rays(pixels_N2, world.K_F33[frame]) @ c2w[:3, :3].T
    for body in world.bodies:
        corners = body.vertices(frame)[body.mesh.faces_T3]
        a, one, two = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        for index, direction in enumerate(directions):
            p = np.cross(direction, two)
            scale = 1 / np.sum(one * p, 1)
            s = c2w[:3, 3] - a
            u = np.sum(s * p, 1) * scale
            q = np.cross(s, one)
            v = (q @ direction) * scale
            t = np.sum(two * q, 1) * scale
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
            best[index] = min(best[index], t[hit].min(initial=np.inf))
    return best


@pytest.mark.parametrize("kind", ["orbit", "articulated", "deforming"])
def test_depth_is_that_of_the_nearest_triangle(kind: Kind) -> None:
    found = truth(kind)
    pixels = np.random.default_rng(0).integers(0, SIZE, (60, 2)).astype(float)
    depth_HW = found.view(5).render().depth_HW
    x, y = pixels.astype(int).T
    np.testing.assert_allclose(
        depth_HW[y, x], brute_force_depth(found, 5, pixels), rtol=2e-5, atol=1e-6
    )


def test_masks_show_which_body_is_in_front() -> None:
    found = truth("orbit")
    seen = found.view(3).render()
    points = found.view(3).points(found.view(3).surface(grid(SIZE)))
    for body in found.world.moving:
        o2w = body.o2w(3)
        local = (points - o2w[:3, 3]) @ o2w[:3, :3]
        half = body.mesh.vertices_V3.max(0)
        on_box = (np.abs(local) <= half + 1e-6).all(1)
        assert on_box.any()
        np.testing.assert_array_equal(on_box, seen.ids_HW.reshape(-1) == body.instance)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_follow_the_flow(kind: Kind) -> None:
    """The second picture, fetched along the flow, is the first one where the end is seen."""
    found = truth(kind, frames=6, size=(192, 128))
    first, second = (found.view(f).render(4).rgb_HW3.astype(np.float32) for f in (4, 5))
    flow_HW2, valid_HW = found.flow(4, 5)
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (192, 128)))
    target = (x + flow_HW2[..., 0], y + flow_HW2[..., 1])
    fetched = cv2.remap(second, *target, cv2.INTER_CUBIC)
    error = np.abs(fetched - first).mean(2)[valid_HW]
    still = np.abs(second - first).mean(2)[valid_HW]
    assert valid_HW.mean() > 0.6
    assert np.median(error) < max(3.0, 0.5 * np.median(still))
    if kind != "static":
        assert np.median(np.linalg.norm(flow_HW2, axis=2)) > 0.1


def test_flow_is_nothing_where_nothing_moves() -> None:
    found = truth("static")
    flow_HW2, valid_HW = found.flow(2, 4)
    still = found.view(2).render().ids_HW == 0
    assert np.abs(flow_HW2[still]).max() < 1e-5
    assert np.linalg.norm(flow_HW2[~still], axis=1).min() > 0.01
    covered = found.view(4).render().ids_HW > 0
    assert not valid_HW[still & covered].any()  # background that a box has moved over


@pytest.mark.parametrize("kind", ["walk", "articulated", "deforming", "zoom"])
def test_tracks_are_projections_of_their_points(kind: Kind) -> None:
    found = truth(kind)
    world = found.world
    exact = found.tracks(step=8, interval=4)
    for f in range(world.frame_count):
        c2w = world.c2w_F44[f]
        camera = (exact.points_FN3[f] - c2w[:3, 3]) @ c2w[:3, :3]
        pixels = project(camera, world.K_F33[f])
        seen = exact.visibility_FN[f]
        np.testing.assert_allclose(exact.tracks_FN2[f][seen], pixels[seen], atol=1e-4)
        x, y = np.rint(pixels[seen]).astype(int).T
        depth_HW = found.view(f).render(1).depth_HW
        at = depth_HW[y.clip(0, SIZE[1] - 1), x.clip(0, SIZE[0] - 1)]
        assert np.median(np.abs(camera[seen, 2] / at - 1)) < 0.01  # on the surface in front
    starts = exact.tracks_FN2[exact.query_frame_N, np.arange(len(exact.query_frame_N))]
    np.testing.assert_allclose(starts[: len(grid(SIZE, 8))], grid(SIZE, 8), atol=1e-4)
    assert exact.visibility_FN[exact.query_frame_N, np.arange(len(starts))].all()
    still = exact.instance_id_N == 0
    assert np.ptp(exact.points_FN3[:, still], axis=0).max() < 1e-9
    assert np.ptp(exact.points_FN3[:, ~still], axis=0).max() > 0.05


def test_a_hidden_point_is_not_visible() -> None:
    found = truth("static", frames=40)
    exact = found.tracks(step=4, interval=40)
    for f in (0, 39):
        x, y = np.rint(exact.tracks_FN2[f]).astype(int).T
        inside = (x >= 1) & (y >= 1) & (x < SIZE[0] - 1) & (y < SIZE[1] - 1)
        ids_HW = found.view(f).render(1).ids_HW
        x, y = x.clip(0, SIZE[0] - 1), y.clip(0, SIZE[1] - 1)
        behind = (
            inside & (exact.instance_id_N == 0) & (cv2.erode(ids_HW, np.ones((3, 3)))[y, x] > 0)
        )
        assert not exact.visibility_FN[f][behind].any()
    assert behind.any()


def test_a_zoomed_picture_shows_the_same_materials() -> None:
    near, far = (truth(kind, 40, size=(192, 128)) for kind in ("zoom", "walk"))
    assert near.world.K_F33[39, 0, 0] > 1.2 * near.world.K_F33[0, 0, 0]
    pixels = grid((192, 128), 16)[20:60]
    points = near.view(39).points(near.view(39).surface(pixels))
    where, visible = far.view(39).see(points)
    one, two = (t.view(39).render(4).rgb_HW3.astype(int) for t in (near, far))
    x, y = pixels[visible].astype(int).T
    u, v = np.rint(where[visible]).astype(int).T
    assert visible.sum() > 20
    assert np.abs(one[y, x] - two[v, u]).mean() < 0.6 * np.abs(one[y, x] - one.mean((0, 1))).mean()


def test_meshes_are_closed_and_face_outwards() -> None:
    def volume(mesh) -> float:
        a, b, c = (mesh.vertices_V3[mesh.faces_T3[:, i]] for i in range(3))
        return float(np.sum(a * np.cross(b, c)) / 6)

    assert volume(box([1, 2, 3])) == pytest.approx(48)
    assert volume(ball([1, 1, 2], cells=24)) == pytest.approx(4 / 3 * np.pi * 2, rel=0.01)


def test_rotation_turns_on_the_spot() -> None:
    world = truth("rotation").world
    assert np.ptp(world.c2w_F44[:, :3, 3], axis=0).max() < 1e-12
    assert rotation_angle(world.c2w_F44[0, :3, :3].T @ world.c2w_F44[7, :3, :3]) > 0.05


def test_a_figure_swings_its_limbs_about_its_body() -> None:
    world = truth("articulated", frames=30).world
    names = [b.name.split(": ")[1] for b in world.moving]
    assert names == ["body", "head", "left arm", "left leg", "right arm", "right leg"]
    assert {b.instance for b in world.moving} == {1}
    legs = [b for b in world.moving if b.name.endswith("leg")]
    turns = [[np.linalg.inv(world.moving[0].o2w(f)) @ b.o2w(f) for f in range(30)] for b in legs]
    hips = [[t @ [0, -0.415, 0, 1] for t in leg] for leg in turns]  # the upper end stays
    assert np.ptp(np.array(hips), axis=1).max() < 1e-9
    assert np.ptp([t[1, 2] for t in turns[0]]) > 0.3


@pytest.mark.parametrize("kind", ["walk", "articulated", "deforming"])
def test_things_stand_on_the_floor(kind: Kind) -> None:
    world = truth(kind, frames=30).world
    for instance in {b.instance for b in world.moving}:
        parts = [b for b in world.moving if b.instance == instance]
        lowest = [max(b.vertices(f)[:, 1].max() for b in parts) for f in range(30)]
        np.testing.assert_allclose(lowest, FLOOR, atol=1e-9)


def test_a_clip_is_written_whole_and_again_the_same(tmp_path: Path) -> None:
    recipe = Recipe("articulated", 4, 3, SIZE)
    layout = write_clip(tmp_path / "one", recipe)
    forget()
    again = write_clip(tmp_path / "two", recipe)
    scene, exact = layout.scene, Truth(make_world(recipe))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(layout.clip) != digests(
        write_clip(tmp_path, Recipe("articulated", 5, 3, SIZE)).clip
    )
    assert read_recipe(again.recipe) == recipe
    np.testing.assert_array_equal(images.read_rgb(layout.rgb(1)), exact.view(1).render().rgb_HW3)
    depth_HW, confidence_HW = depth_exr.read(scene.depth(2))
    np.testing.assert_allclose(depth_HW, exact.view(2).render().depth_HW, rtol=1e-3)
    assert (confidence_HW == 1).all()
    assert masks.present(masks.read(scene.mask(0))) == {1}
    flow_HW2, valid_HW = flow_png.read(scene.flow(1, 0))
    np.testing.assert_allclose(flow_HW2, exact.flow(1, 0)[0], atol=1 / 128 + 1e-6)
    np.testing.assert_array_equal(valid_HW, exact.flow(1, 0)[1])
    cameras = poses.read(scene.poses)
    assert (cameras.scale, len(cameras.c2w_F44)) == ("metric", 3)
    objects = read_objects(layout.objects)
    assert objects.object_kind_M.tolist() == ["articulated"]
    assert objects.part_poses_PF44.shape == (6, 3, 4, 4)
    np.testing.assert_array_equal(objects.object_poses_MF44[0], objects.part_poses_PF44[0])
    assert objects.track_points_FN3.shape[:2] == tracks.read(scene.tracks).visibility_FN.shape


@pytest.mark.parametrize(
    ("kind", "objects", "kinds"),
    [("orbit", None, ["rigid"] * 3), ("deforming", None, ["deforming"]), ("walk", 0, [])],
)
def test_objects_say_what_they_are(
    tmp_path: Path, kind: Kind, objects: int | None, kinds: list[str]
) -> None:
    layout = write_clip(tmp_path, Recipe(kind, 0, 1, (64, 64), objects))
    assert read_objects(layout.objects).object_kind_M.tolist() == kinds


def test_what_cannot_be_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (Recipe(size=(32, 96)), Recipe(frames=0), Recipe("jump")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            write_clip(tmp_path, recipe)
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError, match="pip install 'dynamicverse\\[synth\\]'"):
        write_clip(tmp_path, Recipe(frames=1, size=(64, 64)))
    assert not (tmp_path / "clips").exists()


def test_the_command_makes_an_input_of_run(tmp_path: Path) -> None:
    arguments = ("--kind", "orbit", "--frames", "2", "--size", "64x64", "--seed", "3")
    (made,) = dynamicverse("synth", str(tmp_path), *arguments, "--json").json()
    layout = Layout(tmp_path, "orbit-3")
    assert made["clip"] == str(layout.clip)
    done = dynamicverse(
        "run", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--stages", "ingest"
    )
    assert done.code == 0
    assert (tmp_path / "out/clips/orbit-3/rgb/00002.jpg").exists()
    wrong = dynamicverse("synth", str(tmp_path), "--kind", "jump")
    assert wrong.code == 65
    assert "known: walk" in wrong.err


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
