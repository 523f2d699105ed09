"""helm/vllm-qwen: what each values file makes, what is refused, and what vLLM would say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import charts
import kubernetes_validate
import pytest
import yaml

CHART = "vllm-qwen"
FOLDER = charts.CHARTS[CHART]
ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
VALUES = charts.values_files(CHART)
FLAGS = json.loads((Path(__file__).parent / "vllm_flags.json").read_text())
PARSER = charts.ROOT / "tests" / "vllm_parser.py"
needs_helm = pytest.mark.skipif(
    charts.find("helm", *charts.HELM_PLACES) is None,
    reason="no `helm` program (`python tests/get_tools.py`, or set HELM)",
)


def golden(values: Path) -> list[charts.Manifest]:
    return charts.documents(charts.output(values).read_text())


def container(manifests: list[charts.Manifest]) -> dict[str, Any]:
    pod = charts.one(manifests, "Deployment")["spec"]["template"]["spec"]
    found: dict[str, Any] = pod["containers"][0]
    return found


def vllm_arguments(manifests: list[charts.Manifest]) -> list[str]:
    """The arguments as `vllm serve` gets them: the model, then flags."""
    arguments: list[str] = container(manifests)["args"]
    return arguments


def gpus(manifests: list[charts.Manifest]) -> int:
    limits = container(manifests)["resources"]["limits"]
    return sum(int(n) for name, n in limits.items() if name.startswith("nvidia.com/"))


@needs_helm
@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_render_is_the_golden_one(values: Path) -> None:
    assert charts.render(CHART, values) == golden(values), "run `python tests/charts.py`"


@needs_helm
@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda p: p.stem if p else "defaults")
def test_lint_is_clean(values: Path | None) -> None:
    extra = ["--values", str(values)] if values else []
    done = charts.helm("lint", "--strict", str(FOLDER), *extra)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_manifests_are_valid(values: Path) -> None:
    kinds = set()
    for manifest in golden(values):
        kinds.add(manifest["kind"])
        if manifest["apiVersion"].split("/")[0] not in charts.CUSTOM_GROUPS:
            kubernetes_validate.validate(manifest, charts.KUBERNETES, strict=True)
    assert {"Deployment", "Service"} <= kinds


def test_everything_is_somewhere() -> None:
    made = {m["kind"] for values in VALUES for m in golden(values)}
    assert made >= {
        "Deployment", "Service", "ServiceAccount", "Secret", "PersistentVolumeClaim", "ConfigMap",
        "ServiceMonitor", "PodMonitor", "ScaledObject", "HorizontalPodAutoscaler",
        "PodDisruptionBudget", "NetworkPolicy", "Pod",
    }  # fmt: skip


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_tensor_parallelism_is_the_number_of_gpus(values: Path) -> None:
    manifests = golden(values)
    flags = dict(a.split("=", 1) for a in vllm_arguments(manifests) if "=" in a)
    wanted = int(flags.get("--tensor-parallel-size", 0)) * int(
        flags.get("--pipeline-parallel-size", 1)
    )
    resources = container(manifests)["resources"]
    assert gpus(manifests) == wanted
    asked = {k: v for k, v in resources["requests"].items() if "/" in k}
    assert asked == {k: v for k, v in resources["limits"].items() if "/" in k}
    assert all(isinstance(v, str) for v in asked.values())


def test_the_presets_have_the_gpus_of_their_names() -> None:
    found = {v.stem.removeprefix("values-"): gpus(golden(v)) for v in VALUES}
    assert found["qwen2.5-vl-72b"] == found["qwen2.5-vl-72b-a100"] == 4
    assert found["qwen2.5-vl-32b"] == found["qwen3-vl-30b-a3b"] == 2
    assert found["qwen2.5-vl-7b"] == found["camerabench"] == 1
    assert found["qwen3-vl-235b-a22b"] == 8
    assert found["ci-cpu"] == 0


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_only_mixtures_of_experts_spread_experts(values: Path) -> None:
    arguments = vllm_arguments(golden(values))
    assert ("--enable-expert-parallel" in arguments) == ("qwen3-vl" in values.stem)


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_weights_are_pinned_or_on_a_volume(values: Path) -> None:
    arguments = vllm_arguments(golden(values))
    model = next(a.removeprefix("--model=") for a in arguments)
    pinned = any(a.startswith("--revision=") for a in arguments)
    assert pinned or model.startswith("/") or "camerabench" in values.stem


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_flags_are_known_to_the_version_served(values: Path) -> None:
    """Against the list that vLLM's parser of that version gave (tests/vllm_parser.py)."""
    chart = yaml.safe_load((FOLDER / "Chart.yaml").read_text())
    assert FLAGS["vllm"] == chart["appVersion"]
    assert wrong_flags(vllm_arguments(golden(values))) == []


