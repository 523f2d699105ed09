"""The `qwen` captioner: a scripted model's words beside what was measured."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from moving_clips import run_stage
from rendered import render
from scene_tree import write_tree
from vlm_server import MODEL, VlmServer, says, vlm_server

from dynamicverse.backends.captioner import camera_check
from dynamicverse.backends.captioner import vocabulary as v
from dynamicverse.backends.captioner.camera_caption import FROM_FLOW, FROM_TRAJECTORY
from dynamicverse.errors import AnswerError
from dynamicverse.formats import captions as captions_file
from dynamicverse.formats import images, keyframe_info, validate_artifact
from dynamicverse.formats.captions import CameraCaption
from dynamicverse.scene import Scene
from dynamicverse.stages.base import StageContext


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYNAMICVERSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    clip = render(16, (96, 56), "orbit", 2, supersample=1)
    scene = write_tree(tmp_path_factory.mktemp("tree"), clip, without=("keyframes",))
    keyframes = [0, 5, 10, 15]
    for frame in keyframes:
        images.write_jpeg(scene.key_frame(frame), clip.rgb[frame], 90)
    info = keyframe_info.KeyframeInfo(
        score="p90", ratio=0.2, min_gap=3, flow_model="exact", scores=[1.0] * 15,
        keyframes=keyframes,
    )  # fmt: skip
    keyframe_info.write(scene.keyframe_info, info)
    return scene


def answering(labels: list[str]) -> Any:
    """A server's behaviour: an answer for each kind of question."""

    def by_kind(server: VlmServer) -> Any:
        def behave(handler: BaseHTTPRequestHandler) -> None:
            kind = server.questions[-1]["response_format"]["json_schema"]["name"]
            words = {"description": f"words on the {kind}"}
            says(words | ({"labels": labels} if kind == "camera" else {}))(handler)

        return behave

    return by_kind


def caption(
    tree: Scene, labels: list[str]
) -> tuple[captions_file.Captions, StageContext, VlmServer]:
    with vlm_server() as server:
        server.behave.append(answering(labels)(server))
        overrides = ["captions.backend=qwen", f"vlm.url={server.url}", f"vlm.model={MODEL}"]
        context, _ = run_stage("captions", tree, overrides)
    validate_artifact(tree, "captions")
    return captions_file.read(tree.captions), context, server


def measured_labels(tree: Scene) -> list[str]:
    run_stage("captions", tree)
    return list(captions_file.read(tree.captions).camera.labels)


def test_every_caption_has_words_source_and_grounds(tree: Scene) -> None:
    measured = measured_labels(tree)
    found, context, server = caption(tree, measured)
    assert [o.text for o in found.objects] == ["words on the object"] * 2
    assert {o.instance_id for o in found.objects} == {1, 2}
    for one in (*found.objects, found.scene, found.camera):
        assert one.source.startswith(f"qwen: {MODEL}")
        assert one.facts["measured_text"]
        assert one.facts["pictures"] > 0
    assert found.scene.facts["moving_objects"] == 2
    assert captions_file.read_csv(tree.object_captions)[1] == "words on the object"
    assert context.facts["vlm"]["requests"] == 4
    assert "outlined in red" in server.text(0)
    assert "across the picture" in server.text(0) or "stays" in server.text(0)  # was measured


def test_a_camera_that_agrees_is_told_as_the_model_tells_it(tree: Scene) -> None:
    measured = measured_labels(tree)
    found, _, _ = caption(tree, measured)
    assert found.camera.text == "words on the camera"
    assert found.camera.labels == measured
    assert found.camera.facts["contradicted_labels"] == []


def test_a_camera_that_contradicts_the_trajectory_is_corrected(tree: Scene) -> None:
    measured = measured_labels(tree)
    found, _, _ = caption(tree, ["static", "fast-speed"])
    assert found.camera.labels == measured
    assert found.camera.facts["contradicted_labels"] == ["static"]
    assert set(found.camera.facts["labels_not_told"]) == set(measured) & set(v.PRIMITIVES)
    assert "Measured, in disagreement" in found.camera.text
    assert found.camera.segments


def test_an_unknown_label_is_refused(tree: Scene) -> None:
    with pytest.raises(AnswerError, match="not one of the labels"):
        caption(tree, ["crane-shot"])


def measured(labels: list[str], source: str = FROM_TRAJECTORY, **facts: Any) -> CameraCaption:
    return CameraCaption(text="m", labels=labels, segments=[], source=source, facts=facts)


def test_what_the_trajectory_cannot_show_is_not_contradicted() -> None:
    turn = measured(["pan-right"], translation_observable=False, zoom_observable=False)
    found = camera_check.compare(["pan-left", "dolly-in", "zoom-in", "side-tracking"], turn)
    assert found.contradicted == ("pan-left",)
    assert found.unchecked == ("dolly-in", "zoom-in", "side-tracking")
    assert found.not_told == ("pan-right",)


def test_an_arc_is_a_travel_and_a_turn() -> None:
    arc = measured(["arc-CCW"], translation_observable=True)
    found = camera_check.compare(["truck-right", "pan-left", "pan-right"], arc)
    assert found.confirmed == ("truck-right", "pan-left")
    assert found.contradicted == ("pan-right",)


def test_a_static_camera_contradicts_all_motion() -> None:
    still = measured(["static", "no-motion"], status="static_camera")
    found = camera_check.compare(["static", "zoom-in"], still)
    assert (found.confirmed, found.contradicted) == (("static",), ("zoom-in",))


def test_without_a_trajectory_nothing_is_checked() -> None:
    found = camera_check.compare(["pan-left"], measured(["static"], FROM_FLOW))
    assert (found.measured, found.unchecked) == (False, ("pan-left",))
