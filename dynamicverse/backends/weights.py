"""Pretrained weights: which file at which revision, under which licence, and where it lies.

Nothing is downloaded while a stage runs: `dynamicverse weights pull` does that beforehand, into
the cache of the Hugging Face hub (`HF_HOME`; a volume on a cluster), and the backends only look.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamicverse.errors import ConfigError, MissingModelError

MAIN = "main"  # a branch, for want of a commit that could be verified


@dataclass(frozen=True)
class File:
    """sha256: its hexadecimal digits, or the first of them; empty where only the hub has them.

    bytes: 0 where only the hub knows.
    """

    name: str
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Weights:
    """One set of weights. source: a hub repository, or the URL below which the files lie.

    revision: the commit of the repository; for a URL the checksum is the pin. files: none means
    the whole repository; which files that is, a pull writes down.
    """

    name: str
    backend: str
    source: str
    revision: str
    licence: str
    files: tuple[File, ...]

    @property
    def on_hub(self) -> bool:
        return "://" not in self.source

    @property
    def pinned(self) -> bool:
        return self.revision != MAIN

    @property
    def size(self) -> str:
        """As far as it is known without asking the hub."""
        total = sum(file.bytes for file in self.files)
        return f"{total / 1e9:.2f} GB" if total else "size: see the hub"


def _depth_anything(variant: str, revision: str, sha256: str, size: int) -> Weights:
    scene, model = variant.split("-")
    return Weights(
        f"depth_anything-{variant}",
        "depth_anything",
        f"depth-anything/Depth-Anything-V2-Metric-{scene.title()}-{model.title()}-hf",
        revision,
        "Apache-2.0" if model == "small" else "CC-BY-NC-4.0",
        (
            File("config.json"),
            File("preprocessor_config.json"),
            File("model.safetensors", sha256, size),
        ),
    )


def _released(name: str, backend: str, file: str, url: str, licence: str) -> Weights:
    """A file whose name ends with the first digits of its SHA-256."""
    digits = file.rpartition("-")[2].partition(".")[0]
    return Weights(name, backend, url, digits, licence, (File(file, digits),))


_PTLFLOW = "https://github.com/hmorimitsu/ptlflow/releases/download/weights1"

REGISTRY: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            "unidepth",
            "unidepth",
            "lpiccinelli/unidepth-v2-vitl14",
            "52b349b514bd8b47642f67ac78cb7b5dc5c51dd9",
            "CC-BY-NC-4.0",
            (
                File("config.json"),
                File(
                    "model.safetensors",
                    "ba73d3de735302ccc64a50f1e557122050c4b1893e6060b28dba05d6af3e67c6",
                ),
            ),
        ),
        _depth_anything(
            "outdoor-small",
            "fd2c22027eaf20374204f14099b8341e1925ad39",
            "ad065c77a7421ca55159a1f0db9433397a607690f2d76bb8a6fc54b1be7a3124",
            99_173_660,
        ),
        _depth_anything(
            "indoor-small",
            "8078d68a9c75a972131914f6afd0c1723be0da7f",
            "e990eb82fbf11b05b7813261196a2b841bdcf5a05f64396724a8987fa90504a3",
            99_173_660,
        ),
        _depth_anything(
            "outdoor-large",
            "4eab4cf1983c2801c515804005214de56a4b67cc",
            "15f7de4b22f1b1194847ea694ee9ed6395563ba5cd52b70b87901f183c232c9a",
            0,
        ),
        _depth_anything(
            "indoor-large",
            "d2fc6a93601aabb1139a3bf0ebfcb4e89c67817f",
            "04d3295ff4f9cbee72b8998a85930fe870b45ba4431e7af47415fbded02388ca",
            0,
        ),
        Weights(
            "depth_pro",
            "depth_pro",
            "apple/DepthPro-hf",
            MAIN,
            "apple-amlr (research only)",
            (
                File("config.json"),
                File("preprocessor_config.json"),
                File("model.safetensors"),
            ),
        ),
        _released(
            "raft",
            "raft",
            "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
            "https://download.pytorch.org/models",
            "BSD-3-Clause",
        ),
        _released(
            "unimatch",
            "unimatch",
            "unimatch_scale2_refine6-mixdata-398760b1.ckpt",
            _PTLFLOW,
            "Apache-2.0",
        ),
        _released("gmflow", "gmflow", "gmflow_refine-sintel-ee46a2c4.ckpt", _PTLFLOW, "Apache-2.0"),
        Weights(
            "cotracker3",
            "cotracker3",
            "facebook/cotracker3",
            "bf55ea50d4390e1820a267f131cd6587240fb2c5",
            "CC-BY-NC-4.0",
            (
                File(
                    "scaled_offline.pth",
                    "2670d4562ed69326dda775a26e54883925cd11b6fc9b24cb7aa9f8078bce7834",
                    101_890_938,
                ),
                File(
                    "scaled_online.pth",
                    "205d34789f19699d64b22cf93f9b697f15f28d4025240e31532e504109837218",
                    101_695_610,
                ),
            ),
        ),
        Weights(
            "sam2",
            "sam2",
            "facebook/sam2.1-hiera-large",
            "665f8e2ad61cf5f53d65644ff27c8ee525124610",
            "Apache-2.0",
            (
                File(
                    "config.json",
                    "00446988cf4d617118d2d347eabe2c46aebed744628facdd540508be30b69ec3",
                    5_705,
                ),
                File(
                    "model.safetensors",
                    "dc407dce21301fd94abb395c5099b4f2c455fdc8a8f261ac3d0ea6d4cd197230",
                    897_897_416,
                ),
            ),
        ),
        Weights(
            "sam3",
            "sam3",
            "facebook/sam3",
            "3c879f39826c281e95690f02c7821c4de09afae7",
            "SAM License (no military, nuclear or weapons use; gated)",
            (
                File("config.json"),
                File("processor_config.json"),
                File("tokenizer.json"),
                File("tokenizer_config.json"),
                File("special_tokens_map.json"),
                File("vocab.json"),
                File("merges.txt"),
                File(
                    "model.safetensors",
                    "6d06f0a5f84e435071fe6603e61d0b4cc7b40e0d39d487cfd4d67d8cc11cc14a",
                    3_439_938_512,
                ),
            ),
        ),
        Weights("sa2va", "sa2va", "ByteDance/Sa2VA-8B", MAIN, "MIT", ()),
        Weights(
            "dam", "dam", "nvidia/DAM-3B-Video", MAIN, "NVIDIA non-commercial (research only)", ()
        ),
    )
}


def chosen(names: list[str]) -> list[Weights]:
    """Weights by their names or their backends' names; all for none. Raises ConfigError."""
    if not names:
        return list(REGISTRY.values())
    found: dict[str, Weights] = {}
    for name in names:
        named = [w for w in REGISTRY.values() if name in (w.name, w.backend)]
        if not named:
            near = difflib.get_close_matches(name, REGISTRY, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"no weights '{name}'{hint} (known: {', '.join(sorted(REGISTRY))})")
        found |= {weights.name: weights for weights in named}
    return list(found.values())


