"""Frame folders: order, pixel types, orientation, damage, and copied JPEG bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from media_files import corners, exif_jpeg, quarters, shot, texture, write_frames

from dynamicverse.errors import InputError, Reason
from dynamicverse.formats import images
from dynamicverse.media import Frame, FrameFolder, Limits
from dynamicverse.media.files import natural
from dynamicverse.media.picture import read_header


def read(folder: Path, **options: Any) -> tuple[list[Frame], FrameFolder]:
    with FrameFolder(folder, **options) as reader:
        return list(reader), reader


def reason(folder: Path, **options: Any) -> Reason:
    with pytest.raises(InputError) as caught:
        read(folder, **options)
    assert str(folder) in str(caught.value)
    return caught.value.reason


def test_natural_order() -> None:
    names = ["10.png", "9.png", "a2b.png", "a10b.png", "a2a.png", "010.png", "é1.png"]
    expected = ["9.png", "010.png", "10.png", "a2a.png", "a2b.png", "a10b.png", "é1.png"]
    assert sorted(names, key=natural) == expected


def test_frames_in_order_with_times(tmp_path: Path) -> None:
    images_ = shot(1, 11, 96, 64)
    write_frames(tmp_path / "f", images_)
    (tmp_path / "f" / "notes.txt").write_text("no picture")
    (tmp_path / "f" / ".hidden.png").write_text("no picture")
    frames, reader = read(tmp_path / "f", rate=10.0)
    for frame, original in zip(frames, images_, strict=True):
        np.testing.assert_array_equal(frame.rgb_HW3, original)
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(11) / 10)
    assert reader.info.frames == 11
    assert reader.info.rate == 10.0
    assert read(tmp_path / "f")[1].info.rate is None


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path / "f", [corners(128, 96)] * 2, suffix)
    frames, reader = read(tmp_path / "f")
    assert quarters(frames[0].rgb_HW3) == ["red", "green", "blue", "white"]
    assert (reader.info.width, reader.info.height) == (128, 96)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_and_16_bits(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 128).round().astype(np.uint16)[None].repeat(96, 0)
    write_frames(tmp_path / "deep", [ramp], suffix)
    deep = read(tmp_path / "deep")[0][0].rgb_HW3
    assert deep.shape == (96, 128, 3)
    assert np.abs(deep - (ramp / 257)[..., None]).max() <= 0.51
    grey = (ramp // 257).astype(np.uint8)
    write_frames(tmp_path / "grey", [grey], suffix)
    np.testing.assert_array_equal(read(tmp_path / "grey")[0][0].rgb_HW3, np.dstack([grey] * 3))


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", [np.ones((96, 96), np.float32)], ".tif")
    assert reason(tmp_path / "f") is Reason.UNSUPPORTED


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_lies_over_black(tmp_path: Path, suffix: str) -> None:
    image = np.dstack([corners(128, 96), np.full((96, 128), 255, np.uint8)])
    image[:, 64:, 3] = 0
    write_frames(tmp_path / "f", [image], suffix)
    found = read(tmp_path / "f")[0][0].rgb_HW3
    assert quarters(np.ascontiguousarray(found[:, :64]).repeat(2, 1))[::2] == ["red", "blue"]
    assert found[:, 66:].max() == 0


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, ["red", "green", "blue", "white"]),
        (2, ["green", "red", "white", "blue"]),
        (3, ["white", "blue", "green", "red"]),
        (4, ["blue", "white", "red", "green"]),
        (5, ["red", "blue", "green", "white"]),
        (6, ["blue", "red", "white", "green"]),
        (7, ["white", "green", "blue", "red"]),
        (8, ["green", "white", "red", "blue"]),
    ],
)
def test_exif_orientation(tmp_path: Path, orientation: int, expected: list[str]) -> None:
    data = exif_jpeg(corners(128, 96), orientation)
    (tmp_path / "1.jpg").write_bytes(data)
    frames, reader = read(tmp_path)
    assert quarters(frames[0].rgb_HW3) == expected
    assert (reader.info.width, reader.info.height) == ((128, 96) if orientation < 5 else (96, 128))
    oracle = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(frames[0].rgb_HW3, oracle)
    assert (frames[0].jpeg == data) == (orientation == 1)


def test_jpeg_bytes_are_handed_on_only_where_every_reader_takes_them(tmp_path: Path) -> None:
    bgr = cv2.cvtColor(texture(1, 128, 96), cv2.COLOR_RGB2BGR)

    def jpeg(*options: int) -> bytes:
        return cv2.imencode(".jpg", bgr, list(options))[1].tobytes()

    cases = {
        "plain": (jpeg(), True),
        "progressive": (jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), False),
        "grey": (cv2.imencode(".jpg", bgr[..., 0])[1].tobytes(), True),
        "padded": (jpeg() + b"preview of the camera", False),
    }
    for name, (data, handed_on) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "1.jpg").write_bytes(data)
        frame = read(folder)[0][0]
        assert (frame.jpeg == data) == handed_on, name
        if handed_on:
            np.testing.assert_array_equal(images.read_rgb(folder / "1.jpg"), frame.rgb_HW3)
    assert read(tmp_path / "plain", max_side=100)[0][0].jpeg is None


def test_scaling(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", [corners(256, 128)])
    frames, reader = read(tmp_path / "f", max_side=100)
    assert frames[0].rgb_HW3.shape == (50, 100, 3)
    assert (reader.info.width, reader.info.stored_width) == (100, 256)


def test_damaged_pictures_are_left_out_and_their_time_stays(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", shot(1, 5, 96, 64))
    data = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(data[: len(data) // 2])
    (folder / "4.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read(folder)
    assert caught.value.reason is Reason.EMPTY
    (folder / "4.png").write_text("no picture at all")
    frames, reader = read(folder, rate=1.0)
    assert [f.index for f in frames] == [0, 1, 4]
    assert [f.time_s for f in frames] == [0.0, 1.0, 4.0]
    assert reader.warnings == ["2 damaged pictures were left out, 3.png first"]
    assert reason(folder, limits=Limits(truncated="reject")) is Reason.TRUNCATED


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_truncated_pictures_of_every_format(tmp_path: Path, suffix: str) -> None:
    folder = write_frames(tmp_path / "f", [texture(1, 128, 96)] * 2, suffix)
    path = folder / f"2{suffix}"
    path.write_bytes(path.read_bytes()[:-500])
    assert len(read(folder)[0]) == 1


def test_bad_folders(tmp_path: Path) -> None:
    empty, mixed, huge, dot = (tmp_path / n for n in ("empty", "mixed", "huge", "dot"))
    empty.mkdir()
    assert reason(empty) is Reason.EMPTY
    assert reason(tmp_path / "gone") is Reason.UNREADABLE
    write_frames(mixed, [texture(1, 128, 96), texture(1, 96, 128)])
    assert reason(mixed) is Reason.UNSUPPORTED
    write_frames(dot, [np.zeros((1, 1, 3), np.uint8)])
    assert reason(dot) is Reason.UNSUPPORTED
    write_frames(huge, [texture(1, 128, 96)])
    data = bytearray((huge / "1.png").read_bytes())
    struct.pack_into(">II", data, 16, 20_000, 20_000)
    (huge / "1.png").write_bytes(data)
    assert reason(huge) is Reason.TOO_LARGE
    loop = mixed / "3.png"
    (mixed / "2.png").unlink()
    loop.symlink_to(loop)
    assert reason(mixed) is Reason.UNREADABLE


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_headers_of_any_bytes_raise_only_value_errors(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path, [texture(1, 96, 64)], suffix)
    data = bytearray((tmp_path / f"1{suffix}").read_bytes())
    header = read_header(bytes(data))
    assert (header.width, header.height) == (96, 64)
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data[: int(rng.integers(0, len(data)))])
        for position in rng.integers(0, max(1, len(broken)), 4):
            if position < len(broken):
                broken[position] = int(rng.integers(256))
        try:
            read_header(bytes(broken))
        except ValueError:
            continue
