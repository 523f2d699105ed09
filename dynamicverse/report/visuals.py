"""The middle of the page: objects, camera, keyframes, masks, tracks, depth and flow."""

from __future__ import annotations

from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicverse.formats import depth_exr, flow_png, images, labels, masks
from dynamicverse.report import pictures, svg
from dynamicverse.report.cloud import stage_frame
from dynamicverse.report.findings import Findings
from dynamicverse.report.html import Html, el
from dynamicverse.report.overview import absent, cut, section
from dynamicverse.report.player_data import choose_tracks
from dynamicverse.report.svg import Array

SHEET = 6  # pictures a sheet
SHEET_SIDE, SHEET_BYTES = 420, 26_000
STRIP, STRIP_SIDE, STRIP_BYTES = 16, 260, 13_000
CROPS, CROP_SIDE, CROP_BYTES = 24, 200, 9_000
PLOT_SIDE, PLOT_BYTES = 960, 110_000
MAX_ROWS = 100
MAX_DOTS = 1500
MAX_PATHS = 30  # objects with a path in the camera plots
TRAIL_TRACKS = 260


def _picture(uri: str, alt: str, caption: str | None = None) -> Html:
    image = el("img", src=uri, alt=alt)
    return el("figure", image, el("figcaption", caption) if caption else None)


def _sheet(items: list[Html], class_: str = "sheet") -> Html:
    return el("div", items, class_=class_)


def objects(found: Findings) -> Html:
    """One row an instance: picture, colour, where it is, what it does."""
    title = "Moving objects"
    if not found.scene.instance_labels.is_file():
        return section("objects", title, absent(found.absence("segmentation")))
    if not found.instances:
        notes = found.objects.notes if found.objects else []
        said = " " + cut("; ".join(notes), 400) if notes else ""
        return section("objects", title, absent("No moving object was found in this clip." + said))
    words = {c.instance_id: c.text for c in found.captions.objects} if found.captions else {}
    areas = {o.id: o for o in found.summary.objects} if found.summary else {}
    pixels = found.info.width * found.info.height
    rows = []
    for k, instance in enumerate(found.instances[:MAX_ROWS]):
        colour = pictures.hex_colour(found.colours()[instance.id])
        known = areas.get(instance.id)
        share = f"{100 * known.mean_area_px / pixels:.2g} %" if known else "–"
        crop = _crop(found, instance) if k < CROPS else None
        rows.append(
            el(
                "article",
                crop or el("div", class_="no-crop"),
                el(
                    "div",
                    el("h3", _swatch(colour), f"{instance.id} · {instance.name}"),
                    el("p", cut(words.get(instance.id, found.absence("captions")), 900)),
                    el(
                        "p",
                        f"category {instance.category} · frames {instance.first_frame}"
                        f"–{instance.last_frame} · {share} of the picture",
                        class_="small",
                    ),
                ),
                class_="object",
            )
        )
    hidden = len(found.instances) - MAX_ROWS
    more = el("p", f"{hidden} more in captions/objects.csv.") if hidden > 0 else None
    return section("objects", title, el("div", rows, class_="objects"), more)


def _swatch(colour: str) -> Html:
    return el(
        "svg", el("circle", cx=7, cy=7, r=6, fill=colour), class_="swatch", aria_hidden="true"
    )


