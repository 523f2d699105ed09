"""Build the project's images with podman or docker, and save them for a cluster without a registry.

    python images/build_images.py [--tag TAG] [--base-image NAME] [--torch cuda|cpu-test]
                                  [--archive FILE] [-- BUILD-OPTION…]

Builds every target of images/Dockerfile as `localhost/dynamicverse/<target>:<tag>`; with --archive
it saves them all in one file. To publish, with SBOM and provenance, use docker-bake.hcl.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = (
    "control", "ingest", "keyframes", "analysis", "segmentation", "tracks", "depth",
    "reconstruction", "captions", "report",
)  # fmt: skip
PREFIX = "localhost/dynamicverse"


def names(tag: str, prefix: str = PREFIX) -> list[str]:
    """The images' names."""
    return [f"{prefix}/{target}:{tag}" for target in TARGETS]


def builder() -> str:
    """podman or docker, whichever is there."""
    for program in ("podman", "docker"):
        if found := shutil.which(program):
            return found
    raise SystemExit("neither podman nor docker is installed")


def build(tag: str, base_image: str | None, torch: str, options: Sequence[str]) -> None:
    """Build every target; the later ones find the common layers in the cache.

    The stage with torch is built once and named: to find it in the cache, podman reads all of
    its files again, for every target that stands on it.
    """
    arguments = [f"--build-arg=TORCH={torch}"]
    if base_image:
        arguments.append(f"--build-arg=BASE_IMAGE={base_image}")
    torch_base = f"{PREFIX}/torch:{tag}"
    for target, name in (("torch", torch_base), *zip(TARGETS, names(tag), strict=True)):
        start = time.monotonic()
        command = [builder(), "build", "--target", target, "--tag", name, *arguments, *options]
        file = str(ROOT / "images" / "Dockerfile")
        done = subprocess.run(
            [*command, "--file", file, str(ROOT)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{shlex.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        if target == "torch":
            arguments.append(f"--build-arg=TORCH_BASE={torch_base}")
        print(f"built {name} in {time.monotonic() - start:.0f} s", flush=True)


def save(tag: str, archive: Path) -> None:
    """All images in one archive, common layers once."""
    archive.unlink(missing_ok=True)
    program = builder()
    several = ["--quiet", "--multi-image-archive"] if program.endswith("podman") else []
    subprocess.run([program, "save", *several, "--output", str(archive), *names(tag)], check=True)
    print(f"saved {archive} ({archive.stat().st_size / 1e9:.2f} GB)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--base-image")
    parser.add_argument("--torch", default="cuda", choices=["cuda", "cpu-test"])
    parser.add_argument("--archive", type=Path)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given = parser.parse_args(sys.argv[1:end])
    build(given.tag, given.base_image, given.torch, sys.argv[end + 1 :])
    if given.archive:
        save(given.tag, given.archive)


if __name__ == "__main__":
    main()
