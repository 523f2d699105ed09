"""JSON artifacts: round trips, published schemas, and files that must be refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from formats_values import MODELS, objects_value, property_test, scene_value
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dynamicverse.errors import ArtifactError, Reason
from dynamicverse.formats import (
    SCHEMAS,
    captions,
    jsonfile,
    keyframe_info,
    labels,
    manifest,
    objects,
    reconstruction_info,
    scene_info,
)
from dynamicverse.formats.atomic import atomic_path

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)


OBJECT = {
    "instance_id": 1,
    "model": "rigid",
    "scale_source": "contact",
    "tracks": 30,
    "posed_frames": 4,
}


def test_every_schema_has_a_sample() -> None:
    assert set(SCHEMAS) == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_round_trip_and_schema(name: str, tmp_path: Path) -> None:
    value, path = MODELS[name](), tmp_path / "new" / "a.json"
    jsonfile.write_model(path, value)
    assert jsonfile.read_model(path, SCHEMAS[name]) == value
    text = path.read_text("utf-8")
    assert text.endswith("}\n")
    jsonschema.Draft202012Validator(SCHEMAS[name].model_json_schema()).validate(json.loads(text))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_same_value_same_bytes(name: str, tmp_path: Path) -> None:
    for path in ("a", "b"):
        jsonfile.write_model(tmp_path / path, MODELS[name]())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@property_test
@given(times=st.lists(finite, min_size=1, max_size=20), warnings=st.lists(words, max_size=3))
def test_scene_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, times: list[float], warnings: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "scene.json"
    base = scene_value(len(times)).model_dump()
    value = scene_info.SceneInfo(**(base | {"times_s": sorted(times), "warnings": warnings}))
    scene_info.write(path, value)
    assert scene_info.read(path) == value


@property_test
@given(facts=st.dictionaries(words, json_values, max_size=4), text=words)
def test_captions_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any], text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "captions.json"
    value = captions.Caption(text=text, source="s", facts=facts)
    jsonfile.write_model(path, value)
    back = jsonfile.read_model(path, captions.Caption)
    assert back == value
    assert back.facts == facts


def test_numpy_scalars_become_numbers(tmp_path: Path) -> None:
    value = MODELS["manifest"]()
    assert value.facts == {"objects": 3, "share": 0.5}
    box = objects.Position(frame=np.int64(2), box=list(np.float32([0, 0, 1, 1])))
    assert type(box.frame) is int
    assert box.box == [0.0, 0.0, 1.0, 1.0]


def test_foreign_text_is_made_safe(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[31m.mp4")
    source = scene_value().source.model_dump() | {"name": name}
    value = scene_value().model_copy(update={"source": scene_info.Source(**source)})
    scene_info.write(tmp_path / "s.json", value)
    assert scene_info.read(tmp_path / "s.json").source.name == "caf\\udce9\\x1b[31m.mp4"


def test_values_changed_after_validation_are_not_written(tmp_path: Path) -> None:
    value = scene_value()
    value.times_s.append(99.0)
    with pytest.raises(ArtifactError, match="5 times for 4 frames"):
        scene_info.write(tmp_path / "s.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "dictionary"),
        (b"{}", "Field required"),
        (b"null", "dictionary"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 100_000, "not valid JSON"),
        (b'{"dynamic": [], "dynamic": []}', "same key twice"),
        (b"{" + b",".join(b'"%d": 0' % i for i in range(20_000)) + b"}", "20000 keys"),
    ],
)
def test_malformed_json(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=problem) as caught:
        objects.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["scene", "captions"])
def test_no_number_is_not_finite(name: str, number: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = MODELS[name]().model_dump_json()
    known = '"start_s":0.0' if name == "scene" else '"depth":[1,2.5]'
    assert known in value
    path.write_text(value.replace(known, known.split(":")[0] + ":" + number))
    with pytest.raises(ArtifactError):
        jsonfile.read_model(path, SCHEMAS[name])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scene", {"extra": 1}),
        ("scene", {"width": "32"}),
        ("scene", {"width": 0}),
        ("scene", {"width": 32.5}),
        ("scene", {"width": True}),
        ("scene", {"frame_count": 3}),
        ("scene", {"times_s": [0.0, 2.0, 1.0, 3.0]}),
        ("scene", {"name": "../../etc"}),
        ("scene", {"dataset": ""}),
        ("scene", {"rate": 0.0}),
        ("scene", {"warnings": ["x" * 10_001]}),
        ("keyframe_info", {"keyframes": [3, 0]}),
        ("keyframe_info", {"keyframes": [1, 1]}),
        ("keyframe_info", {"keyframes": [4]}),
        ("keyframe_info", {"keyframes": [-1]}),
        ("dynamic_objects", {"camera_motion": "wobbly"}),
        ("dynamic_objects", {"static_scene": 0}),
        ("intrinsics", {"fx": 0.0}),
        ("reconstruction", {"registered_frames": 5}),
        ("reconstruction", {"objects": [OBJECT, OBJECT]}),
        ("reconstruction", {"objects": [OBJECT | {"model": "contact"}]}),
        ("reconstruction", {"objects": [OBJECT | {"model": "unknown", "posed_frames": 0}]}),
        ("reconstruction", {"objects": [OBJECT | {"posed_frames": 9}]}),
        ("reconstruction", {"objects": [OBJECT | {"instance_id": 0}]}),
        ("reconstruction", {"relabelled": {"to_static": -1}}),
        ("reconstruction", {"scale": "miles"}),
        ("result_summary", {"object_count": 2}),
        ("result_summary", {"coverage": 1.1}),
        ("manifest", {"facts": {"a": [[[[[[[1]]]]]]]}}),
        ("manifest", {"facts": {"a": "x" * 10_001}}),
        ("manifest", {"facts": {"a": 10**30}}),
        ("manifest", {"finished": "2026-01-02T03:04:05"}),
        ("manifest", {"finished": "yesterday"}),
        ("manifest", {"outputs": {"rgb": [{"path": "a", "bytes": 1, "sha256": "A" * 64}]}}),
        *[
            ("manifest", {"outputs": {"rgb": [{"path": p, "bytes": 1, "sha256": "a" * 64}]}})
            for p in ("/etc/passwd", "a/../../b", "..", "a\\..\\b", "", ".", "a\0b")
        ],
    ],
)
def test_wrong_values_are_refused(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = json.loads(MODELS[name]().model_dump_json())
    path.write_text(json.dumps(good))
    jsonfile.read_model(path, SCHEMAS[name])
    path.write_text(json.dumps(good | change))
    with pytest.raises(ArtifactError, match=next(iter(change)) + "|the whole"):
        jsonfile.read_model(path, SCHEMAS[name])


def test_cross_field_rules() -> None:
    one = objects_value().dynamic[0]
    with pytest.raises(ValidationError, match="x0 <= x1"):
        objects.Position(frame=0, box=[5, 0, 4, 9])
    with pytest.raises(ValidationError, match="ascend"):
        objects.DynamicObject(**(one.model_dump() | {"position": [one.position[0]] * 2}))
    with pytest.raises(ValidationError, match="not unique"):
        objects.DynamicObjects(
            dynamic=[one, one], static_scene=False, camera_motion="static", notes=[]
        )
    with pytest.raises(ValidationError, match="not unique"):
        labels.InstanceLabels(instances=MODELS["instance_labels"]().instances * 2)
    with pytest.raises(ValidationError, match="before"):
        captions.CameraSegment(first_frame=3, last_frame=2, labels=[])
    with pytest.raises(ValidationError, match="index"):
        scene_info.Shot(index=1, count=1, first_frame=0, last_frame=0, start_s=0, end_s=0)
    with pytest.raises(ValidationError, match="interval"):
        scene_info.SceneInfo(
            **(scene_value().model_dump() | {"shot": scene_value(3).shot.model_dump()})
        )


def test_validate_compares_with_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    keyframe_info.write(path, MODELS["keyframe_info"]())
    keyframe_info.validate(path, 4)
    with pytest.raises(ArtifactError, match="3 scores for 5 frames"):
        keyframe_info.validate(path, 5)
    objects.write(path, objects_value())
    objects.validate(path, 4, 32, 24)
    with pytest.raises(ArtifactError, match="outside 16x24"):
        objects.validate(path, 4, 16, 24)
    with pytest.raises(ArtifactError, match="beyond the 1 frames"):
        objects.validate(path, 1, 32, 24)
    labels.write(path, MODELS["instance_labels"]())
    with pytest.raises(ArtifactError, match="instance 1 is beyond"):
        labels.validate(path, 3)
    reconstruction_info.write(path, MODELS["reconstruction"]())
    with pytest.raises(ArtifactError, match="frame_count 4"):
        reconstruction_info.validate(path, 3)


def test_missing_unreadable_and_odd_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as missing:
        scene_info.read(tmp_path / "none.json")
    assert missing.value.reason is Reason.MISSING_ARTIFACT
    with pytest.raises(ArtifactError, match="a folder"):
        scene_info.read(tmp_path)
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    with pytest.raises(ArtifactError) as looped:
        scene_info.read(loop)
    assert looped.value.reason is Reason.UNREADABLE
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ArtifactError, match="not a regular file"):
        scene_info.read(tmp_path / "pipe.json")
    with pytest.raises(ArtifactError):
        scene_info.read(tmp_path / ("x" * 300))


def test_oversized_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    with path.open("wb") as stream:
        stream.truncate(65 << 30)
    with pytest.raises(ArtifactError, match="more than"):
        scene_info.read(path)


def test_a_million_bad_items_cost_little(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    value = MODELS["keyframe_info"]().model_dump() | {"scores": ["x"] * 1_000_000}
    path.write_text(json.dumps(value))
    start = time.process_time()
    with pytest.raises(ArtifactError, match=r"scores\.0"):
        keyframe_info.read(path)
    assert time.process_time() - start < 5


def test_ten_hours_fit(tmp_path: Path) -> None:
    path, frames = tmp_path / "scene.json", 1_000_000
    value = scene_value(frames)
    scene_info.write(path, value)
    assert scene_info.read(path).times_s[-1] == (frames - 1) / 30


def test_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_path(path) as first:
        first.write_bytes(b"first")
        with atomic_path(path) as second:
            second.write_bytes(b"second, and longer")
            assert first.read_bytes() == b"first"
        assert path.read_bytes() == b"second, and longer"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_in_processes_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from dynamicverse.formats.atomic import write_bytes\n"
        "for _ in range(300): write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 50_000)"
    )
    path = tmp_path / "a"
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {b"a" * 50_000, b"b" * 50_000}
    assert list(tmp_path.iterdir()) == [path]


def test_manifest_facts_refuse_nan() -> None:
    with pytest.raises(ValidationError, match="NaN"):
        manifest.Manifest(**(MODELS["manifest"]().model_dump() | {"facts": {"a": float("nan")}}))


def test_package_is_light() -> None:
    code = (
        "import sys, dynamicverse.formats as f; list(f.SCHEMAS); "
        "print([m for m in ('pydantic', 'numpy', 'cv2', 'OpenEXR') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
