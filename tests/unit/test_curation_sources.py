"""Which inputs are sources, what they are called, and their identity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from dynamicverse.curation import sources
from dynamicverse.curation.listing import Remote
from dynamicverse.curation.sources import Source, discover
from dynamicverse.errors import InputError, Reason


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(*inputs: Path | str) -> list[tuple[str, str]]:
    return [(s.name, s.kind) for s in discover([str(i) for i in inputs])[0]]


def reason(*inputs: Path | str) -> Reason:
    with pytest.raises(InputError) as caught:
        discover([str(i) for i in inputs])
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.fixture
def bucket() -> str:
    """A fresh prefix of the in-memory store."""
    fs = fsspec.filesystem("memory")
    if fs.exists("/bucket"):
        fs.rm("/bucket", recursive=True)
    return "memory://bucket"


def put(url: str, content: bytes = b"x") -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(content)


def test_single_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "a b.mp4")
    touch(tmp_path / "X" / "rgb" / "1.png")
    touch(tmp_path / "Y" / "1.jpg")
    touch(tmp_path / "no-suffix")
    assert found(tmp_path / "a b.mp4") == [("a_b", "video")]
    assert found(tmp_path / "X") == [("X", "frames")]
    assert found(tmp_path / "X" / "rgb") == [("X", "frames")]
    assert found(tmp_path / "Y") == [("Y", "frames")]
    assert found(tmp_path / "no-suffix") == [("no-suffix", "video")]
    assert found(f"file://{tmp_path}/Y") == [("Y", "frames")]
    assert discover([str(tmp_path / "X")])[0][0].url == str(tmp_path / "X" / "rgb")


def test_urls_are_absolute_and_without_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "v" / "a.mp4")
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    assert discover(["../v/a.mp4"])[0][0].url == str(tmp_path / "v" / "a.mp4")


def test_a_folder_of_videos_and_frame_folders(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mkv", "notes.txt", ".hidden.mp4", "thumb.jpg"):
        touch(tmp_path / name)
    touch(tmp_path / "c" / "rgb" / "1.png")
    touch(tmp_path / "c" / "masks" / "1.png")
    touch(tmp_path / "d" / "1.png")
    touch(tmp_path / "e" / "deep" / "1.png")
    touch(tmp_path / "f" / "readme.md")
    assert found(tmp_path) == [
        ("a", "video"),
        ("b", "video"),
        ("c", "frames"),
        ("d", "frames"),
    ]
    passed_over = [str(tmp_path / n) for n in (".hidden.mp4", "notes.txt")]
    assert discover([str(tmp_path)])[1] == passed_over


def test_pictures_in_a_folder_make_it_one_clip_unless_it_holds_frame_folders(
    tmp_path: Path,
) -> None:
    touch(tmp_path / "clip" / "1.jpg")
    touch(tmp_path / "clip" / "masks" / "1.png")
    touch(tmp_path / "set" / "preview.png")
    touch(tmp_path / "set" / "x" / "rgb" / "1.png")
    assert found(tmp_path / "clip") == [("clip", "frames")]
    assert found(tmp_path / "set") == [("x", "frames")]


def test_broken_entries_are_sources(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "gone.mp4")
    touch(tmp_path / "empty.mp4", b"")
    assert [name for name, _ in found(tmp_path)] == ["empty", "loop", "nowhere"]
    assert found(tmp_path / "loop.mp4") == [("loop", "video")]
    source = discover([str(tmp_path / "loop.mp4")])[0][0]
    with pytest.raises(InputError):
        sources.fingerprint(source)
    assert sources.frames_estimate(source) == 1


def test_bad_inputs(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone") is Reason.UNREADABLE
    assert reason(tmp_path / "gone.mp4") is Reason.UNREADABLE
    assert reason(tmp_path / "*.mp4") is Reason.UNREADABLE
    assert reason(touch(tmp_path / "one.png")) is Reason.NOT_VIDEO
    assert reason("nothing-of-the-kind://a/b.txt") is Reason.UNREADABLE
    (tmp_path / "none").mkdir()
    assert discover([str(tmp_path / "none")]) == ([], [])


def test_two_inputs_of_one_name_are_both_named(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "1" / "a b.mp4"), touch(tmp_path / "2" / "a_b.mkv")
    with pytest.raises(InputError, match="a_b") as caught:
        discover([str(first), str(second)])
    assert caught.value.reason is Reason.DUPLICATE_NAME
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    assert len(found(first, first)) == 1


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path / "v" / "a.mp4")
    touch(tmp_path / "X" / "rgb" / "1.png")
    listed = touch(tmp_path / "l.txt", b"# clips\nv/a.mp4\n\n  X  \nv/not-looked-at.mp4\n")
    expected = [("a", "video"), ("X", "frames"), ("not-looked-at", "video")]
    assert found(listed) == expected
    lines = ['"v/a.mp4"', json.dumps({"source": "X"}), '{"source": "v/not-looked-at.mp4"}']
    assert found(touch(tmp_path / "l.jsonl", "\n".join(lines).encode())) == expected
    for bad in (b"\xff\xfe", b"[1]", b"{}", b"not json"):
        with pytest.raises(InputError, match="bad"):
            discover([str(touch(tmp_path / "bad.jsonl", bad))])


def test_remote_folders_patterns_and_lists(bucket: str, tmp_path: Path) -> None:
    for path in (
        "a.mp4",
        "b.webm",
        "x.txt",
        "c/rgb/1.png",
        "c/masks/1.png",
        "d/1.jpg",
        "e/f/1.png",
    ):
        put(f"{bucket}/set/{path}")
    expected = [("a", "video"), ("b", "video"), ("c", "frames"), ("d", "frames")]
    assert found(f"{bucket}/set") == expected
    assert found(f"{bucket}/set/") == expected
    assert discover([f"{bucket}/set"])[1] == [f"{bucket}/set/x.txt"]
    assert found(f"{bucket}/set/*.mp4") == [("a", "video")]
    assert found(f"{bucket}/set/c") == [("c", "frames")]
    assert found(f"{bucket}/set/c/rgb") == [("c", "frames")]
    assert found(f"{bucket}/set/a.mp4") == [("a", "video")]
    put(f"{bucket}/l.txt", f"{bucket}/set/a.mp4\n{bucket}/set/d\n".encode())
    assert found(f"{bucket}/l.txt") == [("a", "video"), ("d", "frames")]
    assert reason(f"{bucket}/gone") is Reason.UNREADABLE
    for source in discover([f"{bucket}/set"])[0]:
        assert source.url.startswith("memory://")
        assert len(sources.fingerprint(source)) == 64


def test_fingerprints_change_with_the_source(tmp_path: Path, bucket: str) -> None:
    video = touch(tmp_path / "a.mp4", b"one")
    frames = touch(tmp_path / "X" / "1.png").parent
    put(f"{bucket}/a.mp4", b"one")
    put(f"{bucket}/Y/1.png", b"one")
    for source, change in (
        (Source(str(video), "a", "video"), lambda: os.utime(video, ns=(1, 1))),
        (Source(str(frames), "X", "frames"), lambda: touch(frames / "2.png")),
        (Source(f"{bucket}/a.mp4", "a", "video"), lambda: put(f"{bucket}/a.mp4", b"two!")),
        (Source(f"{bucket}/Y", "Y", "frames"), lambda: put(f"{bucket}/Y/2.png", b"two")),
    ):
        before = sources.fingerprint(source)
        assert sources.fingerprint(source) == before
        change()
        assert sources.fingerprint(source) != before


@pytest.mark.parametrize("count", [3, sources.WORTH_LISTING])
def test_many_fingerprints_are_those_of_each(tmp_path: Path, bucket: str, count: int) -> None:
    for index in range(count):
        put(f"{bucket}/set/{index}.mp4", b"x" * index)
    put(f"{bucket}/set/Y/rgb/1.png", b"one")
    remote = [Source(f"{bucket}/set/{i}.mp4", str(i), "video") for i in range(count)]
    remote.append(Source(f"{bucket}/set/Y/rgb", "Y", "frames"))
    local = [Source(str(touch(tmp_path / "a.mp4")), "a", "video")]
    expected = {source.url: sources.fingerprint(source) for source in remote + local}
    gone = [
        Source(f"{bucket}/set/gone.mp4", "g", "video"),
        Source(f"{bucket}/gone/Z", "h", "frames"),
        Source(str(tmp_path / "gone.mp4"), "i", "video"),
    ]
    assert sources.fingerprints(remote + gone + local) == expected


def test_a_listing_that_is_behind_is_not_believed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sources.WORTH_LISTING
    for index in range(count):
        put(f"{bucket}/set/{index}.mp4")
    remote = [Source(f"{bucket}/set/{i}.mp4", str(i), "video") for i in range(count)]
    expected = sources.fingerprints(remote)
    listed = Remote.children
    monkeypatch.setattr(Remote, "children", lambda r: dict(list(listed(r).items())[: count // 2]))
    assert sources.fingerprints(remote) == expected


def test_digests_are_of_the_content(tmp_path: Path, bucket: str) -> None:
    video = Source(str(touch(tmp_path / "a.mp4", b"abc")), "a", "video")
    # sha256 of "abc", FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sources.sha256(video) == expected
    put(f"{bucket}/a.mp4", b"abc")
    assert sources.sha256(Source(f"{bucket}/a.mp4", "a", "video")) == expected
    for name, content in (("1.png", b"1"), ("2.png", b"2"), ("10.png", b"3")):
        touch(tmp_path / "X" / name, content)
        put(f"{bucket}/X/{name}", content)
    touch(tmp_path / "X" / "notes.txt")
    local = sources.sha256(Source(str(tmp_path / "X"), "X", "frames"))
    assert local == sources.sha256(Source(f"{bucket}/X", "X", "frames"))
    (tmp_path / "X" / "10.png").rename(tmp_path / "X" / "11.png")
    assert sources.sha256(Source(str(tmp_path / "X"), "X", "frames")) != local
    assert sources.local_sha256(tmp_path / "X")[1] == 3


def test_fetch_copies_and_replaces(tmp_path: Path, bucket: str) -> None:
    put(f"{bucket}/a.mp4", b"abc")
    put(f"{bucket}/X/rgb/1.png", b"12")
    put(f"{bucket}/X/rgb/2.png", b"3")
    touch(tmp_path / "t" / "old")
    local, size = sources.fetch(Source(f"{bucket}/a.mp4", "a", "video"), tmp_path / "t")
    assert (local, local.read_bytes(), size) == (tmp_path / "t" / "a.mp4", b"abc", 3)
    assert not (tmp_path / "t" / "old").exists()
    local, size = sources.fetch(Source(f"{bucket}/X/rgb", "X", "frames"), tmp_path / "t")
    assert {p.name for p in local.iterdir()} == {"1.png", "2.png"}
    assert size == 3
    gone = Source(f"{bucket}/gone.mp4", "gone", "video")
    for call in (sources.fingerprint, sources.sha256, lambda s: sources.fetch(s, tmp_path / "t")):
        with pytest.raises(InputError) as caught:
            call(gone)
        assert caught.value.reason is Reason.UNREADABLE


def test_a_hundred_thousand_entries_are_listed_without_a_stat_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = os.stat

    def counted(*args: object, **options: object) -> os.stat_result:
        nonlocal calls
        calls += 1
        return real(*args, **options)  # type: ignore[arg-type]

    source = touch(tmp_path / "v" / "clip-0.mp4")
    for i in range(1, 5000):
        os.link(source, tmp_path / "v" / f"clip-{i}.mp4")
    lines = "\n".join(f"clips/clip-{i}.mp4" for i in range(100_000))
    listed = touch(tmp_path / "l.txt", lines.encode())
    monkeypatch.setattr(os, "stat", counted)
    start = time.process_time()
    assert len(discover([str(tmp_path / "v")])[0]) == 5000
    assert len(discover([str(listed)])[0]) == 100_000
    assert calls < 50
    assert time.process_time() - start < 15


def test_frames_are_estimated_without_opening(tmp_path: Path, bucket: str) -> None:
    video = touch(tmp_path / "a.mp4", bytes(sources.BYTES_PER_FRAME * 7))
    for i in range(5):
        touch(tmp_path / "X" / f"{i}.png")
    put(f"{bucket}/set/a.mp4", bytes(sources.BYTES_PER_FRAME * 3))
    estimates = {
        s.name: sources.frames_estimate(s) for s in discover([str(video), str(tmp_path / "X")])[0]
    }
    assert estimates == {"a": 7, "X": 5}
    assert sources.frames_estimate(discover([f"{bucket}/set"])[0][0]) == 3


def test_planning_needs_no_decoder() -> None:
    """`plan`, `status` and small pods import this module: it must stay light."""
    script = "import sys, dynamicverse.curation.sources as s; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"av", "cv2", "numpy", "fsspec", "torch"} & set(out.stdout.split())
