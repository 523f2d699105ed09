"""Install torch for a machine that will never have a GPU: the CPU-TEST VARIANT of the images.

The published wheel links CUDA libraries of 3 GB that a CPU never calls. Here the CUDA runtime
and CUPTI are installed for real (loading torch calls them) and every other missing library is
a shared object of empty functions with the right names and versions. For tests on small disks only.

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
CUDA_PREFIXES = ("cu", "nccl", "nv")  # of the functions of the libraries left out
Symbols = dict[str, set[str]]  # symbol version ("" = none) → names
NEVER_READ = ("torch/include", "torch/test", "torch/share")


def main(lock: Path, target: Path) -> None:
    install(lock, target)
    for folder in NEVER_READ:
        shutil.rmtree(target / folder, ignore_errors=True)
    libraries = [p for p in target.rglob("*.so*") if p.is_file()]
    present = {p.name for p in target.rglob("*.so*")} | system_libraries()
    for name, symbols in sorted(missing(libraries, present).items()):
        write_empty_library(target / "torch" / "lib" / name, symbols)


def install(lock: Path, target: Path) -> None:
    """Install the locked requirements, hashes checked, without the CUDA ones."""
    entries = re.split(r"\n(?=[A-Za-z])", lock.read_text())
    kept = [e for e in entries if not e.startswith(("#", *UNUSED)) or e.startswith(REAL)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(kept))
        file.flush()
        options = ["--no-deps", "--require-hashes", "--target", str(target)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "-r", file.name], check=True
        )


def system_libraries() -> set[str]:
    """The names that the dynamic loader finds by itself."""
    listing = output_of("/sbin/ldconfig", "-p")
    return set(re.findall(r"^\s+(\S+) ", listing, re.MULTILINE))


def missing(libraries: list[Path], present: set[str]) -> dict[str, Symbols]:
    """For every library that is needed and not there: version → the functions asked of it."""
    wanted: dict[str, Symbols] = {}
    owners: dict[str, str] = {}  # version → library
    for library in libraries:
        text = output_of("readelf", "-W", "-d", str(library))
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", text):
            if name not in present:
                wanted.setdefault(name, {})
        text = output_of("readelf", "-W", "-V", str(library))
        for block in re.split(r"Version: \d+\s+File: ", text)[1:]:
            name = block.split()[0]
            for version in re.findall(r"Name: (\S+)", block) if name in wanted else ():
                wanted[name].setdefault(version, set())
                owners[version] = name
    defined, unversioned = set[str](), set[str]()
    for library in libraries:
        for line in output_of("readelf", "-W", "--dyn-syms", str(library)).splitlines():
            fields = line.split()
            if len(fields) < 8 or fields[4] not in ("GLOBAL", "WEAK"):
                continue
            symbol, _, version = fields[7].partition("@")
            if fields[6] != "UND":
                defined.add(symbol)
            elif version in owners:
                wanted[owners[version]][version].add(symbol)
            elif not version and symbol.startswith(CUDA_PREFIXES):
                unversioned.add(symbol)
    for symbols in wanted.values():
        if not symbols:  # which library an unversioned symbol comes from is nowhere said
            symbols[""] = unversioned - defined
    return wanted


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_empty_library(path: Path, symbols: Symbols) -> None:
    """A shared object whose functions do nothing, to satisfy the loader."""
    with tempfile.TemporaryDirectory() as folder:
        script, source = Path(folder) / "versions", Path(folder) / "empty.c"
        versions = {version: names for version, names in sorted(symbols.items()) if version}
        script.write_text(
            "".join(
                f"{version} {{ {'global: ' + '; '.join(sorted(names)) + ';' if names else ''} }};\n"
                for version, names in versions.items()
            )
        )
        every = sorted({name for names in symbols.values() for name in names})
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in every))
        options = [f"-Wl,--version-script={script}"] if versions else []
        command = ["gcc", "-shared", "-w", "-fno-builtin", "-nostdlib", f"-Wl,-soname,{path.name}"]
        subprocess.run([*command, *options, "-o", str(path), str(source)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
