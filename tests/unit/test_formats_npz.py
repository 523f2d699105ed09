"""NumPy archives: exact round trips, flat memory, and archives that must be refused."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats_values import (
    FRAMES,
    HEIGHT,
    WIDTH,
    fused_value,
    poses_value,
    property_test,
    tracks_value,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynamicverse.errors import ArtifactError, Reason
from dynamicverse.formats import fused, npz, poses, tracks
from dynamicverse.formats.npz import ArraySpec, ArrayStream, NpzReader, read_npz, write_npz

SPEC = {"a": ArraySpec("f4", ("N", 2)), "b": ArraySpec("i8", ("N+1",))}
dtypes = st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "b1", "U5"])
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def good() -> dict[str, np.ndarray]:
    return {"a": np.arange(6, dtype="f4").reshape(3, 2), "b": np.arange(4, dtype="i8")}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def write_zip(path: Path, members: list[tuple[str, bytes]], **options: Any) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members:
            archive.writestr(name, data)


@property_test
@given(array=arrays)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "a.npz"
    write_npz(path, {"x": array})
    with NpzReader(path) as reader:
        back = reader.read("x")
        assert reader.names == ["x"]
        assert reader.shape("x") == array.shape
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    other = np.load(path, allow_pickle=False)["x"]
    assert other.dtype == array.dtype
    assert other.shape == array.shape
    assert other.tobytes() == array.tobytes()


@property_test
@given(array=hnp.arrays("f4", st.tuples(st.integers(1, 40), st.integers(0, 5))), data=st.data())
def test_stream_equals_array(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(array)), max_size=4)))
    blocks = np.split(array, cuts)
    write_npz(folder / "whole.npz", {"x": array})
    write_npz(folder / "stream.npz", {"x": ArrayStream("f4", array.shape, blocks)})
    assert (folder / "whole.npz").read_bytes() == (folder / "stream.npz").read_bytes()
    rows = data.draw(st.integers(1, 50))
    with NpzReader(folder / "whole.npz") as reader:
        back = list(reader.blocks("x", rows))
    assert all(len(block) <= rows for block in back)
    assert np.concatenate(back).tobytes() == array.tobytes()


def test_streaming_needs_flat_memory(tmp_path: Path) -> None:
    shape, path = (400, 256, 256, 3), tmp_path / "big.npz"  # 79 MB

    def frames() -> Iterator[np.ndarray]:
        for index in range(shape[0]):
            yield np.full((1, *shape[1:]), index % 256, np.uint8)

    tracemalloc.start()
    write_npz(path, {"rgbs": ArrayStream("u1", shape, frames())})
    with NpzReader(path) as reader:
        for index, block in enumerate(reader.blocks("rgbs", 1)):
            assert block[0, 0, 0, 0] == index % 256
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_large_arrays_are_written_without_a_copy(tmp_path: Path) -> None:
    array = np.zeros((64, 1 << 20), np.uint8)
    tracemalloc.start()
    write_npz(tmp_path / "a.npz", {"x": array})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


def test_same_values_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fused.write(tmp_path / f"{name}.npz", fused_value())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_spec(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, good())
    assert read_npz(path, SPEC)["b"].tolist() == [0, 1, 2, 3]
    for change, problem in [
        ({"a": good()["a"].astype("f8")}, "'a' is f8, expected f4"),
        ({"a": good()["a"][:2]}, "'b' is .* expected N\\+1 = 3"),
        ({"a": good()["a"][:, :1]}, "expected 2 = 2"),
        ({"a": good()["a"][0]}, "expected 2 dimensions"),
        ({"c": good()["a"]}, "unexpected: \\['c'\\]"),
    ]:
        write_npz(path, good() | change)
        with pytest.raises(ArtifactError, match=problem):
            read_npz(path, SPEC)
    write_npz(path, {"a": good()["a"]})
    with pytest.raises(ArtifactError, match="missing: \\['b'\\]"):
        read_npz(path, SPEC)


def test_bounds_of_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, good())
    with pytest.raises(ArtifactError, match="56 bytes of arrays, more than 55"):
        read_npz(path, SPEC, max_bytes=55)
    with NpzReader(path) as reader:
        with pytest.raises(ArtifactError, match="max 23"):
            reader.read("a", max_bytes=23)
        with pytest.raises(ArtifactError, match="no array 'z'"):
            reader.read("z")


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (ArrayStream("f4", (2, 2), [np.zeros((1, 2), "f4")]), "add up"),
        (ArrayStream("f4", (1, 2), [np.zeros((2, 2), "f4")]), "add up"),
        (ArrayStream("f4", (2, 2), [np.zeros((2, 3), "f4")]), "the whole is"),
        (ArrayStream("u1", (2,), [np.array([1, 256])]), "beyond uint8"),
        (ArrayStream("u1", (2,), [np.zeros(2)]), "expected uint8"),
        (np.array([{}, None]), "cannot be stored"),
        (np.zeros(2, "M8[s]"), "cannot be stored"),
        (np.zeros(2, "f4,i4"), "cannot be stored"),
    ],
)
def test_what_cannot_be_written(stream: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        write_npz(tmp_path / "a.npz", {"x": stream})
    assert not list(tmp_path.iterdir())


def hostile_members() -> dict[str, list[tuple[str, bytes]]]:
    a, b = npy(good()["a"]), npy(good()["b"])
    rest = [("b.npy", b)]
    header = b"\x93NUMPY\x01\x00"

    def with_header(text: str, data: bytes = b"") -> bytes:
        return header + struct.pack("<H", len(text)) + text.encode() + data

    plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
    objects = np.empty(1, object)
    objects[0] = [1]
    return {
        "objects": [("a.npy", npy(objects)), *rest],
        "bare pickle": [("a.npy", pickle.dumps([1])), *rest],
        "duplicate": [("a.npy", a), ("a.npy", a), *rest],
        "climbing name": [("../a.npy", a), *rest],
        "absolute name": [("/a.npy", a), *rest],
        "no npy": [("a.txt", a), *rest],
        "folder": [("a/", b""), *rest],
        "negative shape": [("a.npy", with_header(plain % "-3, 2", bytes(24))), *rest],
        "huge shape": [("a.npy", with_header(plain % "4611686018427387904, 2")), *rest],
        "huge empty shape": [("a.npy", with_header(plain % "9223372036854775807, 0")), *rest],
        "many dimensions": [("a.npy", with_header(plain % ", ".join(["1"] * 99), bytes(4))), *rest],
        "float shape": [("a.npy", with_header(plain % "3.0, 2", bytes(24))), *rest],
        "too little data": [("a.npy", a[:-1]), *rest],
        "too much data": [("a.npy", a + b"\0"), *rest],
        "fortran order": [("a.npy", npy(np.asfortranarray(good()["a"]))), *rest],
        "big endian": [("a.npy", npy(good()["a"].astype(">f4"))), *rest],
        "structured": [("a.npy", npy(np.zeros(3, "f4,f4"))), *rest],
        "unknown dtype": [
            ("a.npy", with_header(plain.replace("f4", "f3") % "1,", bytes(3))),
            *rest,
        ],
        "code": [("a.npy", with_header("{'descr': __import__('os').abort()}\n")), *rest],
        "deep": [("a.npy", with_header("(" * 3000 + "\n")), *rest],
        "header cut off": [("a.npy", with_header(plain % "3, 2")[:20]), *rest],
        "version 3": [("a.npy", a.replace(b"NUMPY\x01", b"NUMPY\x03", 1)), *rest],
        "empty member": [("a.npy", b""), *rest],
        "many members": [(f"m{i}.npy", a) for i in range(100)],
    }


@pytest.mark.parametrize("kind", sorted(hostile_members()))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_members(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_zip(path, [("a.npy", npy(good()["a"])), ("b.npy", npy(good()["b"]))])
    read_npz(path, SPEC)
    write_zip(path, hostile_members()[kind])
    with pytest.raises(ArtifactError) as caught:
        read_npz(path, SPEC)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.reason is Reason.INVALID_ARTIFACT


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    pickled = b"\x80\x04cbuiltins\neval\n(S'1/0'\ntR."
    write_zip(path, [("a.npy", npy(np.empty(0, object)) + pickled)])
    with pytest.raises(ArtifactError, match="not a plain array"):
        NpzReader(path)


def test_zip_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    size = 1 << 27
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(size)
    write_zip(path, [("a.npy", data)])
    spec = {"a": ArraySpec("u1", ("N",))}
    with pytest.raises(ArtifactError, match="more than"):
        read_npz(path, spec, max_bytes=1 << 20)
    # a member that declares more than its compressed bytes can hold
    small = npy(np.zeros(10, np.uint8))
    write_zip(path, [("a.npy", small)])
    raw = path.read_bytes()
    field = struct.pack("<I", len(small))
    path.write_bytes(raw.replace(field, struct.pack("<I", 1 << 31)))
    with pytest.raises(ArtifactError, match="cannot expand"):
        NpzReader(path)


def test_directories_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, good())
    raw = path.read_bytes()
    end = raw.rindex(b"PK\5\6")
    for position, value in [(10, b"\xff\xff"), (12, b"\xff\xff\xff\x7f"), (16, b"\0\0\0\x40")]:
        changed = bytearray(raw)
        changed[end + position : end + position + len(value)] = value
        path.write_bytes(changed)
        with pytest.raises(ArtifactError):
            NpzReader(path)
    path.write_bytes(raw + b"trailing")
    with pytest.raises(ArtifactError, match="directory"):
        NpzReader(path)
    locator = b"PK\6\7" + bytes(16)
    path.write_bytes(raw[:end] + b"PK\6\6" + b"\xff" * 52 + locator + raw[end:])
    with pytest.raises(ArtifactError, match="members in a directory"):
        NpzReader(path)


def test_damaged_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.npy", npy(np.zeros(1000, "f4")))
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw)
    with NpzReader(path) as reader, pytest.raises(ArtifactError, match="CRC"):
        reader.read("a")
    with NpzReader(path) as reader, pytest.raises(ArtifactError, match="CRC"):
        list(reader.blocks("a", 10))


def test_bit_patterns_that_are_no_values(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    two = npy(np.zeros(3, np.uint8)).replace(b"|u1", b"|b1")[:-1] + b"\2"
    write_zip(path, [("a.npy", two)])
    with NpzReader(path) as reader, pytest.raises(ArtifactError, match="no booleans"):
        reader.read("a")
    text = npy(np.full(2, 0x110000, np.uint32)).replace(b"<u4", b"<U1")
    write_zip(path, [("a.npy", text)])
    with NpzReader(path) as reader, pytest.raises(ArtifactError, match="no characters"):
        reader.read("a")


def test_local_headers_are_plain(tmp_path: Path) -> None:
    """Zip64 headers are written differently by Python 3.11.2 and 3.11.7: other digests."""
    write_npz(tmp_path / "a.npz", {"a": np.arange(5)})
    signature, version, _flags = struct.unpack("<4sHH", (tmp_path / "a.npz").read_bytes()[:8])
    assert (signature, version) == (b"PK\x03\x04", 20)


def test_archives_of_more_than_4_gigabytes_are_found_by_their_zip64_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(npz, "ZIP64_FROM", 0)
    write_npz(path, good())
    assert b"PK\6\6" in path.read_bytes()
    assert read_npz(path, SPEC)["b"].tolist() == [0, 1, 2, 3]


# tracks, poses, fused


def test_tracks_round_trip(tmp_path: Path) -> None:
    path, value = tmp_path / "tracks.npz", tracks_value()
    tracks.write(path, value)
    back = tracks.read(path)
    for name in ("tracks_FN2", "visibility_FN", "confidence_FN", "query_frame_N", "instance_id_N"):
        np.testing.assert_array_equal(getattr(back, name), getattr(value, name), strict=True)
    assert back.size == value.size
    tracks.validate(path, FRAMES, WIDTH, HEIGHT, thorough=True)
    with pytest.raises(ArtifactError, match="the scene has 5"):
        tracks.validate(path, 5, WIDTH, HEIGHT)
    with pytest.raises(ArtifactError, match="the frames are"):
        tracks.validate(path, FRAMES, HEIGHT, WIDTH)


def test_no_tracks_at_all(tmp_path: Path) -> None:
    tracks.write(tmp_path / "tracks.npz", tracks_value(frames=1, count=0))
    assert tracks.read(tmp_path / "tracks.npz").tracks_FN2.shape == (1, 0, 2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"confidence_FN": np.full((FRAMES, 5), 1.5)}, "confidence"),
        ({"confidence_FN": np.full((FRAMES, 5), np.nan)}, "confidence"),
        ({"visibility_FN": np.ones((FRAMES, 5), bool)}, "not finite"),
        ({"visibility_FN": np.ones((FRAMES, 5), np.uint8)}, "expected bool"),
        ({"visibility_FN": np.zeros((FRAMES, 4), bool)}, "expected N"),
        ({"query_frame_N": np.full(5, FRAMES)}, "query_frame"),
        ({"query_frame_N": np.full(5, -1)}, "query_frame"),
        ({"query_frame_N": np.full(5, 2**40)}, "beyond int32"),
        ({"query_frame_N": np.zeros(5)}, "expected int32"),
        ({"instance_id_N": np.full(5, 256)}, "instance_id"),
        ({"instance_id_N": np.full(5, -2)}, "instance_id"),
        ({"size": (0, 5)}, "size"),
        ({"size": (5,)}, "expected 2"),
    ],
)
def test_wrong_tracks(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        tracks.write(tmp_path / "t.npz", replace(tracks_value(), **change))
    assert not list(tmp_path.iterdir())


def test_poses_round_trip(tmp_path: Path) -> None:
    path, value = tmp_path / "poses.npz", poses_value()
    poses.write(path, value)
    back = poses.read(path)
    arrays = ("c2w_F44", "K_F33", "timestamps_F", "registered_F", "pose_sigma_F6", "focal_sigma_F")
    for name in arrays:
        np.testing.assert_array_equal(getattr(back, name), getattr(value, name), strict=True)
    assert back.scale == "relative"
    assert back.distortion == 0.01
    other = np.load(path, allow_pickle=False)
    assert set(other.files) == set(poses.SPEC)
    poses.validate(path, FRAMES)
    with pytest.raises(ArtifactError, match="the scene has 9"):
        poses.validate(path, 9)


def two_segments(**change: Any) -> poses.Poses:
    """What is not registered is a segment of its own."""
    value = poses_value()
    left_out = ~value.registered_F
    segment_F = np.where(left_out, 1, 0).astype(np.int32)
    c2w_F44 = np.where(left_out[:, None, None], np.eye(4), np.nan)
    return replace(value, **{"segment_F": segment_F, "segment_c2w_F44": c2w_F44, **change})


def test_segments_round_trip_and_files_without_them_stay_as_they_were(tmp_path: Path) -> None:
    path, value = tmp_path / "poses.npz", two_segments()
    poses.write(path, value)
    back = poses.read(path)
    for name in ("segment_F", "segment_c2w_F44", "c2w_F44"):
        np.testing.assert_array_equal(getattr(back, name), getattr(value, name), strict=True)
    poses.write(path, poses_value())
    assert poses.read(path).segment_F is None
    assert set(np.load(path, allow_pickle=False).files) == set(poses.SPEC)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"segment_F": np.zeros(FRAMES, np.int32)}, "segment 0 must be"),
        ({"segment_F": np.where(poses_value().registered_F, 0, 2).astype(np.int32)}, "gaps"),
        ({"segment_F": np.where(poses_value().registered_F, 0, -2).astype(np.int32)}, "gaps"),
        ({"segment_c2w_F44": np.full((FRAMES, 4, 4), np.nan)}, "not a finite"),
        ({"segment_c2w_F44": np.tile(np.eye(4), (FRAMES, 1, 1))}, "outside segments"),
    ],
)
def test_wrong_segments(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        poses.write(tmp_path / "p.npz", two_segments(**change))


def changed(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("name", "index", "value", "problem"),
    [
        ("c2w_F44", (0, 0, 0), np.nan, "not a finite"),
        ("c2w_F44", (0, 0, 0), 1e200, "not a rotation"),
        ("c2w_F44", (0, 0, 0), -1, "not a rotation"),
        ("c2w_F44", (0, 0, 0), 1.01, "not a rotation"),
        ("c2w_F44", (0, 3, 0), 1, "not a finite"),
        ("c2w_F44", (0, 0, 3), np.inf, "not a finite"),
        ("c2w_F44", (FRAMES - 1, 0, 0), 1, "must be NaN"),
        ("K_F33", (1, 0, 0), 0, "positive focal"),
        ("K_F33", (1, 1, 1), np.nan, "not finite"),
        ("K_F33", (1, 2, 2), 2, "K is not"),
        ("timestamps_F", 0, 5, "decrease"),
        ("timestamps_F", 0, np.nan, "not finite"),
    ],
)
def test_wrong_poses(name: str, index: Any, value: float, problem: str, tmp_path: Path) -> None:
    good_value = poses_value()
    wrong = replace(good_value, **{name: changed(getattr(good_value, name), index, value)})
    with pytest.raises(ArtifactError, match=problem):
        poses.write(tmp_path / "p.npz", wrong)


def test_wrong_scale(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="scale 'miles'"):
        poses.write(tmp_path / "p.npz", replace(poses_value(), scale="miles"))


def object_poses(*unknown: tuple[int, int]) -> np.ndarray:
    """Poses of one object, some elements of every matrix unknown."""
    poses_MF44 = np.tile(np.eye(4), (1, FRAMES, 1, 1))
    for row, column in unknown:
        poses_MF44[..., row, column] = np.nan
    return poses_MF44


def test_an_object_of_unknown_scale_has_a_rotation_and_no_place(tmp_path: Path) -> None:
    some = object_poses((0, 3), (1, 3), (2, 3))
    some[:, 0] = np.nan
    fused.write(tmp_path / "f.npz", replace(fused_value(), object_poses=some))
    np.testing.assert_array_equal(fused.read(tmp_path / "f.npz").object_poses, some)


def test_fused_round_trip(tmp_path: Path) -> None:
    path, value = tmp_path / "fused.npz", fused_value()
    fused.write(path, value)
    back = fused.read(path)
    for name in fused.SPEC:
        np.testing.assert_array_equal(getattr(back, name), getattr(value, name))
    assert fused.read(path, with_rgbs=False).rgbs is None
    with fused.open_rgbs(path, 3) as blocks:
        np.testing.assert_array_equal(np.concatenate(list(blocks)), value.rgbs)
    fused.validate(path, FRAMES, thorough=True)
    streamed = replace(value, rgbs=ArrayStream("u1", value.rgbs.shape, iter(value.rgbs[:, None])))
    fused.write(tmp_path / "streamed.npz", streamed)
    assert path.read_bytes() == (tmp_path / "streamed.npz").read_bytes()
    assert list(np.load(path, allow_pickle=False).files) == list(fused.SPEC)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dyn_offsets": np.array([0, 2, 1, 6, 8])}, "dyn_offsets"),
        ({"dyn_offsets": np.array([1, 2, 4, 6, 8])}, "dyn_offsets"),
        ({"dyn_offsets": np.array([0, 2, 4, 6, 9])}, "dyn_offsets"),
        ({"dyn_offsets": np.array([0, 2, 4, 8])}, "expected F"),
        ({"static_points": np.full((7, 3), np.nan)}, "not finite"),
        ({"static_rgbs": np.zeros((6, 3), np.uint8)}, "expected P"),
        ({"static_rgbs": np.full((7, 3), 300)}, "beyond uint8"),
        ({"static_confidence": np.full(7, 2.0)}, "outside 0..1"),
        (
            {
                "object_ids": np.array([1, 1]),
                "object_centres": np.zeros((2, FRAMES, 3)),
                "object_model": np.array(["contact", "contact"]),
                "object_poses": np.full((2, FRAMES, 4, 4), np.nan),
            },
            "unique",
        ),
        ({"object_model": np.array(["cloth"])}, "'cloth' is none of"),
        ({"object_model": np.array(["contact"])}, "not rigid must be NaN"),
        ({"object_poses": np.full((1, FRAMES, 4, 4), np.inf)}, "object_poses holds"),
        ({"object_poses": np.tile(2 * np.eye(4), (1, FRAMES, 1, 1))}, "object_poses holds"),
        ({"object_poses": object_poses((0, 3))}, "object_poses holds"),
        ({"object_centres": np.full((1, FRAMES, 3), np.inf)}, "infinities"),
        ({"rgbs": np.zeros((FRAMES, 300, 8, 3), np.uint8)}, "pictures"),
        ({"rgbs": np.zeros((FRAMES + 1, 6, 8, 3), np.uint8)}, "expected F"),
        ({"rgbs": np.zeros((FRAMES, 6, 8, 3))}, "expected u1"),
        ({"rgbs": None}, "missing"),
    ],
)
def test_wrong_fused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        fused.write(tmp_path / "f.npz", replace(fused_value(), **change))
    assert not list(tmp_path.iterdir())


def test_written_by_another_program(tmp_path: Path) -> None:
    """`np.savez` stores without compression; such files are read as well."""
    path = tmp_path / "a.npz"
    np.savez(path, **good())
    assert read_npz(path, SPEC)["a"].shape == (3, 2)
    assert npz.MAX_RATIO == 1032
