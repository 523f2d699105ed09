"""`evaluate poses|depth|masks|tracks|flow`: results against truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamicverse.cli.console import print_json, print_table
from dynamicverse.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from dynamicverse.formats.tracks import Tracks

app = typer.Typer(
    help="Compare results with truth by named protocols. ESTIMATE and TRUTH are scenes of an "
    "output tree (of `run`, `synth`), or files as each command says.",
    no_args_is_help=True,
)

Estimate = Annotated[Path, typer.Argument(help="What was computed.")]
Truth = Annotated[Path, typer.Argument(help="What is true.")]
Protocol = Annotated[str, typer.Option(help="The protocol; see docs/evaluation.md.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def poses(
    estimate: Estimate,
    truth: Truth,
    protocol: Protocol = "monst3r-pose",
    focal: Annotated[
        float | None, typer.Option(min=0, help="True focal length, px, if TRUTH does not tell.")
    ] = None,
    json: Json = False,
) -> None:
    """Camera poses: ATE, RPE; focal length where it is known.

    Scenes, poses.npz, or text with a line a frame: 12 or 16 numbers, or 8 as of TUM.
    Protocols: monst3r-pose, megasam-pose, metric-pose.
    """
    import numpy as np

    from dynamicverse.evaluation.cameras import focal_scores, pose_scores
    from dynamicverse.evaluation.files import read_cameras

    ours, theirs = read_cameras(estimate), read_cameras(truth)
    with _one_line(estimate, truth):
        scores = asdict(pose_scores(protocol, ours.c2w_F44, theirs.c2w_F44))
        true_focal = theirs.focal_F
        if focal is not None:
            true_focal = np.full(len(theirs.c2w_F44), focal)
        if ours.focal_F is not None and true_focal is not None:
            scores |= asdict(focal_scores(ours.focal_F, true_focal))
    _show(scores, json)


@app.command()
def depth(
    estimate: Estimate,
    truth: Truth,
    protocol: Protocol = "one-scale",
    region: Annotated[
        str, typer.Option(help="all, or static or moving pixels by the masks of the true scene.")
    ] = "all",
    json: Json = False,
) -> None:
    """Video depth: AbsRel, δ < 1.25.

    Scenes, or folders of EXR files or 16-bit PNG files in millimetres. Protocols: one-scale,
    per-frame, metric, uni4d-depth, monst3r-depth, cut3r-depth-scale (and -kitti of these two).
    """
    import numpy as np

    from dynamicverse.evaluation.depth import depth_scores
    from dynamicverse.evaluation.files import read_depth, read_masks

    if region not in ("all", "static", "moving"):
        raise ConfigError(f"--region {region}: expected all, static or moving")
    theirs = [np.zeros((0, 0)) if d is None else d for d in read_depth(truth)]
    ours = [np.zeros_like(t) if d is None else d for d, t in _paired(estimate, truth, theirs)]
    if region != "all":
        moving = read_masks(truth)
        with _one_line(estimate, truth):
            wanted = [(m > 0) == (region == "moving") for m in moving]
            theirs = [np.where(w, t, 0) for w, t in zip(wanted, theirs, strict=True)]
    with _one_line(estimate, truth):
        scores = depth_scores(protocol, list(zip(ours, theirs, strict=True)))
    _show(asdict(scores) | {"region": region}, json)


@app.command()
def masks(
    estimate: Estimate,
    truth: Truth,
    protocol: Protocol = "davis2017-unsupervised",
    json: Json = False,
) -> None:
    """Masks: region similarity J, boundary F, id switches, false foreground.

    Scenes, or folders of PNG files. Protocols: davis2016 (all instances together),
    davis2017-unsupervised (ids are matched).
    """
    from dynamicverse.evaluation.files import read_masks
    from dynamicverse.evaluation.regions import mask_scores

    ours, theirs = read_masks(estimate), read_masks(truth)
    with _one_line(estimate, truth):
        scores = mask_scores(protocol, ours, theirs)
    _show(asdict(scores), json)


@app.command()
def tracks(
    estimate: Estimate, truth: Truth, protocol: Protocol = "first", json: Json = False
) -> None:
    """Point tracks: TAP-Vid's δ_avg, average Jaccard, occlusion accuracy.

    Scenes or tracks.npz. Where TRUTH is a scene of `synth`, the truth is computed for the
    points that ESTIMATE has chosen; otherwise both must hold tracks of the same queries.
    Protocols: first, strided.
    """
    from dynamicverse.evaluation.files import track_file
    from dynamicverse.evaluation.tracking import held, track_scores
    from dynamicverse.formats import tracks as format

    ours = format.read(track_file(estimate))
    with _one_line(estimate, truth):
        theirs = _true_tracks(ours, truth)
        scores = track_scores(
            protocol,
            held(ours.tracks_FN2, ours.visibility_FN),
            ours.visibility_FN,
            theirs.tracks_FN2,
            theirs.visibility_FN,
            ours.query_frame_N,
            ours.size,
        )
    _show(asdict(scores), json)


@app.command()
def flow(estimate: Estimate, truth: Truth, json: Json = False) -> None:
    """Optical flow: end-point error and Fl, where the truth is valid.

    Scenes, folders of 16-bit PNG files as of KITTI with equal names, or two files.
    """
    from dynamicverse.evaluation.files import flow_pairs, read_flow
    from dynamicverse.evaluation.flow import flow_scores

    pairs = flow_pairs(estimate, truth)
    with _one_line(estimate, truth):
        scores = flow_scores((read_flow(e)[0], *read_flow(t)) for e, t in pairs)
    _show(asdict(scores), json)


def _true_tracks(ours: Tracks, truth: Path) -> Any:
    """The truth for the queries of `ours`."""
    import numpy as np

    from dynamicverse.evaluation.files import scene_at, track_file
    from dynamicverse.formats import tracks as format

    scene = scene_at(truth)
    if scene is not None:
        from dynamicverse.synthetic.writer import Layout, read_recipe

        recipe = Layout.of_truth(scene).recipe
        if recipe.exists():
            return _followed(ours, read_recipe(recipe))
    theirs = format.read(track_file(truth))
    if ours.size != theirs.size:
        raise ValueError(f"frames of {ours.size} and {theirs.size} px")
    if not np.array_equal(ours.query_frame_N, theirs.query_frame_N):
        raise ValueError("tracks of different queries; they can only be compared one to one")
    return theirs


def _followed(ours: Tracks, recipe: Any) -> Any:
    import numpy as np

    from dynamicverse.synthetic.scenes import make_world
    from dynamicverse.synthetic.truth import Truth

    if ours.size != recipe.size or len(ours.tracks_FN2) != recipe.frames:
        raise ValueError(
            f"tracks through {len(ours.tracks_FN2)} frames of {ours.size}, "
            f"the clip has {recipe.frames} of {recipe.size}"
        )
    query = ours.query_frame_N
    starts_N2 = ours.tracks_FN2[query, np.arange(len(query))]
    return Truth(make_world(recipe)).follow(starts_N2, query)


def _paired(estimate: Path, truth: Path, theirs: list[Any]) -> Iterator[tuple[Any, Any]]:
    from dynamicverse.evaluation.files import read_depth
    from dynamicverse.formats.bounded import invalid

    ours = list(read_depth(estimate))
    if len(ours) != len(theirs):
        raise invalid(estimate, f"{len(ours)} depth maps, {truth} has {len(theirs)}")
    yield from zip(ours, theirs, strict=True)


@contextmanager
def _one_line(estimate: Path, truth: Path) -> Iterator[None]:
    """What cannot be compared, as one line that names both."""
    try:
        yield
    except ValueError as error:
        raise ArtifactError(f"{estimate} against {truth}: {error}") from error


def _show(scores: dict[str, Any], json: bool) -> None:
    if json:
        print_json(scores)
    else:
        print_table(("measure", "value"), list(scores.items()))
