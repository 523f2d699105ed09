"""The top of the page: what the scene is, what happens in it, and the player."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynamicverse.report import svg
from dynamicverse.report.findings import Findings
from dynamicverse.report.html import Html, el
from dynamicverse.report.pictures import hex_colour

MAX_SEGMENTS = 60  # blocks in the time line
MAX_TEXT = 1500


def cut(text: str, at_most: int = MAX_TEXT) -> str:
    """A text of bounded length that says where it was cut; no line breaks before a %."""
    text = text.replace(" %", "\u00a0%")
    return text if len(text) <= at_most else text[:at_most] + " … (cut here)"


def absent(reason: str) -> Html:
    """The sentence that stands where something is missing."""
    return el("p", reason, class_="absent")


def section(anchor: str, title: str, *children: Any) -> Html:
    return el("section", el("h2", title), children, id=anchor, aria_label=title)


def header(found: Findings) -> Html:
    """Name, size, length, preset, verdict."""
    info = found.info
    facts = [f"{info.width} × {info.height}", _count(info.frame_count, "frame")]
    if info.rate is not None:
        facts += [f"{info.frame_count / info.rate:.1f} s", f"{info.rate:.4g} frames/s"]
    else:
        facts.append("frame rate unknown")
    facts.append(f"preset {found.preset}")
    shot = ""
    if info.shot.count > 1:
        shot = f", shot {info.shot.index + 1} of {info.shot.count}"
    verdict = "accepted" if info.filter.accepted else "rejected"
    return el(
        "header",
        el(
            "div",
            el("p", "DynamicVerse", el("span", f" / {info.dataset}"), class_="brand"),
            el("p", f"data filter: {verdict}", class_=f"verdict {verdict}"),
            class_="top",
        ),
        el("h1", info.name),
        el("p", " · ".join(facts), class_="facts"),
        el("p", f"from {info.source.kind} “{cut(info.source.name, 200)}”{shot}", class_="origin"),
        None
        if info.filter.accepted
        else el("p", "Rejected: " + cut("; ".join(info.filter.reasons)), class_="reasons"),
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}".replace(",", " ")


def player(found: Findings, has_cloud: bool) -> Html:
    """The clip and the 4D scene side by side, with one time line."""
    clip = el(
        "figure",
        el("figcaption", "The clip"),
        el("canvas", id="clip", width=found.info.width, height=found.info.height, role="img",
           aria_label="Frames of the clip with masks, boxes and point tracks"),
        el("div", _toggles(found), class_="tools"),
        class_="panel",
    )  # fmt: skip
    if has_cloud:
        world = el(
            "figure",
            el("figcaption", "The recovered 4D scene"),
            el("canvas", id="cloud", tabindex=0, role="img",
               aria_label="Point cloud with the camera path. Arrow keys turn it, + and - zoom."),
            el("div", _views(), class_="tools"),
            class_="panel",
        )  # fmt: skip
    else:
        world = el(
            "figure",
            el("figcaption", "The recovered 4D scene"),
            el("div", el("p", _no_cloud(found)), class_="empty"),
            class_="panel",
        )
    return el(
        "section",
        el("div", clip, world, class_="panels"),
        el(
            "div",
            el("button", id="play", type="button", aria_label="Play"),
            el("input", id="time", type="range", min=0, max=len(found.frames) - 1, value=0,
               aria_label="Time"),
            el("output", id="moment", for_="time"),
            class_="transport",
        ),
        timeline(found),
        el("noscript", el("p", "The player needs JavaScript; the pictures below do not.")),
        class_="stage",
        aria_label="Player",
    )  # fmt: skip


def _toggles(found: Findings) -> list[Html]:
    kinds = [("masks", bool(found.instances), True), ("boxes", bool(found.instances), True)]
    kinds.append(("tracks", found.tracks is not None, False))
    return [
        el("label", el("input", id=f"show-{kind}", type="checkbox", checked=shown), kind)
        for kind, there, shown in kinds
        if there
    ]


def _views() -> list[Html]:
    views = (
        ("orbit", "Orbit", "true"),
        ("camera", "Through the camera", "false"),
        ("top", "From above", "false"),
    )
    return [
        *(
            el("button", name, type="button", data_view=key, aria_pressed=pressed)
            for key, name, pressed in views
        ),
        el("small", "drag to turn · shift-drag to move · ctrl-wheel to zoom"),
    ]  # fmt: skip


def _no_cloud(found: Findings) -> str:
    if found.reconstruction is None:
        return found.absence("reconstruction")
    statements = "; ".join(found.reconstruction.statements[:3])
    reasons = {
        "full": "The reconstruction has too few static points to show.",
        "rotation_only": "The camera only turned, so nothing tells how far things are.",
        "static_camera": "The camera stood still, so nothing tells how far things are.",
        "too_short": "The clip is too short for a reconstruction.",
        "failed": "The cameras could not be recovered.",
    }
    text = reasons[found.reconstruction.status]
    return cut(f"{text} ({statements})" if statements else text)


def timeline(found: Findings) -> Html:
    """Lanes over the frames of the clip: camera, objects, amount of motion."""
    lanes = []
    if found.captions and found.captions.camera.segments:
        lanes.append(_lane("camera", _camera_lane(found)))
    for row in _object_lanes(found):
        lanes.append(row)
    if found.keyframes and found.keyframes.scores:
        last = max(1, found.info.frame_count - 1)
        plot = svg.area_plot(
            np.asarray(found.keyframes.scores),
            [k / last for k in found.keyframes.keyframes[:300]],
            "Image motion between consecutive frames; lines mark the keyframes",
        )
        lanes.append(_lane("image motion", plot))
    return el("div", lanes, class_="lanes") if lanes else el("div")


def _lane(name: str, plot: Html) -> Html:
    return el(
        "div",
        el("span", name, class_="lane-name"),
        el("div", plot, class_="lane-body", data_seek=True),
        class_="lane",
    )


def _camera_lane(found: Findings) -> Html:
    assert found.captions is not None
    segments = found.captions.camera.segments[:MAX_SEGMENTS]
    frames = found.info.frame_count
    parts = []
    for s in segments:
        label = ", ".join(s.labels) or "no motion"
        tip = f"frames {s.first_frame} to {s.last_frame}: {label}"
        parts.append((s.first_frame / frames, (s.last_frame + 1) / frames, label, tip, None))
    return svg.spans(parts, "Camera motion over time")


def _object_lanes(found: Findings, at_most: int = 8) -> list[Html]:
    frames, colours = found.info.frame_count, found.colours()
    lanes = []
    for instance in found.instances[:at_most]:
        start, end = instance.first_frame / frames, (instance.last_frame + 1) / frames
        tip = f"{instance.name}: frames {instance.first_frame} to {instance.last_frame}"
        colour = hex_colour(colours[instance.id])
        plot = svg.spans([(start, end, "", tip, colour)], tip)
        lanes.append(_lane(f"object {instance.id}", plot))
    if len(found.instances) > at_most:
        lanes.append(
            el("p", f"{len(found.instances) - at_most} more objects are in the table below.")
        )
    return lanes


def story(found: Findings) -> Html:
    """The captions, and the numbers at a glance."""
    if found.captions is None:
        words: Any = absent(found.absence("captions"))
    else:
        words = [
            el("p", cut(found.captions.scene.text), class_="lead"),
            el("p", cut(found.captions.camera.text), class_="lead"),
            el(
                "ul",
                [el("li", label) for label in found.captions.camera.labels],
                class_="labels",
                aria_label="Camera motion labels (CameraBench)",
            ),
        ]
    return section("story", "What happens", el("div", words, class_="words"), tiles(found))


def tiles(found: Findings) -> Html:
    """Key numbers; what is not known is left out."""
    numbers: list[tuple[str, str]] = []
    if found.summary is not None:
        count = found.summary.object_count
        numbers.append((str(count), "moving object" if count == 1 else "moving objects"))
        numbers.append((f"{100 * found.summary.coverage:.1f}\u00a0%", "of all pixels move"))
    info = found.reconstruction
    if info is not None:
        numbers.append((f"{info.registered_frames} / {info.frame_count}", "cameras recovered"))
        if info.reprojection_rmse_px is not None:
            numbers.append((f"{info.reprojection_rmse_px:.2f} px", "reprojection error (RMS)"))
        if info.focal_px is not None:
            numbers.append((f"{info.focal_px:.0f} px", f"focal length ({info.focal_source})"))
    if found.fused is not None and len(found.fused.static_points):
        numbers.append((f"{len(found.fused.static_points):,}".replace(",", " "), "static points"))
    if found.tracks is not None:
        tracks = found.tracks.visibility_FN.shape[1]
        numbers.append((f"{tracks:,}".replace(",", " "), "point tracks"))
    if found.keyframes is not None:
        numbers.append((str(len(found.keyframes.keyframes)), "keyframes"))
    return el(
        "dl",
        [el("div", el("dd", value), el("dt", name)) for value, name in numbers],
        class_="tiles",
    )
