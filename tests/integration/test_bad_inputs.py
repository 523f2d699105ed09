"""A folder of bad inputs: each gets one line and a record, the good ones finish."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from program import ClipMaker, command, dynamicverse, finished, within

from dynamicverse import stages


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a picture of this size and holds almost none of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def video(path: Path, frames: int = 8, size: tuple[int, int] = (96, 64)) -> None:
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8), (256, 128))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        container.start_encoding()  # writes the header even where no frame follows
        for index in range(frames):
            crop = np.ascontiguousarray(texture[: size[1], 2 * index : 2 * index + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
        container.mux(stream.encode())


def audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def folder(tmp_path: Path, clip: ClipMaker) -> Path:
    top = tmp_path / "inputs"
    top.mkdir()
    shutil.copytree(clip("tiny", frames=4, size=(160, 96)), top / "good-frames")
    video(top / "good video (1).mp4")
    (top / "empty.mp4").write_bytes(b"")
    (top / "text.mp4").write_text("this is not a video\n" * 50)
    video(top / "whole.mp4", frames=40)
    whole = (top / "whole.mp4").read_bytes()
    (top / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (top / "whole.mp4").unlink()
    for name, picture in (
        ("one-pixel", png_header(1, 1)),
        ("giant", png_header(20000, 20000)),
    ):
        (top / name).mkdir()
        (top / name / "0.png").write_bytes(picture)
    video(top / "zero-length.mp4", frames=0)
    audio(top / "audio.mp4")
    (top / "loop.mp4").symlink_to(top / "loop.mp4")
    (top / "notes.txt").write_text("not media")
    return top


BAD = {
    "empty": {"empty"},
    "text": {"not_video", "unsupported"},
    "truncated": {"truncated", "not_video", "unsupported"},
    "one-pixel": {"unsupported", "empty", "not_video", "too_large"},
    "giant": {"too_large"},
    "zero-length": {"empty", "not_video", "unsupported"},
    "audio": {"not_video"},
    "loop": {"unreadable"},
}


def test_bad_inputs_do_not_stop_the_good(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = dynamicverse("run", str(folder), "--out", str(out), "--json")
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    assert {s["name"] for s in result.json()["scenes"]} == {"good-frames", "good_video_1"}
    for name in ("good-frames", "good_video_1"):
        assert finished(out, name) == set(stages.NAMES)
    failed = {r["name"]: r["reason"] for r in result.json()["failed"]}
    assert set(failed) == set(BAD)
    for name, reason in failed.items():
        assert reason in BAD[name], name
        lines = [line for line in result.err.splitlines() if line.startswith(f"{name}:")]
        assert len(lines) == 1, (name, lines)
    assert within("validate", str(out)).code == 0

    listed = within("quarantine", "list", str(out), "--json").json()
    assert {r["name"] for r in listed} == set(BAD)
    shown = within("quarantine", "show", str(out), "giant")
    assert "too_large" in shown.out

    (folder / "empty.mp4").unlink()
    video(folder / "empty.mp4")
    replayed = within("quarantine", "replay", str(out), "empty", "--workers", "0", "--json")
    assert replayed.code == 0, replayed.err
    assert {r["name"] for r in replayed.json()} == set(BAD) - {"empty"}
    assert finished(out, "empty") == set(stages.NAMES)


def test_only_bad_inputs_is_exit_65(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no")
    result = dynamicverse("run", str(tmp_path / "bad.mp4"), "--out", str(tmp_path / "out"))
    assert result.code == 65
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent.mp4"], "absent.mp4"),
        (["{clip}", "--set", "tracks.gridsize=3"], "did you mean 'tracks.grid_size'?"),
        (["{clip}", "--stages", "ingest,magic"], "no stage 'magic'"),
        (["{clip}", "--preset", "fast"], "no preset 'fast'"),
        (["{clip}", "--dataset", "../x"], "dataset '../x'"),
        (["{clip}", "--flow-model", "unimatsch"], "unimatsch"),
    ],
)
def test_wrong_use_is_one_line_and_exit_65(
    tmp_path: Path, clip: ClipMaker, arguments: list[str], expected: str
) -> None:
    given = [a.replace("{clip}", str(clip("tiny", frames=4, size=(160, 96)))) for a in arguments]
    result = within("run", *given, "--out", str(tmp_path / "out"))
    assert result.code == 65, result.err
    assert expected in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_two_inputs_with_one_name_are_both_named(tmp_path: Path) -> None:
    for sub in ("x", "y"):
        (tmp_path / sub).mkdir()
        video(tmp_path / sub / "clip.mp4")
    result = within(
        "run", str(tmp_path / "x/clip.mp4"), str(tmp_path / "y/clip.mp4"), "--out", str(tmp_path)
    )
    assert result.code == 65
    assert "x/clip.mp4" in result.err
    assert "y/clip.mp4" in result.err


def test_a_file_without_permission_is_a_record(tmp_path: Path) -> None:
    video(tmp_path / "secret.mp4")
    (tmp_path / "secret.mp4").chmod(0)
    arguments = command("run", str(tmp_path / "secret.mp4"), "--out", str(tmp_path / "out"))
    if os.getuid() == 0:  # root may read everything, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("as root, and setpriv (util-linux) is not installed")
        arguments = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *arguments]
    done = subprocess.run([*arguments, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 65, done.stderr
    (record,) = json.loads(done.stdout)["failed"]
    assert record["reason"] == "unreadable"