def home() -> Path:
    """Where weights lie: HF_HOME, as for every program that uses the hub."""
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


def revision(weights: Weights) -> str:
    """The commit of the files here; of a branch, the one that it stood at when they were pulled."""
    if weights.pinned:
        return weights.revision
    branch = hub_repository(weights) / "refs" / MAIN
    return branch.read_text("utf-8").strip() if branch.is_file() else MAIN


def located(weights: Weights, file: File, folder: Path | None = None) -> Path | None:
    """The file on this machine, or None; asks no network and needs no client of the hub."""
    if weights.on_hub:
        repository = hub_repository(weights, folder)
        commit = weights.revision
        if not weights.pinned:
            branch = repository / "refs" / MAIN
            commit = branch.read_text("utf-8").strip() if branch.is_file() else MAIN
        path = repository / "snapshots" / commit / file.name
    else:
        path = released_path(file, folder)
    return path if path.is_file() else None


def paths(weights: Weights) -> list[Path]:
    """The files of the weights, in their order; raises MissingModelError where one is absent."""
    if not weights.files:
        weights = replace(weights, files=pulled(weights))
    found = [located(weights, file) for file in weights.files]
    missing = [f.name for f, path in zip(weights.files, found, strict=True) if path is None]
    if missing or not found:
        lacks = ", ".join(missing[:5]) or "all files"
        raise MissingModelError(
            f"backend '{weights.backend}' lacks {lacks} of {weights.source}"
            f"@{weights.revision[:12]} ({weights.licence}; {weights.size}); "
            f"run `dynamicverse weights pull {weights.name}`, or set HF_HOME to where they are"
        )
    return [path for path in found if path is not None]


def folder(weights: Weights) -> Path:
    """The folder that holds all files of the weights; raises MissingModelError."""
    found = paths(weights)
    if weights.on_hub:
        return hub_repository(weights) / "snapshots" / revision(weights)
    return found[0].parent


def pulled(weights: Weights, folder: Path | None = None) -> tuple[File, ...]:
    """The files of a whole repository as the last finished pull wrote them down; else none."""
    path = pulled_list(weights, folder)
    names = json.loads(path.read_text("utf-8")) if path.is_file() else []
    return tuple(File(str(name)) for name in names)


def pulled_list(weights: Weights, folder: Path | None = None) -> Path:
    """Where the list of a whole repository's files lies."""
    return hub_repository(weights, folder) / "dynamicverse-files.json"


def present(weights: Weights, folder: Path | None = None) -> bool:
    """Whether all files are on this machine."""
    files = weights.files or pulled(weights, folder)
    return bool(files) and all(located(weights, file, folder) for file in files)


def client() -> Any:
    """The hub's client library; raises MissingModelError."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingModelError(
            "weights need the package huggingface_hub; install it: pip install 'dynamicverse[gpu]'"
        ) from error
    return huggingface_hub


def hub_cache(folder: Path | None = None) -> Path:
    """Where the hub's client keeps repositories; `folder` takes the place of HF_HOME."""
    if folder is not None:
        return folder / "hub"
    return Path(os.environ.get("HF_HUB_CACHE") or home() / "hub")


def hub_repository(weights: Weights, folder: Path | None = None) -> Path:
    """Where the hub's client keeps this repository."""
    return hub_cache(folder) / f"models--{weights.source.replace('/', '--')}"


def released_path(file: File, folder: Path | None = None) -> Path:
    """Where a file from a plain URL lies."""
    return (folder or home()) / "released" / file.name
