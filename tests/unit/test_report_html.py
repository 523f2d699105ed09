"""Text never becomes markup, and the page allows nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicverse.report import html
from dynamicverse.report.html import Html, el

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;</style>"""


def test_children_and_attributes_are_escaped():
    made = el("p", HOSTILE, title=HOSTILE)
    assert "<script" not in made
    assert "<img" not in made
    assert made.count('"') == 2  # those round the one attribute
    assert made.count("<") == 2


def test_elements_nest_without_double_escaping():
    assert el("p", [el("b", "a & b"), None, 3]) == "<p><b>a &amp; b</b>3</p>"
    assert el("input", checked=True, disabled=False, for_="x", data_view="y") == (
        '<input checked for="x" data-view="y">'
    )


@given(st.text())
def test_escaping_is_complete_for_any_text(text):
    made = html.escape(text)
    assert not set(made) & set("<>\"'")
    assert isinstance(made, Html)


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=8))
def test_json_block_cannot_be_left_and_reads_back(value):
    block = html.json_block("data", {"value": value, "x": "</script><!--"})
    body = block.removeprefix('<script type="application/json" id="data">').removesuffix(
        "</script>"
    )
    assert not set(body) & set("<>&")
    assert json.loads(body)["value"] == value


def test_page_policy_allows_exactly_our_code():
    style, script = "p { color: red }", "console.log(1)"
    text = html.page("a <b>", el("p", "x"), [style], [script], None)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src &#x27;none&#x27;" in policy
    assert digest in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "<title>a &lt;b&gt;</title>" in text


def test_code_that_ends_its_own_element_is_refused():
    with pytest.raises(ValueError, match="end tag"):
        html.inline("script", "x = '</SCRIPT>'")