@pytest.mark.parametrize(
    "argument",
    ["--enable-expert-paralel", "--mm-encoder-tp-mode=dat", "--seed", "--enforce-eager=1"],
)
def test_a_wrong_flag_is_found(argument: str) -> None:
    assert wrong_flags(["model", argument]) == [argument]


def wrong_flags(arguments: list[str]) -> list[str]:
    """Arguments that the version does not know, or not with (or without) this value."""
    wrong = []
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        flag, _, value = argument.partition("=")
        known = FLAGS.get(flag)
        accepted = known is not None
        if known == "switch":
            accepted = "=" not in argument
        elif known == "value":
            accepted = bool(value)
        elif known is not None:
            accepted = value in known
        if not accepted:
            wrong.append(argument)
    return wrong


@pytest.mark.skipif(
    "VLLM_PYTHON" not in os.environ, reason="set VLLM_PYTHON to a Python that has vLLM"
)
def test_the_real_parser_accepts_every_preset() -> None:
    lists = [vllm_arguments(golden(values)) for values in VALUES]
    command = [os.environ["VLLM_PYTHON"], str(PARSER), "parse"]
    text = json.dumps(lists)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


REFUSED = {
    "mixture of experts": ["parallelism.expert=true", "parallelism.tensor=4"],
    "there is one GPU": ["parallelism.expert=true", "model.architecture=moe"],
    "does not divide the 28 attention heads": ["parallelism.tensor=8"],
    "serves with one process": ["accelerator.kind=cpu", "parallelism.tensor=2"],
    "needs a GPU": ["accelerator.kind=cpu", "engine.quantization=fp8_per_tensor"],
    "needs compute capability 8.9": [
        "engine.quantization=fp8_per_tensor", "accelerator.computeCapability=8.0"
    ],
    "GiB of weights for each of 1 GPUs": ["model.weightsGiB=137"],
    "choose one of existingClaim, hostPath": ["cache.existingClaim=a", "cache.hostPath=/b"],
    "leave model.revision empty": ["model.uri=/weights/qwen", "cache.existingClaim=a"],
    "no volume holds it": ["model.uri=/weights/qwen", "model.revision="],
    "no volume holds the weights": ["model.offline=true"],
    "nothing could ever write": ["cache.pvc.create=true", "cache.readOnly=true"],
    "pods on other nodes would wait": ["cache.pvc.create=true", "replicas=2"],
    "fight over the replicas": [
        "keda.enabled=true", "keda.prometheusUrl=http://p", "hpa.enabled=true"
    ],
    "needs keda.prometheusUrl": ["keda.enabled=true"],
    "less than hpa.minReplicas": ["hpa.enabled=true", "hpa.minReplicas=5"],
    "counted twice": ["serviceMonitor.enabled=true", "podMonitor.enabled=true"],
    "both minAvailable and maxUnavailable": ["pdb.enabled=true", "pdb.minAvailable=1"],
    "set parallelism.tensor instead": ['extraArgs=["--tensor-parallel-size=2"]'],
    "set engine.maxModelLen instead": ['extraArgs=["--max_model_len","9"]'],
}  # fmt: skip


@needs_helm
@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_work_is_refused_with_a_sentence(sentence: str) -> None:
    done = charts.template(CHART, settings=REFUSED[sentence])
    assert done.returncode != 0
    assert sentence in done.stderr


@needs_helm
@pytest.mark.parametrize(
    "setting",
    [
        "parallelism.tensr=2", "parallelism.tensor=0", "parallelism.tensor=two",
        "model.revision=main", "model.uri=not a model", "engine.gpuMemoryUtilization=1.5",
        "accelerator.kind=tpu", "engine.limitMmPerPrompt.audio=1", "keda.minReplicas=0",
        "image.digest=sha256:1", "service.port=0", "resources.requests.cpu=four",
    ],
)  # fmt: skip
def test_schema_refuses(setting: str) -> None:
    done = charts.template(CHART, settings=[setting])
    assert done.returncode != 0
    assert "don't meet the specifications of the schema" in done.stderr


