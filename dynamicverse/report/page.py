"""The report of one scene: one HTML file that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from dynamicverse.report import html, overview, player_data, records, visuals
from dynamicverse.report.findings import Findings
from dynamicverse.report.html import Html, el

MAX_BYTES = 6_000_000  # of the page, for clips of any length

_ANCHORS = (
    ("story", "What happens"),
    ("objects", "Objects"),
    ("camera", "Camera"),
    ("masks", "Masks"),
    ("tracks", "Tracks"),
    ("depth", "Depth"),
    ("flow", "Flow"),
    ("keyframes", "Keyframes"),
    ("quality", "Trust"),
    ("timings", "Timings"),
    ("files", "Files"),
)


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return files("dynamicverse.report").joinpath(name).read_text("utf-8")


def build(found: Findings, points: int) -> str:
    """The page as text; at most MAX_BYTES long.

    points: how many static points the 4D view gets.
    """
    data: dict[str, Any] = player_data.build(found, points)
    body = html.join(
        [
            el("a", "Skip to the content", href="#story", class_="skip"),
            el(
                "div",
                overview.header(found),
                overview.player(found, has_cloud=data["cloud"] is not None),
                class_="theatre",
            ),
            _navigation(),
            el(
                "main",
                overview.story(found),
                visuals.objects(found),
                visuals.camera(found),
                visuals.mask_sheet(found),
                visuals.track_plot(found),
                visuals.depth(found),
                visuals.flow(found),
                visuals.keyframes(found),
                records.quality(found),
                records.timings(found),
                records.files(found),
            ),
            el("footer", el("p", "Made by DynamicVerse. This page is complete in itself and "
                                 "loads nothing.")),
        ]
    )  # fmt: skip
    return html.page(
        f"{found.info.name} · DynamicVerse",
        body,
        [asset("page.css")],
        [asset("viewer.js"), asset("cloud.js")],
        html.json_block("scene-data", data),
    )


def _navigation() -> Html:
    links = [el("a", name, href=f"#{anchor}") for anchor, name in _ANCHORS]
    return el("nav", links, aria_label="Sections")
