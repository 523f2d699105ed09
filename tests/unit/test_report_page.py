"""The report page: complete, bounded, escaped, and honest about what is missing."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rendered import render
from scene_tree import write_manifest, write_tree

from dynamicverse.config import load
from dynamicverse.errors import ArtifactError
from dynamicverse.formats import captions as captions_file
from dynamicverse.formats import images, validate_artifact
from dynamicverse.report import cloud, findings, page, player_data, visuals
from dynamicverse.stages import report
from dynamicverse.stages.base import StageContext

VOID = {"img", "input", "meta", "link", "br"}


class Quiet:
    def progress(self, done: int, total: int) -> None: ...
    def log(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


class Reader(HTMLParser):
    """Tags, attributes and text as a browser would see them; fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data + " "


def build(scene) -> tuple[str, Reader]:
    context = StageContext(load(), Quiet())
    report.run(scene, context)
    validate_artifact(scene, "report")
    text = scene.report.read_text("utf-8")
    assert context.frames > 0
    assert len(text.encode()) <= page.MAX_BYTES
    return text, Reader(text)


def captions_for(scene, object_text="does things", labels=("dolly-in",)):
    captions_file.write(
        scene.captions,
        captions_file.Captions(
            objects=[
                captions_file.ObjectCaption(
                    instance_id=1, text=object_text, source="geometric", facts={}
                )
            ],
            scene=captions_file.Caption(text="A scene & more.", source="geometric", facts={}),
            camera=captions_file.CameraCaption(
                text="The camera moves.",
                source="geometric",
                facts={},
                labels=list(labels),
                segments=[
                    captions_file.CameraSegment(first_frame=0, last_frame=3, labels=list(labels))
                ],
            ),
        ),
    )


@pytest.fixture(scope="module")
def clip():
    return render(8, (96, 56), "orbit", 1, supersample=1)


@pytest.fixture(scope="module")
def tree(clip, tmp_path_factory):
    scene = write_tree(tmp_path_factory.mktemp("tree"), clip)
    captions_for(scene)
    write_manifest(scene, "captions", 8, 0.4, [])
    return scene


def test_a_whole_scene_shows_everything(tree):
    _, read = build(tree)
    for expected in (
        "box-room", "96 × 56", "8 frames", "data filter: accepted", "preset embedded",
        "A scene & more.", "does things", "dolly-in", "From above", "metric scale unknown",
        "relative units", "reconstruction", "cpu", "qwen/Annotations",
    ):  # fmt: skip
        assert expected in read.text
    assert not [a for t, a in read.tags if a.get("class") == "absent"]
    ids = {a.get("id") for _, a in read.tags}
    assert {"clip", "cloud", "time", "play", "scene-data"} <= ids
    assert read.text.count("not run") == 0


def test_the_page_asks_for_nothing_outside(tree):
    text, read = build(tree)
    for tag, attributes in read.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert "style" not in attributes  # the policy would refuse it
        assert not [n for n in attributes if n.startswith("on")]
    code = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    assert not re.search(r"https?://(?!www\.w3\.org)", code)
    assert "url(" not in code
    images_ = [a for t, a in read.tags if t == "img"]
    assert images_
    assert all(a.get("alt") for a in images_)


def test_hostile_names_stay_text(tmp_path, clip):
    hostile = "</script></title><script>alert('x')</script><img src=x onerror=alert(\"y\")>'\"&"
    scene = write_tree(
        tmp_path,
        clip,
        without=("keyframes", "tracks"),
        object_name=hostile,
        category=hostile,
        source_name=hostile,
        warnings=[hostile],
    )
    captions_for(scene, hostile, (hostile,))
    harmless = write_tree(tmp_path / "b", clip, without=("keyframes", "tracks"), warnings=["w"])
    captions_for(harmless)
    _, read = build(scene)
    _, plain = build(harmless)
    assert [t for t, _ in read.tags] == [t for t, _ in plain.tags]
    assert read.text.count("alert('x')") >= 5
    assert not [a for _, a in read.tags if any(n.startswith("on") for n in a)]


def test_missing_stages_are_explained(tmp_path, clip):
    stages = ("keyframes", "analysis", "segmentation", "tracks", "depth", "reconstruction")
    scene = write_tree(tmp_path, clip, without=stages)
    _, read = build(scene)
    for stage in ("keyframes", "segmentation", "tracks", "reconstruction", "captions"):
        assert f"“{stage}”" in read.text
    assert "has not been run for this scene" in read.text
    assert not [a for t, a in read.tags if a.get("id") == "cloud"]