@needs_helm
@pytest.mark.parametrize(
    "settings",
    [
        ["parallelism.tensor=4"],
        ["parallelism.tensor=2", "parallelism.pipeline=2"],
        ["engine.quantization=fp8_per_tensor", "accelerator.computeCapability=8.9"],
        ["global.team=vision"],
        ["resources.requests.cpu=2", "keda.threshold=1.5"],
    ],
)
def test_schema_accepts(settings: list[str]) -> None:
    charts.render(CHART, settings=settings)


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_probes_and_progress_deadline_are_coupled(values: Path) -> None:
    manifests = golden(values)
    probe = container(manifests)["startupProbe"]
    allowed = probe["periodSeconds"] * probe["failureThreshold"]
    assert charts.one(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > allowed >= 300


@needs_helm
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([], {"type": "Recreate"}),
        (["replicas=2"], ROLLING),
        (["hpa.enabled=true"], ROLLING),
        (["strategy.type=Recreate", "replicas=2"], {"type": "Recreate"}),
    ],
    ids=str,
)
def test_a_new_pod_never_needs_more_gpus(settings: list[str], wanted: dict[str, Any]) -> None:
    """And `helm --wait` waits: of one replica none may be unavailable."""
    manifests = charts.render(CHART, None, settings)
    assert charts.one(manifests, "Deployment")["spec"]["strategy"] == wanted


@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.stem)
def test_pods_meet_pod_security_restricted(values: Path) -> None:
    for manifest in golden(values):
        if manifest["kind"] not in ("Deployment", "Pod"):
            continue
        pod = manifest["spec"]["template"]["spec"] if "template" in manifest["spec"] else (
            manifest["spec"])  # fmt: skip
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_a_release_selects_its_server_and_not_its_test() -> None:
    for values in VALUES:
        manifests = golden(values)
        selector = charts.one(manifests, "Service")["spec"]["selector"]
        deployment = charts.one(manifests, "Deployment")["spec"]
        assert deployment["selector"]["matchLabels"] == selector
        assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
        for pod in (m for m in manifests if m["kind"] == "Pod"):
            assert not selector.items() <= pod["metadata"]["labels"].items()


def test_scaling_waits_for_the_served_name() -> None:
    manifests = golden(FOLDER / "ci" / "values-everything.yaml")
    trigger = charts.one(manifests, "ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert trigger["query"] == (
        'sum(vllm:num_requests_waiting{namespace="vision",model_name="qwen"})'
    )
    assert "replicas" not in charts.one(manifests, "Deployment")["spec"]


@needs_helm
def test_notes_give_the_url_for_the_stages(tmp_path: Path) -> None:
    said = charts.notes(CHART, tmp_path, ["model.servedName=qwen", "model.revision="])
    assert "--vlm-url http://test-vllm-qwen.vision.svc:8000/v1 --vlm-model qwen" in said
    assert "model.revision is empty" in said
    assert "no cache for the weights" in said


class _Server(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that knows one model."""

    asked: ClassVar[list[dict[str, Any]]] = []
    answer: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "qwen"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        self._send(200 if self.answer else 503, self.answer)

    def _send(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[str]:
    _Server.asked.clear()
    _Server.answer = {
        "choices": [{"message": {"content": "red"}}], "usage": {"completion_tokens": 1}
    }  # fmt: skip
    http = HTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    thread.join()
    http.server_close()


def post_pixel(url: str, model: str = "qwen") -> subprocess.CompletedProcess[str]:
    """The program of `helm test`, as the pod runs it."""
    script = (FOLDER / "files" / "post_pixel.py").read_text()
    environment = {"VLM_URL": url, "VLM_MODEL": model, "VLLM_API_KEY": "k", "VLM_TIMEOUT": "10"}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_the_test_hook_posts_one_pixel(server: str) -> None:
    import base64

    import cv2
    import numpy as np

    done = post_pixel(server)
    assert done.returncode == 0, done.stderr
    asked = _Server.asked[0]
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer k")
    url = asked["messages"][0]["content"][0]["image_url"]["url"]
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.tolist() == [[[0, 0, 255]]]  # blue, green, red


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("another", {"choices": [{"message": {"content": "red"}}]}),
        ("qwen", {}),
        ("qwen", {"choices": [{"message": {"content": None}}], "usage": {"completion_tokens": 1}}),
        ("qwen", {"choices": [{"message": {"content": ""}}], "usage": {"completion_tokens": 0}}),
    ],
)
def test_the_test_hook_fails_where_it_should(
    server: str, model: str, answer: dict[str, Any]
) -> None:
    _Server.answer = answer
    done = post_pixel(server, model)
    assert done.returncode == 1
    assert done.stderr


def test_the_test_hook_names_a_server_that_is_not_there() -> None:
    done = post_pixel("http://127.0.0.1:9/v1")
    assert done.returncode == 1
    assert "http://127.0.0.1:9/v1/models" in done.stderr
