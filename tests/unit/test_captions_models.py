"""The captioners `camerabench` and `dam`. The package of DAM is not installed here (its code and
its weights come from elsewhere): its adapter is tested with a stand-in of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving_clips import run_stage
from test_captions_qwen import answering, measured_labels, own_cache, tree  # noqa: F401
from vlm_server import MODEL, vlm_server

from dynamicverse.backends.captioner import dam
from dynamicverse.config import CaptionsConfig
from dynamicverse.errors import AnswerError, MissingModelError
from dynamicverse.formats import captions as captions_file
from dynamicverse.scene import Scene
from dynamicverse.stages.captions import gather


def test_camerabench_is_asked_about_the_camera_alone_and_checked(tree: Scene) -> None:  # noqa: F811
    measured = measured_labels(tree)
    plain = captions_file.read(tree.captions)
    with vlm_server() as server:
        server.behave.append(answering(["static"])(server))
        overrides = ["captions.backend=camerabench", f"vlm.url={server.url}", f"vlm.model={MODEL}"]
        context, _ = run_stage("captions", tree, overrides)
    found = captions_file.read(tree.captions)
    assert len(server.questions) == 1
    assert found.objects == plain.objects
    assert found.scene == plain.scene
    assert found.camera.source.startswith(f"camerabench: {MODEL}")
    assert found.camera.labels == measured  # the trajectory contradicts what the model says
    assert found.camera.facts["contradicted_labels"] == ["static"]
    assert context.facts["vlm"]["requests"] == 1


class Describer:
    """Says how many pictures it saw and which part of the first is masked."""

    def __init__(self, says: str | None = None) -> None:
        self.says, self.asked = says, []

    def to(self, where: Any) -> Describer:
        return self

    def get_description(self, pictures: Any, masks: Any, question: str, **options: Any) -> str:
        assert question.count("<image>") == len(pictures) == len(masks) == dam.FRAMES
        assert all(p.size == m.size and m.mode == "L" for p, m in zip(pictures, masks, strict=True))
        assert all(set(np.unique(m)) == {0, 255} for m in masks)
        self.asked.append([np.array(mask) > 0 for mask in masks])
        return f"thing {len(self.asked)} \n" if self.says is None else self.says


def test_dam_describes_every_object_from_its_masks(tree: Scene) -> None:  # noqa: F811
    model = Describer()
    evidence = gather(tree)
    plain = dam.GeometricCaptioner(CaptionsConfig()).caption(evidence, lambda *_: None)
    found = dam.DamCaptioner(CaptionsConfig(), model).caption(evidence, lambda *_: None)
    assert [one.text for one in found.objects] == ["thing 1", "thing 2"]
    assert (found.scene, found.camera) == (plain.scene, plain.camera)
    for one, before, masks in zip(found.objects, plain.objects, model.asked, strict=True):
        assert one.facts["measured_text"] == before.text
        shown = [f for f in evidence.keyframes if (evidence.mask(f) == one.instance_id).any()]
        assert one.facts["pictures"] == len(shown)
        for frame in (shown[0], shown[-1]):
            expected = evidence.mask(frame) == one.instance_id
            assert any(np.array_equal(mask, expected) for mask in masks)


def test_dam_that_says_nothing_is_an_error(tree: Scene) -> None:  # noqa: F811
    with pytest.raises(AnswerError, match="said nothing"):
        dam.DamCaptioner(CaptionsConfig(), Describer(" ")).caption(gather(tree), lambda *_: None)


def test_without_its_package_dam_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MissingModelError, match=r"describe-anything@d13161d|weights pull dam"):
        dam.DamCaptioner(CaptionsConfig())
