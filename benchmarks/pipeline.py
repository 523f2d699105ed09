"""Speed and memory of the embedded pipeline on this machine.

Makes a clip of one shot at 854×480 from a real video (its longest shot, played forwards and
backwards), then measures through the command line:

- keyframes: frames a second of the stage that computes the flow (target 10 on two cores);
- pipeline: frames a second of all stages together (target 0.5);
- peak memory of every stage on a short and on a long clip (target 2 GB, flat in the length
  but for the tracks and points of the reconstruction);
- again: seconds of a second run over the finished scene (target 3).

    python benchmarks/pipeline.py --clip build/bikes.mp4
    python benchmarks/pipeline.py --clip build/bikes.mp4 --short 4 --long 60
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import cv2
import numpy as np

from dynamicverse import stages
from dynamicverse.formats.manifest import Manifest
from dynamicverse.scene import Scene

SIZE = (854, 480)
RATE = 30


def longest_shot(clip: Path, folder: Path) -> list[np.ndarray]:
    """The frames of the longest shot, as the ingest stage finds it; RGB at SIZE."""
    command = [sys.executable, "-m", "dynamicverse", "run", str(clip), "--out", str(folder)]
    done = subprocess.run(
        [*command, "--stages", "ingest", "--json"], capture_output=True, check=True
    )
    shots = json.loads(done.stdout)["scenes"]
    longest = max(shots, key=lambda s: s["frames"])
    scene = Scene(folder, "clips", longest["name"])
    frames = [cv2.imread(str(scene.rgb(i))) for i in range(longest["frames"])]
    return [cv2.resize(f, SIZE, interpolation=cv2.INTER_CUBIC)[..., ::-1] for f in frames]


def write_clip(frames: list[np.ndarray], seconds: float, target: Path) -> None:
    """Play the frames to and fro for so many seconds; H.264 of high quality."""
    to_and_fro = frames + frames[-2:0:-1]
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in islice(cycle(to_and_fro), int(seconds * RATE)):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def measure(clip: Path, out: Path) -> tuple[dict[str, Manifest], float, float]:
    """Run a clip twice; the manifests, wall seconds of the first and of the second run."""
    command = [sys.executable, "-m", "dynamicverse", "run", str(clip), "--out", str(out)]
    walls = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([*command, "--set", "ingest.split_shots=false"], check=True)
        walls.append(time.perf_counter() - start)
    scene = Scene(out, "clips", clip.stem)
    manifests = {
        name: Manifest.model_validate_json(scene.manifest(name).read_bytes())
        for name in stages.NAMES
    }
    return manifests, walls[0], walls[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clip", type=Path, required=True, help="a real video")
    parser.add_argument("--short", type=float, default=4, help="seconds of the short clip")
    parser.add_argument("--long", type=float, default=0, help="seconds of the long clip (60)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = longest_shot(arguments.clip, folder / "shots")
        lengths = [arguments.short] + ([arguments.long] if arguments.long else [])
        results = []
        for seconds in lengths:
            clip = folder / f"clip-{seconds:g}.mp4"
            write_clip(frames, seconds, clip)
            results.append(measure(clip, folder / "out"))
    for seconds, (manifests, first, second) in zip(lengths, results, strict=True):
        count = manifests["ingest"].frames
        print(f"\n{seconds:g} s of {SIZE[0]}×{SIZE[1]} at {RATE}/s: {count} frames")
        print(f"{'stage':16}{'seconds':>10}{'frames/s':>10}{'peak MB':>10}")
        for stage, manifest in manifests.items():
            rate = count / manifest.seconds if manifest.seconds else float("inf")
            peak = manifest.peak_memory_bytes / 1e6
            print(f"{stage:16}{manifest.seconds:10.1f}{rate:10.1f}{peak:10.0f}")
        print(f"{'whole':16}{first:10.1f}{count / first:10.2f}")
        print(f"{'again':16}{second:10.1f}")


if __name__ == "__main__":
    main()
