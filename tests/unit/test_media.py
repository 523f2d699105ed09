"""Decoding videos and writing them: times, geometry, colours, and every kind of bad file."""

from __future__ import annotations

import errno
import os
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_files import (
    claim_size,
    corners,
    cut,
    quarters,
    shot,
    texture,
    write_audio,
    write_video,
)

from dynamicverse.errors import InputError, Reason
from dynamicverse.media import Limits, VideoReader, VideoWriter, probe
from dynamicverse.media.files import ends_early
from dynamicverse.media.source import Orientation

FRAMES = shot(1, 12)


def read(path: Path, **options: Any) -> tuple[list[np.ndarray], list[float], VideoReader]:
    with VideoReader(path, **options) as reader:
        frames = list(reader)
    return [f.rgb_HW3 for f in frames], [f.time_s for f in frames], reader


def reason(path: Path, **limits: Any) -> Reason:
    with pytest.raises(InputError) as caught:
        read(path, limits=Limits(**limits))
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return caught.value.reason


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


class TestGoodFiles:
    @pytest.mark.parametrize(
        ("name", "codec", "pix_fmt"),
        [
            ("a.mp4", "libx264", "yuv420p"),
            ("a.mkv", "libx264", "yuv444p"),
            ("a.webm", "libvpx-vp9", "yuv420p"),
            ("a.avi", "mpeg4", "yuv420p"),
            ("a.ts", "libx264", "yuv420p"),
            ("a.mov", "mjpeg", "yuvj420p"),
            ("a.mpg", "mpeg2video", "yuv420p"),
        ],
    )
    def test_common_containers_give_every_frame_at_its_time(
        self, tmp_path: Path, name: str, codec: str, pix_fmt: str
    ) -> None:
        options = {"cpu-used": "8", "deadline": "realtime"} if "vpx" in codec else None
        path = write_video(tmp_path / name, FRAMES, codec=codec, pix_fmt=pix_fmt, options=options)
        frames, times, reader = read(path)
        assert len(frames) == len(FRAMES)
        np.testing.assert_allclose(times, np.arange(12) / 25, atol=1.1e-3)
        assert max(error(a, b) for a, b in zip(frames, FRAMES, strict=True)) < 20
        # frames are in order: each is nearest to its own original
        nearest = [min(range(12), key=lambda k: error(frames[i], FRAMES[k])) for i in range(12)]
        assert nearest == list(range(12))
        assert reader.warnings == []

    def test_avi_with_reordered_frames_keeps_its_rate(self, tmp_path: Path) -> None:
        path = write_video(
            tmp_path / "b.avi", FRAMES, options={"preset": "veryfast", "bf": "2", "x264-params": ""}
        )
        frames, times, reader = read(path)
        assert len(frames) == 12
        np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-6)
        assert reader.warnings == []

    def test_variable_frame_rate_keeps_true_times(self, tmp_path: Path) -> None:
        ticks = [500, 533, 560, 700, 1500, 1501, 1600, 1733, 1800, 1950, 2000, 4000]
        for name in ("v.mp4", "v.mkv"):
            path = write_video(tmp_path / name, FRAMES, times=ticks)
            _, times, _ = read(path)
            np.testing.assert_allclose(times, (np.array(ticks) - 500) / 1000, atol=1e-9)

    def test_times_that_run_backwards_go_on_from_the_frame_before(self, tmp_path: Path) -> None:
        # two clips joined without care: the second starts at zero again
        first, second = tmp_path / "1.ts", tmp_path / "2.ts"
        write_video(first, FRAMES)
        write_video(second, FRAMES)
        joined = tmp_path / "joined.ts"
        joined.write_bytes(first.read_bytes() + second.read_bytes())
        frames, times, reader = read(joined)
        assert len(frames) >= 23  # the break may cost a frame
        assert np.isin(np.round(np.diff(times), 3), (0.04, 0.08)).all()
        assert any("ran backwards" in w for w in reader.warnings)

    @pytest.mark.parametrize(
        ("anticlockwise", "expected", "clockwise"),
        [
            (90, ["green", "white", "red", "blue"], 270),
            (180, ["white", "blue", "green", "red"], 180),
            (270, ["blue", "red", "white", "green"], 90),
        ],
    )
    def test_rotation_metadata_turns_the_frames(
        self, tmp_path: Path, anticlockwise: int, expected: list[str], clockwise: int
    ) -> None:
        path = write_video(tmp_path / "r.mp4", [corners(128, 96)] * 3, rotation=anticlockwise)
        frames, _, reader = read(path)
        assert quarters(frames[0]) == expected
        size = (128, 96) if anticlockwise == 180 else (96, 128)
        assert (reader.info.width, reader.info.height) == size
        assert (reader.info.stored_width, reader.info.stored_height) == (128, 96)
        assert reader.info.rotation == clockwise

    def test_orientations_of_exif(self) -> None:
        image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
        expected = {
            1: image,
            2: image[:, ::-1],
            3: np.rot90(image, 2),
            4: image[::-1],
            5: image.transpose(1, 0, 2),
            6: np.rot90(image, -1),
            7: np.rot90(image, -1)[:, ::-1][::-1, ::-1],
            8: np.rot90(image, 1),
        }
        expected[7] = np.rot90(image, 2).transpose(1, 0, 2)
        for value, upright in expected.items():
            turned = Orientation.from_exif(value).apply(image.copy())
            np.testing.assert_array_equal(turned.reshape(upright.shape), upright, str(value))
        assert [Orientation.from_exif(v).rotation for v in (1, 3, 6, 8)] == [0, 180, 90, 270]

    @pytest.mark.parametrize("size", [(101, 77), (100, 77), (101, 76)])
    def test_odd_sizes(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = texture(3, *size)
        path = write_video(tmp_path / "o.mkv", [image] * 3, codec="ffv1", pix_fmt="yuv444p")
        frames, _, reader = read(path)
        assert (reader.info.width, reader.info.height) == size
        assert error(frames[0], image) < 2

    @pytest.mark.parametrize(
        ("codec", "pix_fmt"), [("ffv1", "yuv422p10le"), ("ffv1", "gbrp16le"), ("ffv1", "gray")]
    )
    def test_deep_and_grey_pixels(self, tmp_path: Path, codec: str, pix_fmt: str) -> None:
        image = np.repeat(np.arange(128, dtype=np.uint8)[None, :, None] * 2, 96, 0)
        image = np.ascontiguousarray(np.repeat(image, 3, 2))
        path = write_video(tmp_path / "d.mkv", [image] * 2, codec=codec, pix_fmt=pix_fmt)
        frames, _, _ = read(path)
        assert frames[0].dtype == np.uint8
        assert np.abs(frames[0].astype(int) - image).max() <= 3

    def test_alpha_lies_over_black(self, tmp_path: Path) -> None:
        image = np.full((96, 128, 4), 200, np.uint8)
        image[:, :64, 3], image[:, 64:, 3] = 255, 102
        path = write_video(
            tmp_path / "a.mov", [image] * 2, codec="png", pix_fmt="rgba", given="rgba"
        )
        frames, _, _ = read(path)
        assert (frames[0][:, :64] == 200).all()
        assert (frames[0][:, 64:] == 80).all()

    @pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114)])
    @pytest.mark.parametrize("full", [False, True])
    def test_colour_matrix_and_range(
        self, tmp_path: Path, matrix: int, kr: float, kb: float, full: bool
    ) -> None:
        rgb = np.array([180.0, 60.0, 90.0])
        y = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
        cb, cr = (rgb[2] - y) / (2 * (1 - kb)), (rgb[0] - y) / (2 * (1 - kr))
        if full:
            planes = [y, cb + 128, cr + 128]
        else:
            planes = [y * 219 / 255 + 16, cb * 224 / 255 + 128, cr * 224 / 255 + 128]
        yuv = np.stack([np.full((96, 128), round(p), np.uint8) for p in planes])
        path = write_video(
            tmp_path / "c.mkv",
            [yuv] * 2,
            codec="ffv1",
            pix_fmt="yuv444p",
            given="yuv444p",
            colour=(matrix, 2 if full else 1, 2),
        )
        frames, _, _ = read(path)
        assert np.abs(frames[0].reshape(-1, 3).mean(0) - rgb).max() < 2

    def test_oblong_pixels_become_square(self, tmp_path: Path) -> None:
        for ratio, size in ((Fraction(2, 1), (256, 96)), (Fraction(1, 2), (128, 192))):
            path = write_video(tmp_path / "s.mp4", [corners(128, 96)] * 2, aspect=ratio)
            frames, _, reader = read(path)
            assert (reader.info.width, reader.info.height) == size
            assert quarters(frames[0]) == ["red", "green", "blue", "white"]

    def test_the_longer_side_is_scaled_down(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "l.mp4", [corners(256, 128)] * 2)
        frames, _, reader = read(path, max_side=100)
        assert frames[0].shape == (50, 100, 3)
        assert (reader.info.width, reader.info.height) == (100, 50)
        assert quarters(frames[0]) == ["red", "green", "blue", "white"]

    def test_hdr_is_named(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "h.mp4", FRAMES[:2], colour=(9, 1, 16))
        _, _, reader = read(path)
        assert any("HDR" in w for w in reader.warnings)

    def test_a_name_that_looks_like_a_protocol_or_pattern(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        made = write_video(tmp_path / "x.mp4", FRAMES)
        for name in ("concat:a.mp4", "%03d.mp4", "pipe:0.mp4"):
            os.link(made, tmp_path / name)
            assert len(read(Path(name))[0]) == 12

    def test_probe(self, tmp_path: Path) -> None:
        info = probe(write_video(tmp_path / "p.mp4", FRAMES))
        assert (info.width, info.height, info.frames) == (160, 96, 12)
        assert (info.codec, info.rate, info.kind) == ("h264", 25.0, "video")


class TestTruncation:
    @pytest.mark.parametrize(
        ("name", "codec"), [("t.mp4", "libx264"), ("t.mkv", "libx264"), ("t.avi", "mpeg4")]
    )
    def test_the_good_part_or_an_error(self, tmp_path: Path, name: str, codec: str) -> None:
        container = {"movflags": "faststart"} if name.endswith("mp4") else None
        whole = write_video(
            tmp_path / name,
            shot(2, 40),
            codec=codec,
            container=container,
            options={"g": "10", "qmax": "3"},
        )
        assert not ends_early(whole, whole.stat().st_size)
        broken = cut(whole, tmp_path / f"cut-{name}")
        frames, times, reader = read(broken)
        original = read(whole)[0]
        assert 10 <= len(frames) < 40
        assert times == sorted(times)
        assert all(error(a, b) < 2 for a, b in zip(frames, original, strict=False))
        assert any("ends early" in w for w in reader.warnings)
        assert reason(broken, truncated="reject") is Reason.TRUNCATED

    def test_a_transport_stream_loses_its_last_frame(self, tmp_path: Path) -> None:
        whole = write_video(tmp_path / "t.ts", shot(2, 40), options={"g": "10"})
        frames, _, reader = read(cut(whole, tmp_path / "cut.ts"))
        original = read(whole)[0]
        assert 10 <= len(frames) < 40
        assert all(error(a, b) < 2 for a, b in zip(frames, original, strict=False))
        assert any("damaged" in w for w in reader.warnings)

    def test_without_its_index_nothing_can_be_used(self, tmp_path: Path) -> None:
        whole = write_video(tmp_path / "t.mp4", FRAMES)  # the index comes last
        assert reason(cut(whole, tmp_path / "cut.mp4")) is Reason.TRUNCATED

    def test_damage_in_the_middle_costs_some_frames(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "d.mkv", shot(2, 40), codec="ffv1", pix_fmt="yuv420p")
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 4000] = bytes(4000)
        path.write_bytes(data)
        frames, times, _ = read(path)
        assert 20 <= len(frames) <= 40
        assert all(b > a for a, b in pairwise(times))


