"""The index page of a dataset: every scene with a picture, a verdict and a link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dynamicverse.errors import ArtifactError
from dynamicverse.formats import html as page_file
from dynamicverse.formats import (
    images,
    labels,
    manifest,
    reconstruction_info,
    scene_info,
)
from dynamicverse.report import html, pictures
from dynamicverse.report.findings import PURPOSES
from dynamicverse.report.html import Html, el
from dynamicverse.report.overview import cut
from dynamicverse.report.page import asset
from dynamicverse.scene import Scene, sanitise

MAX_CARDS = 300  # scenes with a picture; further ones are lines of a table
MAX_SCENES = 5_000
MAX_FAILED = 1_000
THUMB_SIDE, THUMB_BYTES = 360, 14_000


@dataclass(frozen=True)
class Row:
    """One scene in the index; None where a stage has not been run."""

    scene: Scene
    info: scene_info.SceneInfo
    objects: int | None
    reconstruction: reconstruction_info.ReconstructionInfo | None
    seconds: float

    @property
    def link(self) -> str | None:
        """The report, relative to the dataset's folder."""
        if not self.scene.report.is_file():
            return None
        return quote(self.scene.report.relative_to(self.scene.folder.parent).as_posix())


def build_index(root: Path, dataset: str, quarantined: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write `<root>/<dataset>/index.html` and return its path.

    quarantined: records of what failed, with `name`, `stage`, `reason` and `message`.
    A scene with a file that is not valid is listed among what failed.
    """
    folder = root / dataset
    names = sorted(
        path.parent.name
        for path in folder.glob("*/scene.json")
        if path.parent.name == sanitise(path.parent.name)
    )
    rows: list[Row] = []
    failed = list(quarantined)
    for name in names[:MAX_SCENES]:
        try:
            rows.append(_row(Scene(root, dataset, name)))
        except ArtifactError as error:
            failed.append(
                {"name": name, "stage": "index", "reason": error.reason, "message": str(error)}
            )
    body = html.join(
        [
            el("div", _header(dataset, rows, names, failed), class_="theatre"),
            el(
                "main",
                _scenes(rows, max(0, len(names) - MAX_SCENES)),
                _failed(failed),
            ),
        ]
    )
    text = html.page(
        f"{dataset} · DynamicVerse", body, [asset("page.css"), asset("index.css")], [], None
    )
    target = folder / "index.html"
    page_file.write(target, text)
    return target


def _row(scene: Scene) -> Row:
    has_masks = scene.instance_labels.is_file()
    has_cameras = scene.reconstruction_json.is_file()
    return Row(
        scene,
        scene_info.read(scene.scene_json),
        len(labels.read(scene.instance_labels).instances) if has_masks else None,
        reconstruction_info.read(scene.reconstruction_json) if has_cameras else None,
        sum(
            manifest.read(scene.manifest(stage)).seconds
            for stage in PURPOSES
            if scene.manifest(stage).is_file()
        ),
    )


def _header(
    dataset: str,
    rows: Sequence[Row],
    names: Sequence[str],
    failed: Sequence[Mapping[str, Any]],
) -> Html:
    frames = sum(r.info.frame_count for r in rows)
    accepted = sum(r.info.filter.accepted for r in rows)
    seconds = sum(r.seconds for r in rows)
    facts = [
        f"{len(names)} scene{'' if len(names) == 1 else 's'}",
        f"{accepted} accepted by the data filter",
        f"{frames:,} frames".replace(",", " "),
        f"{seconds:.0f} s of work",
    ]
    if failed:
        facts.append(f"{len(failed)} failed")
    brand = el("div", el("p", "DynamicVerse", class_="brand"), class_="top")
    return el("header", brand, el("h1", dataset), el("p", " · ".join(facts), class_="facts"))


def _scenes(rows: Sequence[Row], unlisted: int) -> Html:
    if not rows:
        return el("section", el("h2", "Scenes"), el("p", "No scene yet.", class_="absent"))
    parts: list[Any] = [el("div", [_card(r) for r in rows[:MAX_CARDS]], class_="cards")]
    if len(rows) > MAX_CARDS:
        parts.append(_table(rows[MAX_CARDS:]))
    if unlisted:
        parts.append(el("p", f"{unlisted} further scenes are not listed here."))
    return el("section", el("h2", "Scenes"), parts)


def _card(row: Row) -> Html:
    verdict = "accepted" if row.info.filter.accepted else "rejected"
    reasons = cut("; ".join(row.info.filter.reasons), 300)
    name = el("a", row.info.name, href=row.link) if row.link else row.info.name
    return el(
        "article",
        _thumbnail(row),
        el(
            "div",
            el("h3", name),
            el("p", verdict, class_=f"verdict {verdict}"),
            el("p", _facts(row), class_="small"),
            el("p", reasons, class_="small") if reasons else None,
            None if row.link else el("p", "no report yet", class_="small"),
        ),
        class_="card",
    )


def _thumbnail(row: Row) -> Html:
    picture = row.scene.rgb(row.info.frame_count // 2)
    if not picture.is_file():
        return el("div", class_="no-picture")
    uri = pictures.photo(pictures.fit(images.read_rgb(picture), THUMB_SIDE), THUMB_BYTES)
    return el("img", src=uri, alt=f"the middle frame of {row.info.name}")


def _facts(row: Row) -> str:
    info = row.info
    facts = [f"{info.frame_count} frames", f"{info.width} × {info.height}"]
    if row.objects is not None:
        facts.append(f"{row.objects} moving object{'' if row.objects == 1 else 's'}")
    if row.reconstruction is not None:
        share = row.reconstruction.registered_frames / row.reconstruction.frame_count
        facts.append(f"{100 * share:.0f}\u00a0% of the cameras ({_status(row)})")
    if row.seconds:
        facts.append(f"{row.seconds:.0f} s")
    return " · ".join(facts)


def _status(row: Row) -> str:
    assert row.reconstruction is not None
    return row.reconstruction.status.replace("_", " ")


def _table(rows: Sequence[Row]) -> Html:
    lines = [
        el(
            "tr",
            el("td", el("a", r.info.name, href=r.link) if r.link else r.info.name),
            el("td", "accepted" if r.info.filter.accepted else "rejected"),
            el("td", _facts(r)),
        )
        for r in rows
    ]
    return el("div", el("table", el("tbody", lines)), class_="scroll")


def _failed(records: Sequence[Mapping[str, Any]]) -> Html:
    title = el("h2", "What failed")
    if not records:
        return el("section", title, el("p", "Nothing is in quarantine."))
    keys = ("name", "stage", "reason", "message")
    rows = [
        el("tr", [el("td", cut(str(record.get(key, "")), 400)) for key in keys])
        for record in records[:MAX_FAILED]
    ]
    head = el("thead", el("tr", [el("th", key, scope="col") for key in keys]))
    hidden = len(records) - MAX_FAILED
    more = el("p", f"{hidden} more: `dynamicverse quarantine list`.") if hidden > 0 else None
    return el(
        "section", title, el("div", el("table", head, el("tbody", rows)), class_="scroll"), more
    )
