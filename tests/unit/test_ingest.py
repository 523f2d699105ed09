"""From a source to scenes: frames, times, shots, verdicts, and nothing half done."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from media_files import (
    corners,
    cut,
    exif_jpeg,
    quarters,
    shot,
    texture,
    write_audio,
    write_frames,
    write_video,
)

from dynamicverse import config as configuration
from dynamicverse.curation.sources import local_sha256
from dynamicverse.errors import InputError, Reason
from dynamicverse.formats import images, scene_info, validate_artifact
from dynamicverse.formats.scene_info import SceneInfo
from dynamicverse.media import VideoReader
from dynamicverse.scene import MAX_NAME, Scene
from dynamicverse.stages import ingest as stage
from dynamicverse.stages.base import StageContext

SIZE = (160, 96)


@dataclass
class Recorder:
    steps: list[tuple[int, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def log(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@dataclass
class Bench:
    root: Path
    recorder: Recorder = field(default_factory=Recorder)
    context: StageContext | None = None

    def ingest(self, source: Path, *settings: str, name: str = "clip") -> list[SceneInfo]:
        """Ingest and validate; the scene.json of every scene."""
        config = configuration.load(overrides=[f"ingest.{s}" for s in settings])
        self.context = StageContext(config, self.recorder)
        scenes = stage.ingest(source, name, self.scene, self.context)
        for scene in scenes:
            for artifact in stage.WRITES:
                validate_artifact(scene, artifact)
        return [scene_info.read(scene.scene_json) for scene in scenes]

    def scene(self, name: str) -> Scene:
        return Scene(self.root, "set", name)

    def frame(self, index: int, name: str = "clip") -> np.ndarray:
        return images.read_rgb(self.scene(name).rgb(index))

    def digests(self) -> dict[str, str]:
        files = sorted(p for p in self.root.rglob("*") if p.is_file())
        return {
            str(p.relative_to(self.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
        }

    def reason(self, source: Path, *settings: str) -> Reason:
        with pytest.raises(InputError) as caught:
            self.ingest(source, *settings)
        assert self.digests() == {}
        assert not (self.root / ".ingest").exists()
        return caught.value.reason


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "out")


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_a_video_of_one_shot(tmp_path: Path, bench: Bench) -> None:
    frames = shot(1, 20, *SIZE)
    ticks = [int(40 * i + (13 if i % 2 else 0)) for i in range(20)]
    path = write_video(tmp_path / "My clip.mp4", frames, times=ticks)
    (info,) = bench.ingest(path)
    assert (info.name, info.dataset, info.frame_count) == ("clip", "set", 20)
    assert (info.width, info.height) == SIZE
    np.testing.assert_allclose(info.times_s, np.array(ticks) / 1000, atol=1e-9)
    assert info.rate == pytest.approx(19 / (ticks[-1] / 1000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (info.source.name, info.source.kind) == ("My clip.mp4", "video")
    assert (info.source.sha256, info.source.bytes) == (digest, path.stat().st_size)
    assert (info.shot.count, info.shot.first_frame, info.shot.last_frame) == (1, 0, 19)
    assert info.filter.accepted
    assert info.filter.reasons == []
    assert error(bench.frame(7), frames[7]) < 12
    with VideoReader(bench.scene("clip").video) as reader:
        times = [f.time_s for f in reader]
    np.testing.assert_allclose(times, info.times_s, atol=2e-5)
    assert bench.context is not None
    assert bench.context.frames == 20
    assert bench.context.facts["accepted"] == {"clip": True}
    assert bench.recorder.steps[-1] == (20, 20)
    assert not (bench.root / ".ingest").exists()


def test_shots_become_scenes(tmp_path: Path, bench: Bench) -> None:
    frames = shot(1, 20, *SIZE) + shot(2, 5, *SIZE) + shot(3, 25, *SIZE)
    path = write_video(tmp_path / "v.mp4", frames)
    infos = bench.ingest(path)
    assert [i.name for i in infos] == ["clip-000", "clip-001", "clip-002"]
    assert [(i.shot.first_frame, i.shot.last_frame) for i in infos] == [(0, 19), (20, 24), (25, 49)]
    assert [i.frame_count for i in infos] == [20, 5, 25]
    assert [i.shot.index for i in infos] == [0, 1, 2]
    assert {i.shot.count for i in infos} == {3}
    assert all(i.times_s[0] == 0 for i in infos)
    assert infos[2].shot.start_s == pytest.approx(1.0)
    assert [i.filter.accepted for i in infos] == [True, False, True]
    assert "too short a shot" in infos[1].filter.reasons[0]
    for name, start, count in (("clip-000", 0, 20), ("clip-001", 20, 5), ("clip-002", 25, 25)):
        for k in (0, count - 1):
            assert error(bench.frame(k, name), frames[start + k]) < 12
    assert bench.context is not None
    assert bench.context.facts["cuts"] == [20, 25]
    assert bench.context.frames == 50
    (whole,) = Bench(tmp_path / "whole").ingest(path, "split_shots=false")
    assert whole.frame_count == 50


def test_a_frame_folder_is_never_split(tmp_path: Path, bench: Bench) -> None:
    frames = shot(1, 12, *SIZE) + shot(2, 12, *SIZE)
    folder = write_frames(tmp_path / "X" / "rgb", frames)
    (info,) = bench.ingest(folder)
    assert info.frame_count == 24
    assert (info.source.name, info.source.kind, info.rate) == ("X/rgb", "frames", None)
    assert (info.source.sha256, info.source.bytes) == local_sha256(folder)
    assert error(bench.frame(3), frames[3]) < 5
    (timed,) = Bench(tmp_path / "timed").ingest(folder, "frame_rate=10")
    assert timed.rate == pytest.approx(10)
    assert timed.times_s[-1] == pytest.approx(2.3)


def test_jpegs_are_copied_and_turned_or_scaled_ones_encoded(tmp_path: Path, bench: Bench) -> None:
    plain = write_frames(tmp_path / "plain", shot(1, 3, *SIZE), ".jpg")
    bench.ingest(plain)
    for i in range(3):
        copied = bench.scene("clip").rgb(i).read_bytes()
        assert copied == (plain / f"{i + 1}.jpg").read_bytes()
    turned = tmp_path / "turned"
    turned.mkdir()
    (turned / "1.jpg").write_bytes(exif_jpeg(corners(*SIZE), 6))
    (info,) = bench.ingest(turned, name="turned")
    assert (info.width, info.height, info.source.rotation) == (96, 160, 90)
    assert (info.source.width, info.source.height) == SIZE
    assert quarters(bench.frame(0, "turned")) == ["blue", "red", "white", "green"]
    (small,) = bench.ingest(plain, "max_side=80", "min_side=16", name="small")
    assert (small.width, small.height, small.source.width) == (80, 48, 160)


def test_fewer_frames_a_second(tmp_path: Path, bench: Bench) -> None:
    path = write_video(tmp_path / "v.mp4", shot(1, 50, *SIZE, step=0.5))
    (info,) = bench.ingest(path, "fps=10")
    assert info.frame_count == 20
    assert info.rate == pytest.approx(10, rel=0.03)
    assert np.diff(info.times_s).min() >= 0.079
    assert info.shot.last_frame >= 47
    (all_of_them,) = bench.ingest(path, "fps=60", name="all")
    assert all_of_them.frame_count == 50


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_short_videos(tmp_path: Path, bench: Bench, count: int) -> None:
    path = write_video(tmp_path / "v.mp4", shot(1, count, *SIZE))
    (info,) = bench.ingest(path)
    assert info.frame_count == count
    assert info.filter.accepted


def test_a_rejected_clip_is_kept_and_says_why(tmp_path: Path, bench: Bench) -> None:
    path = write_video(tmp_path / "v.mp4", [np.zeros((96, 160, 3), np.uint8)] * 10)
    (info,) = bench.ingest(path)
    assert not info.filter.accepted
    assert any("black" in r for r in info.filter.reasons)
    assert info.frame_count == 10
    assert bench.context is not None
    assert bench.context.facts["accepted"] == {"clip": False}


def test_truncated_videos(tmp_path: Path, bench: Bench) -> None:
    frames = [texture(i, *SIZE) // 2 + texture(0, *SIZE) // 2 for i in range(40)]
    whole = write_video(
        tmp_path / "w.mp4", frames, container={"movflags": "faststart"}, options={"g": "5"}
    )
    broken = cut(whole, tmp_path / "v.mp4")
    assert bench.reason(broken, "truncated=reject") is Reason.TRUNCATED
    (info,) = bench.ingest(broken, "split_shots=false")
    assert 10 < info.frame_count < 40
    assert any("ends early" in w for w in info.warnings)
    assert any("ends early" in w for w in bench.recorder.warnings)


def test_bad_inputs_leave_nothing(tmp_path: Path, bench: Bench) -> None:
    empty, text, loop = (tmp_path / f"{n}.mp4" for n in ("empty", "text", "loop"))
    empty.write_bytes(b"")
    text.write_text("not a video")
    loop.symlink_to(loop)
    none = tmp_path / "none"
    none.mkdir()
    dot = write_video(
        tmp_path / "dot.mov", [np.zeros((1, 1, 3), np.uint8)], codec="png", pix_fmt="rgb24"
    )
    video = write_video(tmp_path / "v.mp4", shot(1, 12, *SIZE))
    mixed = write_frames(tmp_path / "mixed", [*shot(1, 9, *SIZE), texture(1, 96, 160)])
    assert bench.reason(empty) is Reason.EMPTY
    assert bench.reason(text) is Reason.NOT_VIDEO
    assert bench.reason(loop) is Reason.UNREADABLE
    assert bench.reason(none) is Reason.EMPTY
    assert bench.reason(dot) is Reason.UNSUPPORTED
    assert bench.reason(mixed) is Reason.UNSUPPORTED
    assert bench.reason(write_audio(tmp_path / "a.mp4")) is Reason.NOT_VIDEO
    assert bench.reason(video, "max_pixels=10000") is Reason.TOO_LARGE
    assert bench.reason(video, "max_frames=11") is Reason.TOO_LARGE
    assert len(bench.ingest(video, "max_frames=12")) == 1


def test_same_source_same_bytes_and_nothing_of_before_remains(tmp_path: Path, bench: Bench) -> None:
    path = write_video(tmp_path / "v.mp4", shot(1, 15, *SIZE) + shot(2, 15, *SIZE))
    bench.ingest(path)
    first = bench.digests()
    for name in ("clip-000", "clip-001"):
        bench.scene(name).rgb(99).write_bytes(b"left over")
    bench.ingest(path)
    assert bench.digests() == first


def test_an_encoder_that_fails_leaves_nothing(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "v.mp4", shot(1, 30, *SIZE))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "write_jpeg", full)
    with pytest.raises(OSError, match="No space"):
        bench.ingest(path)
    assert bench.digests() == {}
    assert not (bench.root / ".ingest").exists()


def test_a_killed_ingest_leaves_no_scene_and_the_next_starts_clean(
    tmp_path: Path, bench: Bench
) -> None:
    path = write_video(tmp_path / "v.mp4", shot(1, 15, *SIZE) + shot(2, 15, *SIZE))
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[3])\n"
        "from pathlib import Path\n"
        "from test_ingest import Bench, Recorder\n"
        "class Killer(Recorder):\n"
        "    def progress(self, done, total):\n"
        "        if done == 25: os.kill(os.getpid(), 9)\n"
        "Bench(Path(sys.argv[2]), Killer()).ingest(Path(sys.argv[1]))\n"
    )
    arguments = [str(path), str(bench.root), str(Path(__file__).parent)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert done.returncode == -9
    assert all(name.startswith(".ingest/") for name in bench.digests())
    assert bench.digests() != {}
    assert len(bench.ingest(path)) == 2
    assert not any(name.startswith(".ingest") for name in bench.digests())


def test_names_of_shots() -> None:
    assert stage.shot_name("a", 0, 1) == "a"
    assert stage.shot_name("a", 7, 12) == "a-007"
    assert stage.shot_name("a", 7, 2000) == "a-0007"
    long = stage.shot_name("x" * MAX_NAME, 3, 9)
    assert len(long) == MAX_NAME
    assert long.endswith("x-003")


def test_settings_enter_the_key_but_not_what_others_do_with_a_verdict() -> None:
    def of(*overrides: str) -> dict[str, object]:
        return dict(stage.settings(configuration.load(overrides=overrides)))

    assert of("ingest.filter.on_reject=process") == of()
    for change in ("ingest.max_side=640", "ingest.filter.min_motion=0.1", "ingest.fps=5"):
        assert of(change) != of()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Peak resident memory of an ingest in its own process, 100 against 1000 frames."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[3])\n"
        "from pathlib import Path\n"
        "from test_ingest import Bench\n"
        "Bench(Path(sys.argv[2])).ingest(Path(sys.argv[1]))\n"
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(l.split()[1] for l in lines if l.startswith('VmHWM')))\n"
    )
    base = shot(1, 100, 192, 128, step=1.0)
    peaks = []
    for repeats in (1, 10):
        path = write_video(
            tmp_path / f"{repeats}.mp4", (base + base[::-1]) * (repeats // 2) or base
        )
        arguments = [str(path), str(tmp_path / f"out{repeats}"), str(Path(__file__).parent)]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    # 900 more frames of 74 kB would be 66 MB
    assert peaks[1] - peaks[0] < 20, peaks
