"""Flow, masks, depth and pictures: round trips, other readers, and files to refuse."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from formats_values import (
    HEIGHT,
    WIDTH,
    depth_value,
    flow_value,
    mask_value,
    mp4_bytes,
    property_test,
    rgb_value,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynamicverse.errors import ArtifactError, Reason, StorageError, reason_of
from dynamicverse.formats import depth_exr, flow_png, html, images, masks, mp4, png
from dynamicverse.formats.npz import write_npz

sides = st.tuples(st.integers(1, 40), st.integers(1, 40))


def in_temp(factory: pytest.TempPathFactory, name: str) -> Path:
    return factory.getbasetemp() / name


# flow


@property_test
@given(size=sides, data=st.data())
def test_flow_is_kept_within_half_a_step(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], data: st.DataObject
) -> None:
    path = in_temp(tmp_path_factory, "flow.png")
    values = st.floats(-512, 511.984375, width=32) | st.sampled_from([-512.0, 511.984375, 0.0])
    flow_HW2 = data.draw(hnp.arrays("f4", (*size, 2), elements=values))
    valid_HW = data.draw(hnp.arrays("b1", size))
    flow_png.write(path, flow_HW2, valid_HW)
    back_HW2, back_HW = flow_png.read(path)
    assert back_HW2.dtype == np.float32
    assert back_HW.dtype == np.bool_
    np.testing.assert_array_equal(back_HW, valid_HW)
    assert np.abs(back_HW2.astype("f8") - flow_HW2).max() <= 1 / 128
    flow_png.write(path, back_HW2, back_HW)  # what was read is on the grid and stays
    np.testing.assert_array_equal(flow_png.read(path)[0], back_HW2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 512.0, -512.1, 1e30])
def test_flow_out_of_range_is_not_valid(bad: float, tmp_path: Path) -> None:
    flow_HW2 = np.full((3, 4, 2), 7.5, np.float32)
    flow_HW2[1, 2, 1] = bad
    flow_png.write(tmp_path / "f.png", flow_HW2, np.ones((3, 4), bool))
    back_HW2, valid_HW = flow_png.read(tmp_path / "f.png")
    assert not valid_HW[1, 2]
    assert valid_HW.sum() == 11
    assert back_HW2[1, 2].tolist() == [0, 0]
    assert (back_HW2[valid_HW] == 7.5).all()


def test_flow_is_what_kitti_defines(tmp_path: Path) -> None:
    """Red is u, green is v, blue is validity, as the benchmark's development kit has it."""
    path = tmp_path / "f.png"
    flow_HW2 = np.array([[[1.5, -2.25], [-512, 511.984375]]], np.float32)
    flow_png.write(path, flow_HW2, np.array([[True, False]]))
    blue, green, red = cv2.split(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    assert red.tolist() == [[32768 + 96, 0]]
    assert green.tolist() == [[32768 - 144, 65535]]
    assert blue.tolist() == [[1, 0]]


def test_flow_of_another_writer(tmp_path: Path) -> None:
    path = tmp_path / "f.png"
    cv2.imwrite(str(path), np.array([[[1, 32768, 32832]]], np.uint16))
    flow_HW2, valid_HW = flow_png.read(path)
    assert flow_HW2.tolist() == [[[1.0, 0.0]]]
    assert valid_HW.all()


def test_flow_needs_matching_shapes(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="with valid"):
        flow_png.write(tmp_path / "f.png", np.zeros((3, 4, 2), "f4"), np.ones((4, 3), bool))
    with pytest.raises(ArtifactError, match="with valid"):
        flow_png.write(tmp_path / "f.png", np.zeros((0, 4, 2), "f4"), np.ones((0, 4), bool))


# masks


@property_test
@given(ids_HW=hnp.arrays("u1", sides))
def test_masks_round_trip(tmp_path_factory: pytest.TempPathFactory, ids_HW: np.ndarray) -> None:
    path = in_temp(tmp_path_factory, "mask.png")
    masks.write(path, ids_HW)
    back_HW = masks.read(path)
    np.testing.assert_array_equal(back_HW, ids_HW, strict=True)
    assert masks.present(back_HW) == set(np.unique(ids_HW).tolist()) - {0}


def test_masks_are_palette_pictures(tmp_path: Path) -> None:
    """OpenCV applies palettes, so it shows the colours of the ids."""
    path = tmp_path / "m.png"
    masks.write(path, mask_value())
    header = png.read_header(path)
    assert (header.colour, header.depth) == (png.PALETTE, 8)
    shown = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert tuple(shown[5, 5]) == masks.colour(1)
    assert tuple(shown[0, 0]) == (0, 0, 0)


def test_colours_are_distinct() -> None:
    assert len({masks.colour(i) for i in range(256)}) == 256
    assert [masks.colour(i) for i in range(4)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
    ]
    with pytest.raises(ValueError, match="256"):
        masks.colour(256)


@pytest.mark.parametrize(
    "ids_HW",
    [
        np.array([[256]]),
        np.array([[-1]]),
        np.array([[1.0]]),
        np.zeros((0, 3), np.uint8),
        np.zeros((2, 2, 3), np.uint8),
    ],
)
def test_what_is_no_mask(ids_HW: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        masks.write(tmp_path / "m.png", ids_HW)
    assert not list(tmp_path.iterdir())


def test_masks_of_wider_integers(tmp_path: Path) -> None:
    masks.write(tmp_path / "m.png", np.array([[255, 0]], np.int64))
    assert masks.read(tmp_path / "m.png").tolist() == [[255, 0]]


# depth

halves = st.floats(0, 65504, width=16)


@property_test
@given(size=sides, data=st.data())
def test_depth_is_exact_for_halves(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], data: st.DataObject
) -> None:
    path = in_temp(tmp_path_factory, "depth.exr")
    depth_HW = data.draw(hnp.arrays("f2", size, elements=halves))
    confidence_HW = data.draw(hnp.arrays("f2", size, elements=st.floats(0, 1, width=16)))
    depth_exr.write(path, depth_HW, confidence_HW)
    back_depth_HW, back_confidence_HW = depth_exr.read(path)
    assert back_depth_HW.dtype == back_confidence_HW.dtype == np.float32
    np.testing.assert_array_equal(back_depth_HW, depth_HW)
    np.testing.assert_array_equal(back_confidence_HW, confidence_HW)


def test_depth_opens_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "z.exr"
    depth_HW, confidence_HW = depth_value()
    depth_exr.write(path, depth_HW, confidence_HW)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        assert set(channels) == {"Z", "confidence"}
        np.testing.assert_array_equal(channels["Z"].pixels, depth_HW.astype(np.float16))
        assert not {"capDate", "owner", "comments"} & set(file.header())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 65530.0])
