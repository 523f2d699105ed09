"""Whatever the bytes, a reader gives a value or an ArtifactError that names the file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from formats_values import write_tree

from dynamicverse.errors import ArtifactError
from dynamicverse.formats import (
    captions,
    depth_exr,
    flow_png,
    fused,
    html,
    images,
    masks,
    mp4,
    objects,
    poses,
    scene_info,
    tracks,
)
from dynamicverse.scene import Scene

CASES: dict[str, tuple[Callable[[Scene], Path], Callable[[Path], object]]] = {
    "scene": (lambda s: s.scene_json, scene_info.read),
    "objects": (lambda s: s.dynamic_objects, objects.read),
    "csv": (lambda s: s.object_captions, captions.read_csv),
    "flow": (lambda s: s.flow(0, 1), flow_png.read),
    "mask": (lambda s: s.mask(0), masks.read),
    "depth": (lambda s: s.depth(0), depth_exr.read),
    "jpeg": (lambda s: s.rgb(0), images.read_rgb),
    "jpeg header": (lambda s: s.rgb(0), images.read_header),
    "tracks": (lambda s: s.tracks, tracks.read),
    "poses": (lambda s: s.poses, poses.read),
    "fused": (lambda s: s.fused, fused.read),
    "mp4": (lambda s: s.video, mp4.validate),
    "html": (lambda s: s.report, html.read),
}
# what is left after these cuts is whole: a final newline, or a table with fewer rows
HARMLESS = {"scene": 1, "objects": 1, "html": 1}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.mark.parametrize("name", sorted(set(CASES) - {"csv"}))
def test_truncated_files_are_refused(name: str, scene: Scene, tmp_path: Path) -> None:
    find, read = CASES[name]
    data, path = find(scene).read_bytes(), tmp_path / "cut"
    end = len(data) - HARMLESS.get(name, 0)
    for length in sorted({*range(0, end, max(1, end // 150)), *range(max(0, end - 40), end)}):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=str(path)):
            read(path)


@pytest.mark.parametrize("name", sorted(CASES))
def test_damaged_files_raise_nothing_else(name: str, scene: Scene, tmp_path: Path) -> None:
    find, read = CASES[name]
    data, path = find(scene).read_bytes(), tmp_path / "damaged"
    dice = random.Random(name)
    messages: list[str] = []
    for _ in range(250):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 8, 60))):
            at = dice.randrange(min(len(damaged), dice.choice((64, 600, len(damaged)))))
            kind = dice.random()
            if kind < 0.7:
                damaged[at] = dice.choice((0, 127, 128, 255, dice.randrange(256)))
            elif kind < 0.85:
                damaged[at:at] = bytes([dice.randrange(256)] * dice.randrange(1, 9))
            elif len(damaged) > 16:
                del damaged[at : at + dice.randrange(1, 9)]
        path.write_bytes(damaged)
        try:
            read(path)
        except ArtifactError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)
