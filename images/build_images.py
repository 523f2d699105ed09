"""Build the project's images with podman or docker, and save them for a cluster without a registry.

    python images/build_images.py [--tag TAG] [--base-image NAME] [--torch cuda|cpu-test]
                                  [--archive FILE] [-- BUILD-OPTION…]

Builds every target of images/Dockerfile as `localhost/dynamicverse/<target>:<tag>`; with --archive
it saves them all in one file. To publish, with SBOM and provenance, use docker-bake.hcl.
"""

from __future__ import annotations

import argparse
import hashlib
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
SHARED = ("core", "torch", "package")  # the later ones stand on the first
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
    """Build every target. What they share is built once and named, because to find a stage in
    its cache podman goes through the stage's steps again for every target that stands on it."""
    arguments = [f"--build-arg=TORCH={torch}"]
    if base_image:
        arguments.append(f"--build-arg=BASE_IMAGE={base_image}")
    made_from = f"{PREFIX}/torch:{_inputs(arguments, base_image)}"
    for target in SHARED:
        name = f"{PREFIX}/{target}:{tag}"
        if target == "torch" and _image_id(made_from):  # podman would read 2 GB to find it
            _run(builder(), "tag", made_from, name)
        else:
            _build(target, name, [*arguments, *options])
        arguments.append(f"--build-arg={target.upper()}_BASE={name}")
    _run(builder(), "tag", f"{PREFIX}/torch:{tag}", made_from)
    for target, name in zip(TARGETS, names(tag), strict=True):
        _build(target, name, [*arguments, *options])


def _image_id(name: str) -> str:
    """Empty if there is no such image."""
    command = [builder(), "image", "inspect", "--format", "{{.Id}}", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _inputs(arguments: Sequence[str], base_image: str | None) -> str:
    """A digest of all that decides what is in the image with torch."""
    files = [ROOT / "images" / "Dockerfile", ROOT / "images" / "cpu_test_torch.py"]
    files += sorted((ROOT / "images" / "locks").iterdir())
    base = _image_id(base_image) if base_image else ""
    found = hashlib.sha256(repr((arguments, base)).encode())
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _build(target: str, name: str, options: Sequence[str]) -> None:
    start = time.monotonic()
    file = str(ROOT / "images" / "Dockerfile")
    _run(builder(), "build", "--target", target, "--tag", name, *options, "--file", file, str(ROOT))
    print(f"built {name} in {time.monotonic() - start:.0f} s", flush=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


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
