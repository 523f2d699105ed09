"""objects.csv: RFC 4180, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from formats_values import captions_value, property_test
from hypothesis import given
from hypothesis import strategies as st

from dynamicverse.errors import ArtifactError
from dynamicverse.formats import captions, csvfile

HEADER = ("instance_id", "description")
cells = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=20
) | st.sampled_from(
    ["=1+1", "+1", "-1", "@a", "\tx", "\r", "\n=1", "'=1", "''", "a,b", '"', '""', "a\r\nb", "＝1"]
)


@property_test
@given(rows=st.lists(st.tuples(cells, cells), max_size=5))
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "a.csv"
    csvfile.write(path, HEADER, rows)
    assert csvfile.read(path, HEADER) == [list(row) for row in rows]
    raw = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
    assert len(raw) == len(rows) + 1
    for row in raw:
        assert not any(cell.startswith(tuple("=+-@\t\r\n＝＋－＠")) for cell in row)


def test_bytes_follow_rfc_4180(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    csvfile.write(path, HEADER, [("1", 'says "a, b"'), ("2", "=cmd|' /C calc'!A0")])
    assert path.read_bytes() == (
        b'instance_id,description\r\n1,"says ""a, b"""\r\n2,\'=cmd|\' /C calc\'!A0\r\n'
    )


def test_captions_round_trip(tmp_path: Path) -> None:
    path, value = tmp_path / "objects.csv", captions_value()
    captions.write_csv(path, value)
    assert captions.read_csv(path) == {1: value.objects[0].text}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"instance_id,description",
        b"id,text\r\n1,a\r\n",
        b"instance_id,description\r\n1\r\n",
        b"instance_id,description\r\n1,a,b\r\n",
        b"instance_id,description\r\n0,a\r\n",
        b"instance_id,description\r\n256,a\r\n",
        b"instance_id,description\r\n-1,a\r\n",
        b"instance_id,description\r\n1.5,a\r\n",
        b"instance_id,description\r\n" + "²,a\r\n".encode(),
        b"instance_id,description\r\n" + b"9" * 9000 + b",a\r\n",
        b"instance_id,description\r\n1,a\r\n1,b\r\n",
        b'instance_id,description\r\n1,"a\r\n',
        b'instance_id,description\r\n1,"a"b\r\n',
        b"instance_id,description\r\n1,\xff\r\n",
        b"instance_id,description\r\n1,a\0\r\n",
        b"instance_id,description\r\n1," + b"x" * 200_000 + b"\r\n",
    ],
)
def test_malformed(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "objects.csv"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        captions.read_csv(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
