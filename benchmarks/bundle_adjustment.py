"""Our bundle adjustment against Ceres (pycolmap) and Adam, and its growth; all in one run.

The reference problem has 50 frames, 10,000 tracks and 321,000 observations (`ba_problems.py`).
Targets: at most 1.0 s on two CPU cores and 50 ms on one H200 after warm-up, an absolute
trajectory error of at most 0.0002, the focal length within 0.1 %, at least 50 times as fast as
Ceres and 200 times as fast as Adam, and a time that grows no faster than the observations.

    python benchmarks/bundle_adjustment.py                     # all of it; Adam takes minutes
    python benchmarks/bundle_adjustment.py --only ours,growth
    python benchmarks/bundle_adjustment.py --device cuda       # ours on the GPU, against the CPU

Needs torch, NumPy and SciPy; pycolmap where Ceres takes part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where it is not installed

from ba_baselines import Run, adam, ceres
from ba_problems import FOCAL, FOCAL_OFF, Problem, make, reference

from dynamicverse.dynamicba.bundle.solver import FocalPrior, Options, Solution, solve

OPTIONS = Options("huber", 1.5, FocalPrior((1 + FOCAL_OFF) * FOCAL, 10.0))
PARTS = ("ours", "ceres", "adam", "growth")
FRAMES = (25, 50, 100, 250, 500, 1000, 2000)  # with 20 tracks a frame, about 30 frames long
NEAR = 0.3  # how far the start of these is off: long clips start from a map of keyframes
TRACKS = (1250, 2500, 5000, 10_000, 20_000)  # at 50 frames
REPEATS = 5
TARGETS = {
    "seconds": {"cpu": 1.0, "cuda": 0.05},
    "ate": 2e-4,
    "focal": 1e-3,
    "ceres": 50,
    "adam": 200,
}


@dataclass(frozen=True)
class Row:
    """One solver on one problem. seconds: wall; cpu_seconds: of the process, all threads."""

    solver: str
    frames: int
    tracks: int
    observations: int
    iterations: int
    seconds: float
    cpu_seconds: float
    ate: float
    focal_error: float


def timed(work: Callable[[], Solution], repeats: int) -> tuple[Solution, float, float]:
    """The result, and the median wall and CPU seconds."""
    walls, busy = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        walls.append(time.perf_counter() - wall)
        busy.append(time.process_time() - cpu)
    return found, statistics.median(walls), statistics.median(busy)


def row(name: str, problem: Problem, run: Run, cpu_seconds: float) -> Row:
    return Row(
        name,
        len(problem.start.t_F3),
        len(problem.start.points_N3),
        len(problem.observations),
        run.iterations,
        run.seconds,
        cpu_seconds,
        problem.ate(run.structure),
        run.structure.focal / FOCAL - 1,
    )


def ours(problem: Problem, device: str, repeats: int, warm_up: int = 3) -> tuple[Row, Solution]:
    """Ours from arrays to arrays: layout, transfers and all."""
    options = replace(OPTIONS, device=device)

    def work() -> Solution:
        return solve(problem.start, problem.observations, problem.free_F6, options)

    for _ in range(warm_up):
        work()
    found, seconds, busy = timed(work, repeats)
    run = Run(found.structure, seconds, found.iterations)
    return row(f"ours ({device})", problem, run, busy), found


def other(name: str, problem: Problem, solver: Callable[[Problem], Run]) -> Row:
    cpu = time.process_time()
    run = solver(problem)
    return row(name, problem, run, time.process_time() - cpu)


def growth(device: str) -> list[Row]:
    """Ours over frames and over tracks."""
    rows = []
    for frames in FRAMES:
        rows.append(ours(make(frames, 20 * frames, 32, off=NEAR), device, 1, 0)[0])
        print_rows(rows[-1:], header=frames == FRAMES[0])
    for tracks in TRACKS:
        rows.append(ours(make(50, tracks, 52), device, 3)[0])
        print_rows(rows[-1:], header=False)
    return rows


def slope(rows: list[Row]) -> float:
    """The exponent of the observations with which the time an iteration grows."""
    M = np.log([r.observations for r in rows])
    seconds = np.log([r.cpu_seconds / max(r.iterations, 1) for r in rows])
    return float(np.polyfit(M, seconds, 1)[0])


def agreement(first: Solution, second: Solution) -> dict[str, float]:
    """How far two solutions are apart."""
    a, b = first.structure, second.structure
    return {
        "cost": abs(second.cost / first.cost - 1),
        "focal": abs(b.focal / a.focal - 1),
        "translation": float(np.abs(a.t_F3 - b.t_F3).max()),
        "rotation": float(np.abs(a.R_F33 - b.R_F33).max()),
        "points": float(np.median(np.abs(a.points_N3 - b.points_N3))),
    }


def print_rows(rows: list[Row], header: bool = True) -> None:
    if header:
        print(
            f"{'solver':13}{'frames':>7}{'tracks':>8}{'observations':>13}{'iterations':>11}"
            f"{'seconds':>10}{'CPU s':>9}{'ATE':>10}{'focal %':>9}"
        )
    for r in rows:
        print(
            f"{r.solver:13}{r.frames:7}{r.tracks:8}{r.observations:13}{r.iterations:11}"
            f"{r.seconds:10.3f}{r.cpu_seconds:9.2f}{r.ate:10.6f}{100 * r.focal_error:9.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--adam-iterations", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {','.join(PARTS)}")
    problem, cores = reference(), len(os.sched_getaffinity(0))
    print(f"{cores} CPU cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    if arguments.device == "cuda":
        print(torch.cuda.get_device_name())
    rows: list[Row] = []
    report: dict[str, object] = {"cores": cores, "load": os.getloadavg(), "targets": TARGETS}
    mine, found = ours(problem, arguments.device, REPEATS)
    rows.append(mine)
    if arguments.device == "cuda":
        on_cpu, by_cpu = ours(problem, "cpu", 3)
        rows.append(on_cpu)
        report["agreement"] = agreement(by_cpu, found)
    if "ceres" in parts:
        rows.append(other("Ceres", problem, lambda p: ceres(p, cores)))
    if "adam" in parts:
        device, steps = arguments.device, arguments.adam_iterations
        rows.append(other("Adam", problem, lambda p: adam(p, steps, device)))
    print_rows(rows)
    for r in rows[1:]:
        print(f"{r.solver}: {r.seconds / mine.seconds:.0f} × the time of {mine.solver}")
    for key, value in dict(report.get("agreement", {})).items():  # type: ignore[call-overload]
        print(f"largest difference of CPU and GPU, {key}: {value:.1e}")
    report["reference"] = [asdict(r) for r in rows]
    if "growth" in parts:
        print("\ngrowth")
        grown = growth(arguments.device)
        by_frames, by_tracks = slope(grown[: len(FRAMES)]), slope(grown[len(FRAMES) :])
        print(f"time an iteration ~ observations^{by_frames:.2f} over frames")
        print(f"time an iteration ~ observations^{by_tracks:.2f} over tracks")
        report |= {"growth": [asdict(r) for r in grown], "exponents": [by_frames, by_tracks]}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
