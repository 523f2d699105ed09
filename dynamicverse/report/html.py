"""HTML built so that text cannot become markup.

`el` escapes every child and attribute that is not `Html`; only this module makes `Html`.
Names and captions come from videos, models and strangers.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"img", "input", "meta", "link", "br"})


class Html(str):
    """Markup: text that has been escaped, or made by `el`."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Text as markup that shows it; quotes are escaped too."""
    return Html(html.escape(str(text), quote=True))


def join(children: Iterable[Any]) -> Html:
    """Children one after the other; None is nothing, plain text is escaped."""
    return Html("".join(_render(child) for child in children))


def el(tag: str, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` is class, `data_x` is data-x; None and False are left out."""
    parts = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        parts.append(f" {name}" if value is True else f' {name}="{escape(value)}"')
    opening = f"<{tag}{''.join(parts)}"
    if tag in _VOID:
        return Html(f"{opening}>")
    return Html(f"{opening}>{join(children)}</{tag}>")


def _render(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return escape(child)
    return join(child)


def json_block(element_id: str, value: Any) -> Html:
    """A script element that holds data and runs nothing.

    `<`, `>`, `&` are written as escapes, so that no text in the data can end the element.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(element_id)}">{text}</script>')


def inline(tag: str, code: str) -> tuple[Html, str]:
    """Our own script or style as an element, and the source expression that allows it."""
    if f"</{tag}" in code.lower():
        raise ValueError(f"the {tag} contains its own end tag")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return Html(f"<{tag}>{code}</{tag}>"), f"'sha256-{digest}'"


def page(title: str, body: Html, styles: list[str], scripts: list[str], data: Html | None) -> str:
    """A whole document with a policy that forbids every request and all foreign code."""
    style_parts = [inline("style", code) for code in styles]
    script_parts = [inline("script", code) for code in scripts]
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_sources(style_parts)}",
            f"script-src {_sources(script_parts)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        [part for part, _ in style_parts],
    )
    scripts_html = [part for part, _ in script_parts]
    document = el("html", head, el("body", body, data, scripts_html), lang="en")
    return f"<!doctype html>\n{document}\n"


def _sources(parts: list[tuple[Html, str]]) -> str:
    return " ".join(source for _, source in parts) or "'none'"
