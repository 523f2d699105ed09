"""The lower part of the page: quality, warnings, timings, and where the files are."""

from __future__ import annotations

from typing import Any

from dynamicverse.report import svg
from dynamicverse.report.findings import PURPOSES, Findings
from dynamicverse.report.html import Html, el
from dynamicverse.report.overview import absent, cut, section
from dynamicverse.scene import ARTIFACTS

MAX_WARNINGS = 60
MAX_LINE = 600

Line = tuple[str | None, str]  # the stage that said it, and what it said

# what a reader finds in each artifact
CONTENTS = {
    "scene_json": "size, times and verdict of the clip",
    "rgb": "the frames",
    "video": "the clip as a video",
    "key_frames": "the chosen frames and the score of every pair",
    "flow": "optical flow between neighbours, both ways (KITTI PNG)",
    "analysis": "what moves, and where",
    "motion": "coarse labels of what moves",
    "masks": "instance masks; the value is the instance id",
    "segmentation": "names of the ids, statistics, visual copies",
    "tracks": "point tracks",
    "depth_prior": "depth from a single-image model",
    "cameras": "poses, intrinsics, and how well they are known",
    "depth": "depth of every frame (EXR)",
    "fused": "the fused 4D scene",
    "captions": "captions and the facts behind them",
}


def quality(found: Findings) -> Html:
    """Statements on what cannot be known, warnings of all stages, scores of the filter."""
    said = list(found.reconstruction.statements) if found.reconstruction else []
    if found.objects is not None:
        said += found.objects.notes
    warnings: list[Line] = [(None, w) for w in found.info.warnings]
    for stage, manifest in found.manifests.items():
        known = {w for _, w in warnings}
        warnings += [(stage, w) for w in manifest.warnings if w not in known]
    return section(
        "quality",
        "How far to trust it",
        el("h3", "What cannot be known from this clip"),
        _listing([(None, s) for s in said]) or el("p", "The stages stated no limits."),
        el("h3", "Warnings"),
        _listing(warnings) or el("p", "No stage warned of anything."),
        el("h3", "Data filter"),
        _filter(found),
    )


def _listing(lines: list[Line]) -> Html | None:
    if not lines:
        return None
    items = [
        el("li", el("strong", f"{stage}: ") if stage else None, cut(text, MAX_LINE))
        for stage, text in lines[:MAX_WARNINGS]
    ]
    if len(lines) > MAX_WARNINGS:
        items.append(el("li", f"and {len(lines) - MAX_WARNINGS} more, in the manifests"))
    return el("ul", items, class_="statements")


def _filter(found: Findings) -> Html:
    verdict = found.info.filter
    rows = [
        el(
            "tr",
            el("th", name.replace("_", " "), scope="row"),
            el("td", "not known" if value is None else f"{value:.4g}", class_="number"),
        )
        for name, value in sorted(verdict.scores.items())
    ]
    sentence = "The clip was accepted." if verdict.accepted else "The clip was rejected."
    return el(
        "div",
        el("p", sentence),
        el("ul", [el("li", cut(r, MAX_LINE)) for r in verdict.reasons[:20]]),
        el("div", el("table", el("tbody", rows)), class_="scroll narrow") if rows else None,
    )


def timings(found: Findings) -> Html:
    """Seconds, speed, memory and device of every stage, from the manifests."""
    if not found.manifests:
        return section("timings", "What it took", absent("No manifests of the stages were found."))
    slowest = max(m.seconds for m in found.manifests.values()) or 1.0
    rows: list[Html] = []
    for stage in PURPOSES:
        manifest = found.manifests.get(stage)
        if manifest is None:
            rows.append(el("tr", el("th", stage, scope="row"), el("td", "not run", colspan=5)))
            continue
        speed = manifest.frames / manifest.seconds if manifest.seconds > 0 else None
        rows.append(
            el(
                "tr",
                el("th", stage, scope="row"),
                el("td", svg.bar(manifest.seconds / slowest), class_="wide"),
                _number(f"{manifest.seconds:.1f} s"),
                _number(f"{speed:.1f}" if speed and manifest.frames else "–"),
                _number(f"{manifest.peak_memory_bytes / 2**20:.0f} MB"),
                el("td", manifest.device),
            )
        )
    total = sum(m.seconds for m in found.manifests.values())
    speed_all = found.info.frame_count / total if total > 0 else 0.0
    heads = ("stage", "", "seconds", "frames/s", "peak memory", "device")
    return section(
        "timings",
        "What it took",
        el("p", f"{total:.1f} s in all, {speed_all:.2f} frames a second."),
        el(
            "div",
            el(
                "table",
                el("thead", el("tr", [el("th", h, scope="col") for h in heads])),
                el("tbody", rows),
            ),
            class_="scroll",
        ),
        el("p", _software(found), class_="small"),
    )


def _number(text: str) -> Html:
    return el("td", text, class_="number")


def _software(found: Findings) -> str:
    latest = max(found.manifests.values(), key=lambda m: m.finished)
    packages = ", ".join(f"{k} {v}" for k, v in sorted(latest.software.items()))
    return cut(f"Last stage finished {latest.finished}. Software: {packages}.", 800)


def files(found: Findings) -> Html:
    """What is where, with sizes, from the manifests."""
    rows: list[Any] = []
    for stage, manifest in found.manifests.items():
        for artifact, outputs in manifest.outputs.items():
            if not outputs or artifact not in ARTIFACTS:
                continue
            size = sum(o.bytes for o in outputs)
            rows.append(
                el(
                    "tr",
                    el("td", el("code", _where(found, artifact))),
                    el("td", CONTENTS.get(artifact, "")),
                    _number(f"{len(outputs):,}".replace(",", " ")),
                    _number(_bytes(size)),
                    el("td", stage),
                )
            )
    if not rows:
        return section("files", "Files", absent("No manifests of the stages were found."))
    heads = ("path below the output root", "content", "files", "size", "stage")
    return section(
        "files",
        "Files",
        el("p", "Frames are counted from 0 on this page; rgb, depth and flow files from 1."),
        el(
            "div",
            el(
                "table",
                el("thead", el("tr", [el("th", h, scope="col") for h in heads])),
                el("tbody", rows),
            ),
            class_="scroll",
        ),
    )


def _where(found: Findings, artifact: str) -> str:
    return found.scene.patterns(artifact)[0]


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