def test_depth_out_of_range(bad: float, tmp_path: Path) -> None:
    depth_HW, confidence_HW = depth_value()
    depth_HW[3, 4] = bad
    with pytest.raises(ArtifactError, match="depth outside"):
        depth_exr.write(tmp_path / "z.exr", depth_HW, confidence_HW)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_confidence_out_of_range(bad: float, tmp_path: Path) -> None:
    depth_HW, confidence_HW = depth_value()
    confidence_HW[3, 4] = bad
    with pytest.raises(ArtifactError, match="confidence outside"):
        depth_exr.write(tmp_path / "z.exr", depth_HW, confidence_HW)


def test_values_in_a_file_are_checked_as_well(tmp_path: Path) -> None:
    depth_HW, confidence_HW = (plane.astype(np.float16) for plane in depth_value())
    depth_HW[0, 0] = np.nan
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Z": depth_HW, "confidence": confidence_HW}).write(
        str(tmp_path / "z.exr")
    )
    depth_exr.validate(tmp_path / "z.exr", WIDTH, HEIGHT)
    with pytest.raises(ArtifactError, match="NaN"):
        depth_exr.validate(tmp_path / "z.exr", WIDTH, HEIGHT, thorough=True)


@pytest.mark.parametrize("kind", ["float", "extra", "missing", "uncompressed", "piz"])
def test_other_exr_files(kind: str, tmp_path: Path) -> None:
    depth_HW, confidence_HW = (plane.astype(np.float16) for plane in depth_value())
    planes = {"Z": depth_HW, "confidence": confidence_HW}
    compression = OpenEXR.ZIP_COMPRESSION
    if kind == "float":
        planes = {"Z": depth_HW.astype(np.float32), "confidence": confidence_HW}
    if kind == "extra":
        planes["A"] = depth_HW
    if kind == "missing":
        del planes["confidence"]
    if kind == "uncompressed":
        compression = OpenEXR.NO_COMPRESSION
    if kind == "piz":
        compression = OpenEXR.PIZ_COMPRESSION
    header = {"compression": compression, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, planes).write(str(tmp_path / "z.exr"))
    with pytest.raises(ArtifactError, match="not a depth map"):
        depth_exr.read(tmp_path / "z.exr")


