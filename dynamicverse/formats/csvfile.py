"""CSV tables (RFC 4180, UTF-8) that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from dynamicverse.formats.atomic import write_bytes
from dynamicverse.formats.bounded import invalid, read_bytes

MAX_BYTES = 16 << 20
MAX_CELL = 20_000
# a cell that starts with one of these may be run as a formula (OWASP, CSV injection);
# the apostrophe is here so that the guard can be taken off again without loss
GUARDED = tuple("=+-@\t\r\n'＝＋－＠")


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table; a cell that looks like a formula gets a leading apostrophe."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    for row in rows:
        if len(row) != len(header) or any(len(cell) >= MAX_CELL or "\0" in cell for cell in row):
            raise invalid(path, "a row that does not fit the table")
        writer.writerow([_guard(cell) for cell in row])
    write_bytes(path, text.getvalue().encode())


def read(path: Path, header: Sequence[str]) -> list[list[str]]:
    """The rows below `header`, guards taken off; raises ArtifactError."""
    data = read_bytes(path, MAX_BYTES)
    if b"\0" in data:
        raise invalid(path, "holds a null character")
    if not data.endswith(b"\n"):
        raise invalid(path, "the last line is cut off")
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise invalid(path, f"not a CSV table ({error})") from error
    if lines[0] != list(header):
        raise invalid(path, f"expected the columns {','.join(header)}")
    if any(len(line) != len(header) or any(len(c) > MAX_CELL for c in line) for line in lines):
        raise invalid(path, "a row that does not fit the table")
    return [[_unguard(cell) for cell in line] for line in lines[1:]]


def _guard(cell: str) -> str:
    return "'" + cell if cell.startswith(GUARDED) else cell


def _unguard(cell: str) -> str:
    return cell[1:] if cell.startswith("'") else cell