class TestBadFiles:
    def test_files_that_are_no_video(self, tmp_path: Path) -> None:
        empty, text, rubbish = (tmp_path / n for n in ("e.mp4", "t.mp4", "r.mp4"))
        empty.write_bytes(b"")
        text.write_text("this is not a video\n" * 100)
        rubbish.write_bytes(np.random.default_rng(0).bytes(20_000))
        assert reason(empty) is Reason.EMPTY
        assert reason(text) is Reason.NOT_VIDEO
        assert reason(rubbish) is Reason.NOT_VIDEO
        assert reason(write_audio(tmp_path / "sound.mp4")) is Reason.NOT_VIDEO

    def test_zero_length(self, tmp_path: Path) -> None:
        path = tmp_path / "z.mp4"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            out.start_encoding()
        assert reason(path) in (Reason.EMPTY, Reason.NOT_VIDEO)

    def test_sizes_out_of_bounds(self, tmp_path: Path) -> None:
        dot = write_video(
            tmp_path / "dot.mov", [np.zeros((1, 1, 3), np.uint8)] * 3, codec="png", pix_fmt="rgb24"
        )
        assert reason(dot) is Reason.UNSUPPORTED
        assert len(read(dot, limits=Limits(min_side=1))[0]) == 3
        wide = write_video(tmp_path / "wide.mp4", FRAMES)
        assert reason(wide, max_pixels=160 * 96 - 1) is Reason.TOO_LARGE
        assert reason(wide, min_side=97) is Reason.UNSUPPORTED

    @pytest.mark.parametrize("codec", ["gif", "rawvideo"])
    def test_a_huge_header_is_refused_before_decoding(self, tmp_path: Path, codec: str) -> None:
        if codec == "gif":
            path = write_video(tmp_path / "h.gif", FRAMES, codec="gif", pix_fmt="rgb8")
            data = bytearray(path.read_bytes())
            struct.pack_into("<HH", data, 6, 20_000, 20_000)
            path.write_bytes(data)
        else:
            path = write_video(tmp_path / "h.mov", FRAMES, codec=codec, pix_fmt="rgb24")
            claim_size(path, b"raw ", 20_000, 20_000)
        assert reason(path) is Reason.TOO_LARGE

    def test_paths_that_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop, gone, pipe = tmp_path / "loop.mp4", tmp_path / "gone.mp4", tmp_path / "pipe.mp4"
        loop.symlink_to(loop)
        os.mkfifo(pipe)
        for path in (loop, gone, pipe, tmp_path):
            assert reason(path) is Reason.UNREADABLE
        locked = write_video(tmp_path / "locked.mp4", FRAMES)

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)  # root may read everything
        assert reason(locked) is Reason.UNREADABLE

    def test_no_other_file_is_opened(self, tmp_path: Path) -> None:
        """Playlists and scripts that name another file are not videos here."""
        write_video(tmp_path / "secret.mp4", FRAMES)
        playlists = {
            "concat": "ffconcat version 1.0\nfile secret.mp4\n",
            "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        }
        for kind, text in playlists.items():
            path = tmp_path / f"{kind}.mp4"
            path.write_text(text)
            assert reason(path) is Reason.NOT_VIDEO, kind


def _write_and_fail(writer: VideoWriter) -> None:
    writer.write(FRAMES[0])
    raise KeyError


class TestVideoWriter:
    def test_times_and_pixels_come_back(self, tmp_path: Path) -> None:
        path, times = tmp_path / "deep" / "w.mp4", [0.0, 0.02, 0.5, 0.5333, 2.0]
        with VideoWriter(path, 160, 96) as writer:
            for frame, time_s in zip(FRAMES, times, strict=False):
                writer.write(frame, time_s)
        frames, found, _ = read(path)
        np.testing.assert_allclose(found, times, atol=1 / 90_000)
        assert max(error(a, b) for a, b in zip(frames, FRAMES, strict=False)) < 16

    def test_flat_colours_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "w.mp4"
        with VideoWriter(path, 128, 96, crf=10) as writer:
            writer.write(corners(128, 96))
        frames, _, _ = read(path)
        assert quarters(frames[0]) == ["red", "green", "blue", "white"]
        assert np.abs(frames[0][24, 32].astype(int) - (255, 0, 0)).max() < 8

    def test_same_frames_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mp4"):
            with VideoWriter(tmp_path / name, 160, 96, rate=25) as writer:
                for frame in FRAMES:
                    writer.write(frame)
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
        np.testing.assert_allclose(read(tmp_path / "a.mp4")[1], np.arange(12) / 25, atol=1e-5)

    def test_odd_sizes_are_padded(self, tmp_path: Path) -> None:
        path = tmp_path / "o.mp4"
        with VideoWriter(path, 101, 77) as writer:
            writer.write(texture(1, 101, 77))
        frames, _, _ = read(path)
        assert frames[0].shape == (78, 102, 3)

    def test_a_full_disk_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The container cannot write its end either."""

        class Full:
            def __init__(self, real: Any) -> None:
                self.real = real

            def close(self) -> None:
                self.real.close()
                raise OSError(errno.ENOSPC, "no space left")

        writer = VideoWriter(tmp_path / "i.mp4", 160, 96)
        writer.write(FRAMES[0])
        monkeypatch.setattr(writer, "_container", Full(writer._container))
        with pytest.raises(OSError, match="no space left"):
            writer.abort()
        assert list(tmp_path.iterdir()) == []

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        writer = VideoWriter(tmp_path / "f.mp4", 160, 96)
        with pytest.raises(KeyError), writer:
            _write_and_fail(writer)
        with (
            pytest.raises(ValueError, match="needs a frame"),
            VideoWriter(tmp_path / "g.mp4", 160, 96),
        ):
            pass
        with (
            pytest.raises(ValueError, match="a frame is"),
            VideoWriter(tmp_path / "h.mp4", 160, 96) as writer,
        ):
            writer.write(FRAMES[0][:50])
        assert list(tmp_path.iterdir()) == []