def _crop(found: Findings, instance: labels.Instance) -> Html | None:
    """The object cut out of the shown frame where it is largest."""
    best: tuple[int, int, NDArray[np.uint8]] | None = None
    for frame in found.frames[:: max(1, len(found.frames) // 8)]:
        if not instance.first_frame <= frame <= instance.last_frame:
            continue
        ids_HW = masks.read(found.scene.mask(frame))
        area = int((ids_HW == instance.id).sum())
        if area and (best is None or area > best[0]):
            best = (area, frame, ids_HW)
    if best is None:
        return None
    _, frame, ids_HW = best
    inside_HW = ids_HW == instance.id
    x, y, w, h = cv2.boundingRect(inside_HW.view(np.uint8))
    margin = max(4, int(0.12 * max(w, h)))
    rows = slice(max(0, y - margin), y + h + margin)
    columns = slice(max(0, x - margin), x + w + margin)
    rgb_HW3 = images.read_rgb(found.scene.rgb(frame))[rows, columns]
    dim_HW1 = np.where(inside_HW[rows, columns, None], 1.0, 0.35)
    cropped = np.rint(rgb_HW3 * dim_HW1).astype(np.uint8)
    uri = pictures.photo(pictures.fit(cropped, CROP_SIDE), CROP_BYTES)
    return _picture(uri, f"object {instance.id} in {found.moment(frame)}")


def camera(found: Findings) -> Html:
    """The path seen from above and from the side, and its segments."""
    title = "Camera"
    if found.poses is None or found.reconstruction is None:
        return section("camera", title, absent(found.absence("reconstruction")))
    table = _segments(found)
    c2w_F44, registered_F = found.poses.c2w_F44, found.poses.registered_F
    way_F3 = c2w_F44[:, :3, 3]
    moves = registered_F.sum() > 1 and np.ptp(way_F3[registered_F], axis=0).max() > 0
    if not moves:
        status = found.reconstruction.status
        text = {
            "rotation_only": "The camera turned without a recognisable change of place.",
            "static_camera": "The camera stood still.",
            "too_short": "The clip is too short to recover a camera path.",
            "failed": "The camera path could not be recovered.",
        }.get(status, "The camera path has no length.")
        return section("camera", title, absent(text), table)
    return section("camera", title, _planes(found, way_F3), _limits(found), table)


def _planes(found: Findings, way_F3: Array) -> Html:
    assert found.poses is not None
    registered_F = found.poses.registered_F
    to_stage, centre, scale = np.eye(3) * [1.0, -1.0, -1.0], np.zeros(3), 1.0
    dots_N3 = np.zeros((0, 3))
    if found.fused is not None and len(found.fused.static_points):
        to_stage, centre, scale = stage_frame(found.fused, found.poses, found.up())
        step = max(1, len(found.fused.static_points) // MAX_DOTS)
        dots_N3 = (found.fused.static_points[::step].astype(np.float64) - centre) @ to_stage.T
        dots_N3 = dots_N3[(np.abs(dots_N3) < 2 * scale).all(1)]
    path_F3 = (way_F3 - centre) @ to_stage.T
    looks_F3 = found.poses.c2w_F44[:, :3, 2] @ to_stage.T
    chosen = np.flatnonzero(registered_F)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(14, len(chosen))).astype(int)]
    objects_: list[tuple[Array, int]] = []
    if found.fused is not None:
        pairs = zip(found.fused.object_ids, found.fused.object_centres, strict=True)
        for i, centres_F3 in islice(pairs, MAX_PATHS):
            if np.isfinite(centres_F3).all(1).any():
                moved = (centres_F3.astype(np.float64) - centre) @ to_stage.T
                objects_.append((moved, int(i)))
    colours = found.colours()

    def view(axes: list[int], signs: list[float], labels_: tuple[str, str], title: str) -> Html:
        flat = np.array(signs)
        paths: list[tuple[Array, str, str | None]] = [
            (
                _thinned(p, 200)[:, axes] * flat,
                "object-path",
                pictures.hex_colour(colours.get(i, (255, 255, 255))),
            )
            for p, i in objects_
        ]
        paths.append((_thinned(path_F3)[:, axes] * flat, "camera-path", None))
        headings = [(path_F3[k, axes] * flat, looks_F3[k, axes] * flat) for k in chosen]
        return el(
            "figure",
            svg.plane(paths, dots_N3[:, axes] * flat, headings, labels_, title),
            el("figcaption", title),
        )

    return el(
        "div",
        view([0, 2], [1.0, -1.0], ("right", "forward"), "From above"),
        view([2, 1], [-1.0, 1.0], ("forward", "up"), "From the side"),
        class_="planes",
    )


def _thinned(path_F3: Array, at_most: int = svg.MAX_VERTICES) -> Array:
    return path_F3[:: max(1, -(-len(path_F3) // at_most))]


def _limits(found: Findings) -> Html:
    assert found.poses is not None
    scale = found.poses.scale
    text = {
        "metric": "Lengths are in metres.",
        "relative": "Lengths are relative: the shape is known, the absolute size is not.",
        "unobservable": "Lengths cannot be known from this clip.",
    }[scale]
    return el("p", text + " Dots are static points, bars show where the camera looks.",
              class_="small")  # fmt: skip


def _segments(found: Findings) -> Html | None:
    if found.captions is None or not found.captions.camera.segments:
        return None
    segments = found.captions.camera.segments
    rows = [
        el(
            "tr",
            el("td", f"{s.first_frame}–{s.last_frame}", class_="number"),
            el("td", ", ".join(s.labels) or "no motion"),
        )
        for s in segments[:40]
    ]
    more = el("p", f"{len(segments) - 40} more in captions.json.") if len(segments) > 40 else None
    head = el("thead", el("tr", el("th", "frames", scope="col"), el("th", "labels", scope="col")))
    table = el("table", head, el("tbody", rows))
    return el("div", el("div", table, class_="scroll narrow"), more)


def keyframes(found: Findings) -> Html:
    """The chosen frames."""
    title = "Keyframes"
    if found.keyframes is None:
        return section("keyframes", title, absent(found.absence("keyframes")))
    chosen = found.keyframes.keyframes
    shown = [chosen[k] for k in pictures.sample(len(chosen), STRIP)]
    items = []
    for frame in shown:
        rgb_HW3 = pictures.fit(images.read_rgb(found.scene.key_frame(frame)), STRIP_SIDE)
        uri = pictures.photo(rgb_HW3, STRIP_BYTES)
        items.append(_picture(uri, f"keyframe {frame}", found.moment(frame)))
    count = f"{len(chosen)} of {found.info.frame_count} frames"
    more = f", {len(shown)} of them shown" if len(shown) < len(chosen) else ""
    rule = (
        f"{count}{more}: those with the most image motion ({found.keyframes.score} of the flow, "
        f"model {found.keyframes.flow_model}), at least {found.keyframes.min_gap} frames apart."
    )
    return section("keyframes", title, el("p", rule), _sheet(items, "strip"))


def mask_sheet(found: Findings) -> Html:
    """Frames with their masks."""
    title = "Masks"
    if not found.scene.files("masks"):
        return section("masks", title, absent(found.absence("segmentation")))
    if not found.instances:
        return section("masks", title, absent("The masks are empty: nothing was found to move."))
    items = []
    for frame in _sheet_frames(found):
        rgb_HW3 = pictures.fit(images.read_rgb(found.scene.rgb(frame)), SHEET_SIDE)
        ids_HW = pictures.fit(masks.read(found.scene.mask(frame)), SHEET_SIDE, nearest=True)
        shown = pictures.blend(rgb_HW3, pictures.mask_rgba(ids_HW, found.colours()), dim=0.55)
        uri = pictures.photo(shown, SHEET_BYTES)
        items.append(_picture(uri, f"masks of {found.moment(frame)}", found.moment(frame)))
    return section("masks", title, _sheet(items))


def _sheet_frames(found: Findings) -> list[int]:
    return [found.frames[k] for k in pictures.sample(len(found.frames), SHEET)]


def track_plot(found: Findings) -> Html:
    """Tracks drawn over the middle frame."""
    title = "Point tracks"
    if found.tracks is None:
        return section("tracks", title, absent(found.absence("tracks")))
    visible_FN = found.tracks.visibility_FN
    if visible_FN.size == 0 or not visible_FN.any():
        return section("tracks", title, absent("No point could be tracked."))
    middle = found.frames[len(found.frames) // 2]
    uri = pictures.photo(_draw_tracks(found, middle), PLOT_BYTES)
    lasting = int(np.median(visible_FN.sum(0)))
    text = (
        f"{visible_FN.shape[1]} points, each seen in {lasting} frames (median). Coloured trails "
        "belong to moving objects, white ones to the rest."
    )
    caption = f"trails over {found.moment(middle)}"
    picture = _picture(uri, "point tracks over the middle frame", caption)
    return section("tracks", title, el("p", text), el("div", picture, class_="single"))


def _draw_tracks(found: Findings, frame: int) -> NDArray[np.uint8]:
    assert found.tracks is not None
    rgb_HW3 = pictures.fit(images.read_rgb(found.scene.rgb(frame)), PLOT_SIDE)
    canvas = (rgb_HW3 * 0.5).astype(np.uint8)
    scale = canvas.shape[1] / found.info.width
    chosen_N = choose_tracks(found.tracks, found.frames, TRAIL_TRACKS)
    colours = found.colours()
    for n in sorted(chosen_N, key=lambda n: int(found.tracks.instance_id_N[n])):  # type: ignore[union-attr]
        seen = np.flatnonzero(found.tracks.visibility_FN[:, n])
        seen = seen[:: max(1, len(seen) // 100)]
        path_n2 = found.tracks.tracks_FN2[seen, n].astype(np.float64)
        fixed = np.rint((path_n2 + 0.5) * scale * 16 - 8).astype(np.int32)
        owner = int(found.tracks.instance_id_N[n])
        colour = colours.get(owner, (235, 235, 235))
        shade = colour if owner > 0 else (150, 150, 150)
        cv2.polylines(canvas, [fixed[:, None]], False, shade, 1, cv2.LINE_AA, shift=4)
        cv2.circle(canvas, fixed[-1].tolist(), 32, colour, -1, cv2.LINE_AA, shift=4)
    return canvas


def depth(found: Findings) -> Html:
    """Depth maps in one colour scale."""
    title = "Depth"
    shown = [f for f in found.frames if found.scene.depth(f).is_file()]
    if not shown:
        return section("depth", title, absent(_no_depth(found)))
    maps = []
    for k in pictures.sample(len(shown), SHEET):
        depth_HW, _ = depth_exr.read(found.scene.depth(shown[k]))
        maps.append((shown[k], pictures.fit(depth_HW, SHEET_SIDE, nearest=True)))
    known = np.concatenate([m[m > 0][::7] for _, m in maps])
    if len(known) == 0:
        return section("depth", title, absent("The depth maps hold no known depth."))
    near, far = (float(v) for v in np.percentile(known, [2, 98]))
    items = [
        _picture(
            pictures.photo(pictures.depth_colours(depth_HW, near, far), SHEET_BYTES),
            f"depth of {found.moment(frame)}",
            found.moment(frame),
        )
        for frame, depth_HW in maps
    ]
    metric = found.poses is not None and found.poses.scale == "metric"
    unit = "m" if metric else "(relative units)"
    half = 2 / (1 / near + 1 / far)
    legend = el(
        "div",
        el("span", f"far {far:.3g}"),
        svg.ramp(pictures.viridis(32)),
        el("span", f"near {near:.3g} {unit}"),
        class_="legend",
    )
    share = float(np.mean([np.mean(m > 0) for _, m in maps]))
    text = (
        f"Distance along the optical axis, the same colours in all frames, linear in 1/depth: the "
        f"middle colour is {half:.3g}. {100 * share:.0f} % of the pixels are known, grey is not."
    )
    return section("depth", title, el("p", text), legend, _sheet(items))


def _no_depth(found: Findings) -> str:
    info = found.reconstruction
    if info is None:
        return found.absence("reconstruction")
    statements = "; ".join(info.statements[:4])
    return cut(f"No depth was recovered. {statements[:1].upper()}{statements[1:]}", 500)


def flow(found: Findings) -> Html:
    """Optical flow fields in one colour scale."""
    title = "Optical flow"
    pairs = [f for f in found.frames if found.scene.flow(f, f + 1).is_file()]
    if not pairs:
        if found.info.frame_count == 1:
            return section("flow", title, absent("One frame has no flow."))
        return section("flow", title, absent(found.absence("keyframes")))
    fields: list[tuple[int, Any, Any]] = []
    for k in pictures.sample(len(pairs), SHEET):
        flow_HW2, valid_HW = flow_png.read(found.scene.flow(pairs[k], pairs[k] + 1))
        step = max(1, -(-max(valid_HW.shape) // SHEET_SIDE))
        fields.append((pairs[k], flow_HW2[::step, ::step], valid_HW[::step, ::step]))
    lengths = [np.linalg.norm(f[v], axis=1) for _, f, v in fields if v.any()]
    full = float(np.percentile(np.concatenate(lengths), 98)) if lengths else 1.0
    items = [
        _picture(
            pictures.photo(pictures.flow_colours(f, v, full), SHEET_BYTES),
            f"flow from {found.moment(k)}",
            f"{found.moment(k)} to the next",
        )
        for k, f, v in fields
    ]
    wheel = _picture(pictures.photo(_wheel(), 6000), "colour wheel: hue is direction")
    text = (
        f"How far each pixel moves to the next frame: hue is the direction, full colour is "
        f"{full:.1f} pixels. Grey is not valid: hidden in the next frame, or not found again."
    )
    return section("flow", title, el("div", wheel, el("p", text), class_="keyed"), _sheet(items))


def _wheel() -> NDArray[np.uint8]:
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    flow_HW2 = np.stack([x, y], axis=2).astype(np.float32)
    rgb_HW3 = pictures.flow_colours(flow_HW2, np.ones(x.shape, bool), 1.0)
    rgb_HW3[np.hypot(x, y) > 1] = 128
    return rgb_HW3
