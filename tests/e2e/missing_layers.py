"""Images of podman as one OCI archive, without the layers that a containerd has already.

    python missing_layers.py BLOBS NAME:TAG… | ctr images import -

BLOBS is the folder of containerd's content store. A code change then costs one layer an image.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

LAYERS = ["podman", "image", "inspect", "--format", "{{json .RootFS.Layers}}"]
SAVE = ["podman", "save", "--quiet", "--format", "oci-dir", "--uncompressed", "--output"]


def main(blobs: Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        folder = Path(temporary)
        own = folder / "blobs" / "sha256"
        own.mkdir(parents=True)
        listed = subprocess.run([*LAYERS, *names], stdout=subprocess.PIPE, text=True, check=True)
        for line in set(listed.stdout.splitlines()):
            for layer in json.loads(line):
                there = blobs / layer.removeprefix("sha256:")
                if there.exists() and not (own / there.name).is_symlink():
                    (own / there.name).symlink_to(there)  # podman writes no blob that is there
        for name in names:
            subprocess.run([*SAVE, str(folder), name], stdout=subprocess.DEVNULL, check=True)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.add(path, path.relative_to(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