def test_a_damaged_exr_says_nothing_on_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "z.exr"
    depth_exr.write(path, *depth_value())
    data = bytearray(path.read_bytes())
    data[-40:-20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(ArtifactError):
        depth_exr.read(path)
    assert capfd.readouterr().out == ""


# pictures


@property_test
@given(rgb_HW3=sides.flatmap(lambda size: hnp.arrays("u1", (*size, 3))))
def test_png_is_exact(tmp_path_factory: pytest.TempPathFactory, rgb_HW3: np.ndarray) -> None:
    path = in_temp(tmp_path_factory, "a.png")
    images.write_png(path, rgb_HW3)
    np.testing.assert_array_equal(images.read_rgb(path), rgb_HW3, strict=True)


def test_jpeg_is_close_and_in_rgb_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    images.write_jpeg(path, rgb_value())
    assert images.read_header(path) == images.ImageHeader("jpeg", WIDTH, HEIGHT)
    assert np.abs(images.read_rgb(path).astype(int) - rgb_value()).mean() < 4
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    images.write_jpeg(path, red)
    assert images.read_rgb(path)[8, 8, 0] > 150


def test_quality_decides_the_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    images.write_jpeg(tmp_path / "a.jpg", noise, quality=95)
    images.write_jpeg(tmp_path / "b.jpg", noise, quality=50)
    assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size / 2


def test_noted_orientation_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    images.write_jpeg(path, rgb_value())
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert images.read_rgb(path).shape == (HEIGHT, WIDTH, 3)


def test_grey_16_bit_and_alpha_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for array in (
        np.full((4, 5), 7, np.uint8),
        np.full((4, 5, 3), 7 * 256, np.uint16),
        np.full((4, 5, 4), 7, np.uint8),
    ):
        cv2.imwrite(str(path), array)
        rgb_HW3 = images.read_rgb(path)
        assert rgb_HW3.shape == (4, 5, 3)
        assert rgb_HW3.dtype == np.uint8
        assert (rgb_HW3 == 7).all()


def test_same_values_same_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        flow_png.write(folder / "f.png", *flow_value())
        masks.write(folder / "m.png", mask_value())
        depth_exr.write(folder / "z.exr", *depth_value())
        images.write_jpeg(folder / "a.jpg", rgb_value())
        images.write_png(folder / "a.png", rgb_value())
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# hostile files


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    width: int = 4,
    height: int = 3,
    depth: int = 8,
    colour: int = png.PALETTE,
    interlace: int = 0,
    palette: bytes = b"\0" * 768,
    raw: bytes | None = None,
    extra: bytes = b"",
) -> bytes:
    raw = bytes(height * (width + 1)) if raw is None else raw
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = [chunk(b"IHDR", header), extra]
    if palette:
        parts.append(chunk(b"PLTE", palette))
    parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return png.SIGNATURE + b"".join(parts)


def test_the_plain_file_of_these_tests_is_fine(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(png_file())
    assert masks.read(tmp_path / "m.png").shape == (3, 4)
    (tmp_path / "m.png").write_bytes(png_file(extra=chunk(b"tEXt", b"a\0b")))
    assert masks.read(tmp_path / "m.png").shape == (3, 4)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (png_file(width=65535, height=65535, raw=b"\0"), "pixels, more than|can hold"),
        (png_file(width=20000, height=10000, raw=b"\0"), "can hold"),
        (png_file(width=70000, raw=b"\0"), "of 70000x3"),
        (png_file(width=0), "of 0x3"),
        (png_file(colour=png.GREY, palette=b""), "colour type 0"),
        (png_file(colour=png.RGB, palette=b"", raw=bytes(39)), "colour type 2"),
        (png_file(depth=4), "with 4 bits"),
        (png_file(depth=16), "with 16 bits"),
        (png_file(colour=5), "unknown kind"),
        (png_file(interlace=1), "interlaced"),
        (png_file(palette=b""), "without a palette"),
        (png_file(palette=b"\0" * 769), "malformed palette"),
        (png_file(palette=b"\0" * 771), "malformed palette"),
        (png_file(raw=bytes(8 << 20)), "more data than its pixels need"),
        (png_file(raw=bytes(14)), "cannot be decoded"),
        (png_file(raw=b"\x09" * 15), "cannot be decoded"),
        (png_file(extra=chunk(b"ABCD", b"")), "unexpected chunk"),
        (png_file()[:-1], "cut off"),
        (png_file() + b"\0", "after its end"),
        (png_file(extra=b"\xff\xff\xff\xffIDAT"), "cut off"),
        (b"GIF89a" + bytes(60), "not a PNG"),
        (b"\0", "not a PNG"),
    ],
)
def test_hostile_png(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=problem) as caught:
        masks.read(path)
    assert str(path) in str(caught.value)


