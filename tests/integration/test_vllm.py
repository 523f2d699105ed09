"""The VLM backends against a real vLLM server on the CPU, with a tiny random Qwen2.5-VL.

VLLM_PYTHON=/path/to/python pytest tests/integration/test_vllm.py      (vLLM's CPU build)

The model answers nonsense in the form that the schema asks for: what is tested is that the
server takes our questions and that we take its answers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamicverse.backends.analysis.openai import MovingThings, VlmAnalysis
from dynamicverse.backends.vlm import prompts
from dynamicverse.backends.vlm.client import Question, VlmClient
from dynamicverse.backends.vlm.pictures import encode
from dynamicverse.backends.vlm.usage import Usage
from dynamicverse.config import AnalysisConfig, VlmConfig
from dynamicverse.errors import MissingModelError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "tiny-qwen"
START_S = 600
MAKER = Path(__file__).parents[1] / "tiny_qwen.py"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        pytest.skip("VLLM_PYTHON does not name a Python with vLLM's CPU build")
    folder = tmp_path_factory.mktemp("vllm")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    model = folder / "model"
    subprocess.run([python, str(MAKER), str(model)], check=True, env=environment, timeout=300)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", "16384", "--max-num-seqs", "4", "--enforce-eager", "--dtype", "bfloat16",
        "--limit-mm-per-prompt", '{"image": 8, "video": 0}', "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYNAMICVERSE_CACHE", str(tmp_path / "cache"))


def settings(url: str, **values: Any) -> VlmConfig:
    return VlmConfig(
        **{"url": url, "model": MODEL, "pictures": 4, "picture_side": 224, "max_tokens": 4096,
           "max_objects": 2, "attempts": 1, **values}
    )  # fmt: skip


class Clip:
    """Six frames of noise on which nothing moves."""

    size = (216, 120)
    keyframes = (0, 3, 5)

    def __len__(self) -> int:
        return 6

    def rgb(self, frame: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (120, 216, 3), dtype=np.uint8)

    def flow(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((120, 216, 2), np.float32), np.ones((120, 216), np.bool_)


def question(url: str) -> Question[MovingThings]:
    backend = VlmAnalysis(AnalysisConfig(), settings(url))
    return backend._question([encode(Clip().rgb(f), 224) for f in Clip.keyframes])


def test_an_answer_fits_the_schema_that_the_server_was_held_to(url: str) -> None:
    usage = Usage()
    client = VlmClient(settings(url))
    asked = question(url)
    answer = client.ask(asked, usage)
    assert 1 <= len(answer.objects) <= 2
    assert (client.ask(asked, usage), usage.cached) == (answer, 1)
    assert (usage.requests, usage.repairs) == (1, 0)
    # three pictures of 224x112 are 32 tokens each
    assert usage.prompt_tokens > 3 * 32
    assert usage.completion_tokens > 0


def test_a_short_schema_is_answered(url: str) -> None:
    from dynamicverse.backends.captioner.qwen import CameraDescription
    from dynamicverse.backends.captioner.vocabulary import VOCABULARY

    schema = CameraDescription.model_json_schema()
    schema["properties"]["labels"] = {
        "type": "array", "maxItems": 3, "items": {"enum": sorted(VOCABULARY)},
    }  # fmt: skip
    schema["properties"]["description"]["maxLength"] = 60
    asked = Question(
        prompt=prompts.read("camera"), values={"count": "1"},
        pictures=[encode(Clip().rgb(0), 224)], answer=CameraDescription, schema=schema,
    )  # fmt: skip
    usage = Usage()
    answer = VlmClient(settings(url)).ask(asked, usage)
    assert set(answer.labels) <= VOCABULARY
    assert 1 <= len(answer.description) <= 60
    assert (usage.requests, usage.repairs) == (1, 0)


def test_the_analysis_backend_marks_what_the_model_invents(url: str) -> None:
    backend = VlmAnalysis(AnalysisConfig(), settings(url))
    facts: dict[str, Any] = {}
    found = backend.analyse(Clip(), lambda frame, labels: None, lambda done: None, facts)
    assert found.dynamic
    assert all(o.moves is not True for o in found.dynamic)
    assert facts["vlm"]["model"] == MODEL


def test_a_model_that_is_not_served_is_named_with_those_that_are(url: str) -> None:
    client = VlmClient(settings(url, model="Qwen/Qwen2.5-VL-72B-Instruct"))
    with pytest.raises(MissingModelError, match=f"serves: {MODEL}"):
        client.ask(question(url), Usage())
