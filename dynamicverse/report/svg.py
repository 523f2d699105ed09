"""Small plots as SVG. Colours come from the style sheet through classes.

No `style` attribute anywhere: the page's policy forbids them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dynamicverse.report.html import Html, el

Array = NDArray[np.float64]
MAX_VERTICES = 1000


def number(value: float) -> str:
    """A coordinate with two decimals at most."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def points(xy_N2: Iterable[Sequence[float]]) -> str:
    """A list of coordinates for polylines."""
    return " ".join(f"{number(x)},{number(y)}" for x, y in xy_N2)


def envelope(values: Array, at_most: int = MAX_VERTICES) -> list[tuple[float, float]]:
    """(position 0..1, value): the largest of each stretch when there are too many."""
    count = len(values)
    if count == 0:
        return []
    parts = np.array_split(np.arange(count), min(count, at_most))
    last = max(1, count - 1)
    return [(float(p.mean()) / last, float(values[p].max())) for p in parts]


def area_plot(values: Array, marks: Sequence[float], title: str) -> Html:
    """Values over the clip as a filled line, with vertical marks at positions 0..1."""
    top = max(float(values.max()) if len(values) else 0.0, 1e-9)
    line = [(1000 * x, 58 - 52 * y / top) for x, y in envelope(values)]
    shape = [(0.0, 60.0), *line, (1000.0, 60.0)]
    return el(
        "svg",
        el("title", title),
        el("polygon", points=points(shape), class_="area"),
        el("polyline", points=points(line), class_="curve"),
        [
            el("line", x1=number(1000 * m), x2=number(1000 * m), y1=0, y2=60, class_="mark")
            for m in marks
        ],
        viewBox="0 0 1000 60",
        preserveAspectRatio="none",
        class_="lane-plot tall",
        role="img",
    )


def spans(parts: Iterable[tuple[float, float, str, str, str | None]], title: str) -> Html:
    """A lane of blocks: (start 0..1, end 0..1, label, tooltip, fill colour or None)."""
    blocks = []
    for start, end, label, tooltip, colour in parts:
        wide = max(end - start, 0.002)
        blocks.append(
            el(
                "svg",
                el("title", tooltip),
                el("rect", width="100%", height="100%", rx=3, fill=colour, class_="block"),
                el("text", label, x=6, y="50%", dominant_baseline="central"),
                x=f"{100 * start:.3f}%",
                width=f"{100 * wide:.3f}%",
                height="100%",
            )
        )
    return el("svg", el("title", title), blocks, class_="lane-plot", role="img")


def bar(share: float) -> Html:
    """A horizontal bar of 0..1."""
    return el(
        "svg",
        el("rect", width="100%", height="100%", rx=3, class_="bar-ground"),
        el("rect", width=f"{100 * min(max(share, 0.0), 1.0):.2f}%", height="100%", rx=3,
           class_="bar"),
        class_="bar-plot",
        aria_hidden="true",
    )  # fmt: skip


def ramp(colours: Sequence[tuple[int, int, int]]) -> Html:
    """A colour legend from the first colour to the last."""
    wide = 100 / len(colours)
    return el(
        "svg",
        [
            el("rect", x=f"{k * wide:.2f}%", width=f"{wide + 0.5:.2f}%", height="100%",
               fill="#{:02x}{:02x}{:02x}".format(*colour))
            for k, colour in enumerate(colours)
        ],
        class_="ramp",
        aria_hidden="true",
    )  # fmt: skip


def plane(
    paths: Sequence[tuple[Array, str, str | None]],
    dots_N2: Array,
    headings: Sequence[tuple[Array, Array]],
    labels: tuple[str, str],
    title: str,
) -> Html:
    """Paths and points in a plane, with equal scale on both axes, x to the right, y up.

    paths: (N,2) with class and colour; NaN rows break a line. dots: background points.
    headings: position and direction of cameras. labels: of the horizontal and vertical axis.
    """
    clouds = [p for p, _, _ in paths] + ([dots_N2] if len(dots_N2) else [])
    known = np.concatenate([c[np.isfinite(c).all(1)] for c in clouds])
    low, high = known.min(0), known.max(0)
    middle, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-9) * 1.12

    def place(xy_N2: Array) -> Array:
        unit = (xy_N2 - middle) / reach
        return np.stack([200 + 190 * unit[:, 0], 200 - 190 * unit[:, 1]], axis=1)

    marks: list[Html] = [
        el("circle", cx=number(x), cy=number(y), r="1", class_="dot") for x, y in place(dots_N2)
    ]
    for path_N2, class_, colour in paths:
        for part in _unbroken(place(path_N2)):
            if len(part) == 1 or float(np.ptp(part, axis=0).max()) < 0.5:
                x, y = part[0]
                marks.append(
                    el("circle", cx=number(x), cy=number(y), r="4", class_=class_, fill=colour)
                )
            else:
                marks.append(el("polyline", points=points(part), class_=class_, stroke=colour))
    for position, direction in headings:
        tip = place((position + 0.09 * reach * direction)[None])[0]
        start = place(position[None])[0]
        marks.append(
            el("line", x1=number(start[0]), y1=number(start[1]), x2=number(tip[0]),
               y2=number(tip[1]), class_="heading")
        )  # fmt: skip
    return el(
        "svg",
        el("title", title),
        marks,
        el("text", labels[0] + " →", x=392, y=392, text_anchor="end"),
        el("text", labels[1] + " ↑", x=8, y=18),
        viewBox="0 0 400 400",
        class_="plane",
        role="img",
    )


def _unbroken(path_N2: Array) -> list[Array]:
    good = np.isfinite(path_N2).all(1)
    edges = np.flatnonzero(np.diff(np.pad(good, 1).astype(np.int8)))
    return [path_N2[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
