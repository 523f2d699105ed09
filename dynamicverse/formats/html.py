"""report/index.html: one whole page."""

from __future__ import annotations

from pathlib import Path

from dynamicverse.formats.atomic import write_bytes
from dynamicverse.formats.bounded import invalid, read_bytes

MAX_BYTES = 256 << 20


def write(path: Path, page: str) -> None:
    """Write a page."""
    write_bytes(path, page.encode())


def read(path: Path) -> str:
    """Read a page that begins and ends as a page does; raises ArtifactError."""
    try:
        page = read_bytes(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(path, f"not UTF-8 ({error})") from error
    if not page[:100].lstrip().lower().startswith("<!doctype html"):
        raise invalid(path, "not an HTML page")
    if not page[-100:].rstrip().lower().endswith("</html>"):
        raise invalid(path, "an HTML page that is cut off")
    return page


def validate(path: Path) -> None:
    """Raise ArtifactError if the file is not a whole page."""
    read(path)
