"""`synth`: rendered clips with exact truth."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamicverse.cli.console import print_json, print_table
from dynamicverse.errors import ConfigError

if TYPE_CHECKING:
    from dynamicverse.synthetic.scenes import Recipe


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write clips/ and truth/ into.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="walk, orbit, dolly, rotation, static, articulated, deforming, fast, plain, "
            "zoom; may be given more than once. All if not given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another scene.")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="Length of a clip.")] = 60,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the frames, px.")] = "640x384",
    objects: Annotated[
        int | None, typer.Option(min=0, help="Things that move; the kind's own if not given.")
    ] = None,
    noise: Annotated[float, typer.Option(min=0, help="Of the pictures, grey levels.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Render clips with exact cameras, depth, masks, flow, tracks and object poses.

    Feed `OUT/clips` to `dynamicverse run`; compare with `OUT/truth` by `dynamicverse evaluate`.
    The same arguments give the same bytes.
    """
    from dynamicverse.synthetic.rays import require_embree
    from dynamicverse.synthetic.scenes import KINDS, Recipe
    from dynamicverse.synthetic.writer import check

    require_embree()
    recipes = [
        Recipe(k, seed, frames, _size(size), objects, noise)  # type: ignore[arg-type]
        for k in kind or KINDS
    ]
    for recipe in recipes:
        check(recipe)
    rows = [_render(out, recipe, quiet=json) for recipe in recipes]
    if json:
        print_json(rows)
    else:
        print_table(("clip", "frames", "folder", "truth"), [tuple(r.values()) for r in rows])


def _render(out: Path, recipe: Recipe, quiet: bool) -> dict[str, object]:
    from dynamicverse.synthetic.writer import write_clip

    def progress(done: int, total: int) -> None:
        if not quiet and sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{recipe.kind}: {done} of {total} frames", end=end, file=sys.stderr)

    layout = write_clip(out, recipe, progress)
    return {
        "name": layout.name,
        "frames": recipe.frames,
        "clip": str(layout.clip),
        "truth": str(layout.scene.folder),
    }


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if found is None:
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT, e.g. 640x384")
    return int(found[1]), int(found[2])
