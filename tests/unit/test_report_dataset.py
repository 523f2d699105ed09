"""The index page of a dataset."""

from __future__ import annotations

import pytest
from rendered import render
from scene_tree import write_tree
from test_report_page import Reader, build

from dynamicverse.formats import html
from dynamicverse.report.dataset import build_index

WITHOUT = ("keyframes", "tracks")


@pytest.fixture(scope="module")
def clip():
    return render(4, (64, 40), "orbit", 1, supersample=1)


def test_index_lists_scenes_links_and_failures(tmp_path, clip):
    build(write_tree(tmp_path, clip, name="one", without=WITHOUT))
    write_tree(tmp_path, clip, name="two", without=WITHOUT, accepted=False)
    record = {"name": "<b>.mp4", "stage": "ingest", "reason": "truncated", "message": "<i>cut</i>"}
    path = build_index(tmp_path, "synthetic", [record])
    assert path == tmp_path / "synthetic" / "index.html"
    html.validate(path)
    read = Reader(path.read_text("utf-8"))
    links = [a["href"] for t, a in read.tags if t == "a"]
    assert links == ["one/report/index.html"]
    assert (path.parent / links[0]).is_file()
    assert "2 scenes" in read.text
    assert "1 accepted" in read.text
    assert "no report yet" in read.text
    assert "blur 0.91 is above 0.8" in read.text
    assert "1 moving object" in read.text
    assert "<b>.mp4" in read.text
    assert "<i>cut</i>" in read.text
    assert not {"b", "i"} & {t for t, _ in read.tags}


def test_a_damaged_scene_does_not_hide_the_others(tmp_path, clip):
    write_tree(tmp_path, clip, name="good", without=WITHOUT)
    bad = write_tree(tmp_path, clip, name="bad", without=WITHOUT)
    bad.scene_json.write_text("{")
    read = Reader(build_index(tmp_path, "synthetic").read_text("utf-8"))
    assert "good" in read.text
    assert "not valid JSON" in read.text
    assert "1 failed" in read.text


def test_an_empty_dataset(tmp_path):
    read = Reader(build_index(tmp_path, "empty").read_text("utf-8"))
    assert "No scene yet." in read.text
