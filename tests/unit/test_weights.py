"""Pulling weights from a local hub: sizes first, checksums, broken downloads, offline."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import tiny_models

from dynamicverse import backends, config, stages
from dynamicverse.backends import downloads, weights
from dynamicverse.backends.weights import File, Weights
from dynamicverse.errors import ConfigError, DynamicVerseError, MissingModelError, StorageError
from dynamicverse.runner import records

COMMIT = "a" * 40
CONTENT = bytes(range(256)) * 4000  # about 1 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """One repository of the hub's protocol, and the same file at a plain URL."""

    breaks: ClassVar[list[int]] = []  # bytes after which the next downloads break off
    ranges: ClassVar[list[str]] = []

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.path.startswith("/api/models/team/tiny/revision/"):
            lfs = {"sha256": DIGEST, "size": len(CONTENT), "pointerSize": 1}
            found = {"rfilename": "model.bin", "size": len(CONTENT), "lfs": lfs}
            answer = {"id": "team/tiny", "sha": COMMIT, "siblings": [found]}
            self._send(200, json.dumps(answer).encode(), {}, body)
        elif self.path in (f"/team/tiny/resolve/{COMMIT}/model.bin", "/plain/model.bin"):
            about = {"X-Repo-Commit": COMMIT, "ETag": f'"{DIGEST}"', "Accept-Ranges": "bytes"}
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            if body:
                self.ranges.append(self.headers.get("Range", ""))
            self._send(206 if wanted else 200, CONTENT[start:], about, body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            large = len(content) > 1000 and self.breaks
            self.wfile.write(content[: self.breaks.pop(0)] if large else content)
            if large:
                self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    tiny_models.real("huggingface_hub")
    hub = weights.client()
    running = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{running.server_port}"
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    Hub.breaks.clear()
    Hub.ranges.clear()
    yield url
    running.shutdown()
    running.server_close()


def _on_hub(sha256: str = DIGEST, repository: str = "team/tiny") -> Weights:
    return Weights("tiny", "tiny", repository, COMMIT, "MIT", (File("model.bin", sha256),))


def _plain(url: str, sha256: str = DIGEST[:8]) -> Weights:
    return Weights("tiny", "tiny", f"{url}/plain", sha256, "MIT", (File("model.bin", sha256),))


def test_the_hub_tells_the_size_and_a_pull_brings_the_file(server: str, tmp_path: Path) -> None:
    wanted = downloads.described(_on_hub())
    assert wanted.files == (File("model.bin", DIGEST, len(CONTENT)),)
    with pytest.raises(MissingModelError, match="dynamicverse weights pull tiny"):
        weights.paths(wanted)
    [path] = downloads.pull(wanted)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "home")
    assert weights.paths(wanted) == [path]
    before = len(Hub.ranges)
    assert downloads.pull(wanted) == [path]
    assert len(Hub.ranges) == before  # nothing is downloaded twice


def test_a_pull_into_a_folder(server: str, tmp_path: Path) -> None:
    [path] = downloads.pull(_on_hub(), tmp_path / "volume")
    assert path.is_relative_to(tmp_path / "volume")


def test_a_wrong_checksum_is_refused(server: str) -> None:
    with pytest.raises(DynamicVerseError, match="SHA-256"):
        downloads.described(_on_hub("0" * 64))
    with pytest.raises(DynamicVerseError, match="not used"):
        downloads.pull(_on_hub("0" * 64))
    with pytest.raises(MissingModelError):
        weights.paths(_on_hub())


def test_an_unknown_repository_is_a_configuration_error(server: str) -> None:
    with pytest.raises(ConfigError, match="team/none"):
        downloads.described(_on_hub(repository="team/none"))


def test_a_plain_url_is_continued_where_it_broke(server: str) -> None:
    Hub.breaks.append(300_000)
    wanted = _plain(server)
    assert downloads.described(wanted).files[0].bytes == len(CONTENT)
    with pytest.raises(StorageError, match="early"):
        downloads.pull(wanted)
    with pytest.raises(MissingModelError):
        weights.paths(wanted)
    [path] = downloads.pull(wanted)
    assert path.read_bytes() == CONTENT
    assert Hub.ranges[-1] == "bytes=300000-"


def test_a_plain_file_with_a_wrong_checksum_does_not_stay(server: str) -> None:
    wanted = _plain(server, "00000000")
    with pytest.raises(DynamicVerseError, match="SHA-256"):
        downloads.pull(wanted)
    assert not list(weights.home().rglob("model.bin*"))


def test_offline_mode_downloads_nothing(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.client().constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        downloads.pull(_plain(server))
    assert Hub.ranges == []


def test_weights_are_chosen_by_backend_or_name() -> None:
    assert [w.name for w in weights.chosen(["sam2"])] == ["sam2"]
    assert len(weights.chosen(["depth_anything"])) == 4
    with pytest.raises(ConfigError, match="did you mean 'unidepth'"):
        weights.chosen(["unidepht"])


def test_everything_registered_is_pinned_but_three() -> None:
    unpinned = [w.name for w in weights.REGISTRY.values() if not w.pinned]
    assert unpinned == ["depth_pro", "sa2va", "dam"]  # their commits could not be looked up
    assert all(re.fullmatch(r"[0-9a-f]{40}", w.revision) for w in weights.REGISTRY.values()
               if w.on_hub and w.pinned)  # fmt: skip


def test_the_revision_of_the_weights_is_in_the_stages_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    chosen = config.load(overrides=["depth.backend=unidepth", "segmentation.backend=motion"])
    before = dict(stages.get("depth").settings(chosen))
    assert before["weights"] == {"unidepth": weights.REGISTRY["unidepth"].revision}
    other = dataclasses.replace(weights.REGISTRY["unidepth"], revision="0" * 40)
    monkeypatch.setitem(weights.REGISTRY, "unidepth", other)
    after = stages.get("depth").settings(chosen)
    keys = [records.key("depth", 1, settings, {}) for settings in (before, after)]
    assert keys[0] != keys[1]
    assert "weights" not in stages.get("segmentation").settings(chosen)


def test_a_branch_counts_as_the_commit_that_was_pulled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert weights.revision(weights.REGISTRY["depth_pro"]) == "main"
    branch = tmp_path / "hub" / "models--apple--DepthPro-hf" / "refs" / "main"
    branch.parent.mkdir(parents=True)
    branch.write_text("c" * 40 + "\n")
    assert weights.revision(weights.REGISTRY["depth_pro"]) == "c" * 40


def test_what_a_backend_notes_is_told_once() -> None:
    backend = SimpleNamespace(info=backends.BackendInfo("raft", "x"), notes=["out of memory"])
    assert backends.noted(backend) == ["raft: out of memory"]
    assert backends.noted(backend) == []
    assert backends.noted(SimpleNamespace(info=backend.info)) == []
    assert backends.noted(None) == []


def test_weights_of_a_preset() -> None:
    from dynamicverse.cli.weights import _of_preset

    assert {"unimatch", "sam2", "cotracker3", "unidepth"} <= set(_of_preset("gpu"))
    assert _of_preset("embedded") == []


def test_doctor_says_what_a_backend_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dynamicverse.runner import doctor

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "cotracker" else name)
    pytest.importorskip("torch")
    found = doctor._backend("tracker", backends.info("tracker", "cotracker3"))
    assert not found.usable
    assert "the package cotracker" in found.detail
    assert "weights pull cotracker3" in found.detail