def test_hostile_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    images.write_jpeg(path, rgb_value())
    good = path.read_bytes()
    frame = good.index(b"\xff\xc0")
    for data, problem in [
        (good[:-1], "cut off"),
        (good[: len(good) // 2], "cut off"),
        (good[: frame + 5] + b"\xff\xff\xff\xff" + good[frame + 9 :], "can hold"),
        (good[: frame + 5] + b"\0\0\0\0" + good[frame + 9 :], "readable header"),
        (good[: frame + 4] + b"\x0c" + good[frame + 5 :], "readable header"),
        (good[:2] + b"\xff\xe0\0\0" + good[2:], "readable header"),
        (b"\xff\xd8\xff\xe0" + b"\xff\xd9", "readable header"),
        (b"BM" + bytes(60), "neither JPEG nor PNG"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=problem):
            images.read_rgb(path)
    path.write_bytes(good + b"\0" * 10)
    assert images.read_rgb(path).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ArtifactError, match="more than 100"):
        images.read_rgb(path, max_pixels=100)


def test_hostile_exr(tmp_path: Path) -> None:
    path = tmp_path / "z.exr"
    depth_exr.write(path, *depth_value())
    good = path.read_bytes()
    window = struct.pack("<iiii", 0, 0, WIDTH - 1, HEIGHT - 1)
    assert good.count(window) == 2
    for data in [
        good.replace(window, struct.pack("<iiii", 0, 0, 2**31 - 1, 2**31 - 1)),
        good.replace(window, struct.pack("<iiii", 0, 0, 30000, 30000)),
        good.replace(window, struct.pack("<iiii", 0, 0, WIDTH - 1, 16384)),
        good.replace(window, struct.pack("<iiii", 5, 5, 4, 4)),
        good.replace(window, struct.pack("<iiii", -(2**31), 0, 4, 4)),
        good.replace(b"chlist\0", b"chlist\0" + b"\xff\xff\xff\x7f"),
        good.replace(b"chlist\0", b"chlist\0" + b"\xff\xff\xff\xff"),
        good[:4] + b"\x02\x02\0\0" + good[8:],  # tiled
        good[:4] + b"\x02\x10\0\0" + good[8:],  # several parts
        good[:-1],
        good + b"\0",
        good[:100],
        good[:8] + b"a" * 100_000,
    ]:
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="not a depth map") as caught:
            depth_exr.read(path)
        assert str(path) in str(caught.value)


def test_blocks_that_expand_without_end(tmp_path: Path) -> None:
    """A block may not give more than its share of the image."""
    path = tmp_path / "z.exr"
    depth_exr.write(path, np.zeros((16, 2000), "f4"), np.zeros((16, 2000), "f4"))
    data = path.read_bytes()
    (offset,) = struct.unpack("<Q", data[data.index(b"scanlineimage\0") + 14 :][:8])
    bomb = zlib.compress(bytes(100 << 20), 9)
    block = struct.pack("<ii", 0, len(bomb)) + bomb
    assert len(bomb) < 16 * 2000 * 4
    path.write_bytes(data[:offset] + block)
    with pytest.raises(ArtifactError, match="does not decompress to its size"):
        depth_exr.read(path)


# containers of which only the outside is looked at


def test_mp4_boxes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    good = mp4_bytes()
    path.write_bytes(good)
    mp4.validate(path)
    last = good.index(b"mdat") - 4
    path.write_bytes(good[:last] + struct.pack(">I4sQ", 1, b"mdat", 20) + b"abcd")
    mp4.validate(path)
    path.write_bytes(good[:last] + struct.pack(">I4s", 0, b"mdat") + b"to the end")
    mp4.validate(path)
    for data, problem in [
        (good[:-1], "cut off"),
        (good[:-25], "cut off"),
        (good[4:], "cut off|not an MP4"),
        (good[16:], "not an MP4"),
        (good[:last], "without"),
        (good[:last] + struct.pack(">I4s", 4, b"mdat"), "cut off"),
        (b"\0\0\0\0", "cut off"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=problem):
            mp4.validate(path)


def test_html_pages(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    html.write(path, "<!DOCTYPE html><p>ü</p></html>\n")
    assert "ü" in html.read(path)
    for data in (b"<p>", b"<!doctype html><p>", b"<!doctype html>\xff</html>", b""):
        path.write_bytes(data)
        with pytest.raises(ArtifactError):
            html.read(path)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    noise_HW = np.random.default_rng(0).random((100, 100))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for write in (
            lambda: depth_exr.write(tmp_path / "z.exr", noise_HW, noise_HW),
            lambda: masks.write(tmp_path / "m.png", (noise_HW * 200).astype(np.uint8)),
            lambda: write_npz(tmp_path / "a.npz", {"x": noise_HW}),
        ):
            with pytest.raises((OSError, StorageError)) as caught:
                write()
            assert reason_of(caught.value) is Reason.STORAGE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


READERS: list[Callable[[Path], object]] = [
    flow_png.read,
    masks.read,
    depth_exr.read,
    images.read_rgb,
    images.read_header,
    mp4.validate,
    html.read,
]


@pytest.mark.parametrize("read", READERS)
def test_missing_files(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file") as caught:
        read(tmp_path / "none")
    assert caught.value.reason is Reason.MISSING_ARTIFACT
