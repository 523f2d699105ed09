"""`weights pull|list`: the pretrained weights of the neural backends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamicverse.cli.console import print_json, print_table

app = typer.Typer(
    help="Pretrained weights: what there is, under which licence, and download it.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder", "--to", help="Folder or volume in place of HF_HOME; stages need it too."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_(folder: Folder = None, json: Json = False) -> None:
    """The registered weights, and which are on this machine."""
    from dynamicverse.backends import weights

    rows = [
        {
            "name": one.name,
            "source": one.source,
            "revision": one.revision,
            "licence": one.licence,
            "bytes": sum(file.bytes for file in one.files) or None,
            "here": weights.present(one, folder),
        }
        for one in weights.REGISTRY.values()
    ]
    if json:
        print_json(rows)
        return
    shown = [
        (
            r["name"],
            r["source"],
            str(r["revision"])[:12],
            r["licence"],
            "yes" if r["here"] else "no",
        )
        for r in rows
    ]
    print_table(("name", "source", "revision", "licence", "here"), shown)


def _of_preset(preset: str) -> list[str]:
    """The weights that a preset's backends load from this machine."""
    from dynamicverse import config
    from dynamicverse.backends import weights

    chosen = config.load(preset)
    used = {
        chosen.keyframes.flow_model,
        chosen.segmentation.backend,
        chosen.tracks.backend,
        chosen.depth.backend,
        chosen.captions.backend,
    }
    return [one.name for one in weights.REGISTRY.values() if one.backend in used]


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Backends or weights; see `weights list`.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Also what the backends of this preset need.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Download weights and check them; the same command continues a broken download.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
    """
    from dynamicverse.backends import downloads, weights
    from dynamicverse.errors import ConfigError

    if not names and preset is None:
        raise ConfigError("name weights or backends (see `weights list`), or give --preset")
    asked = [*(names or []), *(_of_preset(preset) if preset else [])]
    wanted = weights.chosen(asked) if asked else []  # a preset may need none
    missing = [one for one in wanted if not weights.present(one, folder)]
    found = {one.name: downloads.described(one) for one in missing}
    total = 0
    for one in wanted:
        size = sum(file.bytes for file in found.get(one.name, one).files)
        total += size if one.name in found else 0
        state = f"{size / 1e6:.1f} MB to download" if one.name in found else "here"
        pin = one.revision[:12] if one.pinned else "not pinned: the branch main"
        print(f"{one.name}: {one.source}@{pin}, {one.licence}: {state}")
    print(f"{total / 1e6:.1f} MB to download to {folder or weights.home()}", flush=True)
    for one in wanted:
        known = found.get(one.name, one)
        downloads.pull(known, folder, lambda file, one=one: print(f"{one.name}: {file.name} …"))  # type: ignore[misc]
        print(f"{one.name}: checked", flush=True)