def test_a_rejected_clip_says_so(tmp_path, clip):
    stages = ("keyframes", "analysis", "segmentation", "tracks", "depth", "reconstruction")
    scene = write_tree(tmp_path, clip, without=stages, accepted=False)
    _, read = build(scene)
    assert "data filter: rejected" in read.text
    assert "blur 0.91 is above 0.8" in read.text
    assert "The data filter rejected this clip" in read.text


@pytest.mark.parametrize("status", ["rotation_only", "static_camera", "too_short", "failed"])
def test_reconstructions_without_depth_are_explained(tmp_path, clip, status):
    scene = write_tree(tmp_path, clip, without=("keyframes", "tracks"), status=status)
    _, read = build(scene)
    assert "No depth was recovered. Depth unobservable: no parallax" in read.text
    assert not [a for t, a in read.tags if a.get("id") == "cloud"]


def test_one_frame_and_no_objects(tmp_path):
    clip = render(1, (48, 32), "static", 0, supersample=1)
    scene = write_tree(tmp_path, clip, without=("tracks",), status="too_short")
    _, read = build(scene)
    assert "1 frame " in read.text
    assert "One frame has no flow." in read.text
    assert "No moving object was found" in read.text


def test_without_a_rate_no_seconds_are_claimed(tmp_path, clip):
    scene = write_tree(tmp_path, clip, without=("keyframes", "tracks"), rate=None)
    _, read = build(scene)
    assert "frame rate unknown" in read.text
    assert not re.search(r"frame \d+ · ", read.text)


def test_pictures_of_any_clip_stay_within_their_budget(tmp_path, clip, monkeypatch):
    """Frames and masks of pure noise, the worst there is for compression."""
    monkeypatch.setattr(player_data, "PICTURES_BYTES", 60_000)
    monkeypatch.setattr(player_data, "MASKS_BYTES", 20_000)
    rng = np.random.default_rng(0)
    frames = 50
    scene = write_tree(
        tmp_path,
        replace(
            clip,
            rgb=[rng.integers(0, 256, (90, 160, 3), dtype=np.uint8)] * frames,
            masks=[(rng.random((90, 160)) < 0.5).astype(np.uint8)] * frames,
            c2w_F44=np.tile(clip.c2w_F44[0], (frames, 1, 1)),
            times=np.arange(frames) / 25,
            size=(160, 90),
        ),
        without=("keyframes", "tracks", "reconstruction"),
    )
    data = player_data.build(findings.read(scene, "embedded", 40), 0)
    assert len(data["pictures"]) == len(data["masks"]) == 40
    assert sum(map(len, data["pictures"])) < 60_000 * 4 / 3 + 40 * 40
    assert sum(map(len, data["masks"])) < 20_000 * 4 / 3 + 40 * 40


def test_budgets_add_up_to_less_than_the_bound():
    sheets = 3 * visuals.SHEET * visuals.SHEET_BYTES + visuals.STRIP * visuals.STRIP_BYTES
    crops = visuals.CROPS * visuals.CROP_BYTES + visuals.PLOT_BYTES
    points = 40_000 * 9 + cloud.MAX_DYNAMIC * 10 + player_data.MAX_TRACKS * 120 * 4
    film = player_data.PICTURES_BYTES + player_data.MASKS_BYTES
    assert (sheets + crops + points + film) * 4 / 3 < page.MAX_BYTES - 1_000_000


def test_texts_are_bounded_and_say_so(tmp_path, clip):
    scene = write_tree(
        tmp_path, clip, without=("keyframes", "tracks"), warnings=["word " * 1500] * 300
    )
    text, read = build(scene)
    assert "more, in the manifests" in read.text
    assert "(cut here)" in read.text
    assert len(text) < 1_000_000


def test_a_damaged_artifact_is_an_error(tmp_path, tree):
    broken = tmp_path / "root"
    shutil.copytree(tree.root, broken)
    scene = replace(tree, root=broken)
    scene.poses.write_bytes(scene.poses.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="poses"):
        report.run(scene, StageContext(load(), Quiet()))
    images.write_jpeg(scene.rgb(0), np.zeros((5, 5, 3), np.uint8))


def test_settings_enter_the_key():
    config = load(overrides=["report.frames=12"])
    assert report.STAGE.settings(config) == {"preset": "embedded", "frames": 12, "points": 30_000}
