"""Install torch for a machine that will never have a GPU: the CPU-TEST VARIANT of the images.

The published wheel links CUDA libraries of 3 GB that a CPU never calls. Here the CUDA runtime
and CUPTI are installed for real (loading torch calls them) and every other missing library is
an empty shared object with the right name and symbol versions. For tests on small disks only.

    python3 cpu_test_torch.py LOCK TARGET
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REAL = ("nvidia-cuda-runtime", "nvidia-cuda-cupti")
UNUSED = ("cuda-", "nvidia-", "setuptools", "triton")  # prefixes of locked names left out
NEVER_READ = ("torch/include", "torch/test", "torch/bin", "torch/share")


def main(lock: Path, target: Path) -> None:
    install(lock, target)
    for folder in NEVER_READ:
        shutil.rmtree(target / folder, ignore_errors=True)
    libraries = [p for p in (target / "torch").rglob("*.so*") if p.is_file()]
    present = {p.name for p in target.rglob("*.so*")} | system_libraries()
    for name, versions in sorted(missing(libraries, present).items()):
        write_empty_library(target / "torch" / "lib" / name, versions)


def install(lock: Path, target: Path) -> None:
    """Install the locked requirements, hashes checked, without the CUDA ones."""
    entries = re.split(r"\n(?=[A-Za-z])", lock.read_text())
    kept = [e for e in entries if not e.startswith(("#", *UNUSED)) or e.startswith(REAL)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(kept))
        file.flush()
        options = ["--no-deps", "--no-compile", "--require-hashes", "--target", str(target)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "-r", file.name], check=True
        )


def system_libraries() -> set[str]:
    """The names that the dynamic loader finds by itself."""
    listing = output_of("/sbin/ldconfig", "-p")
    return set(re.findall(r"^\s+(\S+) ", listing, re.MULTILINE))


def missing(libraries: list[Path], present: set[str]) -> dict[str, set[str]]:
    """Name → symbol versions of every library that is needed and not there."""
    wanted: dict[str, set[str]] = {}
    for library in libraries:
        text = output_of("readelf", "-W", "-d", str(library))
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", text):
            if name not in present:
                wanted.setdefault(name, set())
        for block in re.split(
            r"Version: \d+\s+File: ", output_of("readelf", "-W", "-V", str(library))
        )[1:]:
            name = block.split()[0]
            if name in wanted:
                wanted[name] |= set(re.findall(r"Name: (\S+)", block))
    return wanted


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_empty_library(path: Path, versions: set[str]) -> None:
    """A shared object without symbols that satisfies the loader."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "versions"
        script.write_text("".join(f"{version} {{ }};\n" for version in sorted(versions)))
        options = [f"-Wl,--version-script={script}"] if versions else []
        source = Path(folder) / "empty.c"
        source.write_text("")
        command = ["gcc", "-shared", "-nostdlib", f"-Wl,-soname,{path.name}", *options]
        subprocess.run([*command, "-o", str(path), str(source)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
