"""The report in a real browser: no error, no request, and pictures where they belong."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rendered import render
from scene_tree import write_manifest, write_tree

from dynamicverse.backends.captioner.geometric import GeometricCaptioner
from dynamicverse.config import load
from dynamicverse.report.dataset import build_index
from dynamicverse.scene import Scene
from dynamicverse.stages import captions, report
from dynamicverse.stages.base import StageContext

pytestmark = pytest.mark.browser
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Quiet:
    def progress(self, done: int, total: int) -> None: ...
    def log(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(executable).is_file():
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield found
        found.close()


def finish(scene: Scene) -> Scene:
    captions.run(scene, StageContext(load(), Quiet(), GeometricCaptioner(load().captions)))
    write_manifest(scene, "captions", 12, 0.3, [])
    report.run(scene, StageContext(load(), Quiet()))
    return scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    clip = render(12, (160, 96), "orbit", 2, supersample=1)
    hostile = "<img src=x onerror=document.title='broken'>"
    return finish(write_tree(tmp_path_factory.mktemp("tree"), clip, object_name=hostile))


class Watched:
    """A page, and everything it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**context)
        self.page.on("console", lambda m: self.problems.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("requestfailed", lambda r: self.problems.append(f"failed: {r.url[:100]}"))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(path.as_uri(), wait_until="load")
        self.page.wait_for_timeout(500)
        self.own = path.as_uri()

    def is_clean(self) -> bool:
        foreign = [r for r in self.requests if r != self.own and not r.startswith("data:")]
        assert self.problems == []
        assert foreign == []
        return True

    def pixels(self, canvas: str) -> np.ndarray:
        """What a canvas shows, (H,W,4) RGBA."""
        uri = self.page.evaluate("id => document.getElementById(id).toDataURL()", canvas)
        data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
        return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)

    def seek(self, k: int) -> None:
        self.page.evaluate(
            "k => { const t = document.getElementById('time'); t.value = k;"
            "t.dispatchEvent(new Event('input')); }",
            k,
        )
        self.page.wait_for_timeout(250)


def test_opens_clean_and_draws_both_views(browser: Any, scene: Scene) -> None:
    watched = Watched(browser, scene.report, viewport={"width": 1280, "height": 900})
    assert watched.is_clean()
    assert watched.page.title() == "box-room · DynamicVerse"  # the hostile name ran nothing
    clip = watched.pixels("clip")
    assert clip[..., :3].std() > 20
    assert (clip[..., 3] == 255).all()
    cloud = watched.pixels("cloud")
    assert (cloud[..., 3] > 0).mean() > 0.05
    assert len(np.unique(cloud[cloud[..., 3] > 0][:, :3], axis=0)) > 100
    broken = "() => [...document.images].filter(i => !i.naturalWidth).length"
    assert watched.page.evaluate(broken) == 0
    watched.page.close()


def test_time_and_views_change_the_picture(browser: Any, scene: Scene) -> None:
    watched = Watched(browser, scene.report, viewport={"width": 1280, "height": 900})
    first_clip, first_cloud = watched.pixels("clip"), watched.pixels("cloud")
    watched.seek(9)
    assert watched.page.locator("#moment").inner_text().startswith("frame 9")
    assert (watched.pixels("clip") != first_clip).any()
    assert (watched.pixels("cloud") != first_cloud).any()
    with_masks = watched.pixels("clip")
    watched.page.uncheck("#show-masks")
    assert (watched.pixels("clip") != with_masks).any()
    watched.page.check("#show-tracks")
    watched.page.click("[data-view=top]")
    watched.page.wait_for_timeout(250)
    assert (watched.pixels("cloud")[..., 3] > 0).mean() > 0.02
    watched.page.focus("#cloud")
    before = watched.pixels("cloud")
    watched.page.keyboard.press("ArrowLeft")
    watched.page.wait_for_timeout(250)
    assert (watched.pixels("cloud") != before).any()
    watched.page.click("#play")
    watched.page.wait_for_timeout(300)
    assert not watched.page.locator("#moment").inner_text().startswith("frame 9 ")
    assert watched.is_clean()
    watched.page.close()


def test_through_the_camera_the_points_look_like_the_clip(browser: Any, scene: Scene) -> None:
    """An end-to-end check of poses, intrinsics, quantisation and the renderer in the page."""
    watched = Watched(browser, scene.report, viewport={"width": 1280, "height": 900})
    for box in ("masks", "boxes"):
        watched.page.uncheck(f"#show-{box}")
    watched.page.click("[data-view=camera]")
    watched.seek(6)
    clip = watched.pixels("clip").astype(float)
    cloud = watched.pixels("cloud").astype(float)
    scale = min(cloud.shape[1] / 160, cloud.shape[0] / 96)
    left, top = (cloud.shape[1] - 160 * scale) / 2, (cloud.shape[0] - 96 * scale) / 2
    v, u = np.mgrid[4:92:2, 4:156:2].reshape(2, -1) + 0.5
    drawn = cloud[(top + v * scale).astype(int), (left + u * scale).astype(int)]
    shown = clip[(v * clip.shape[0] / 96).astype(int), (u * clip.shape[1] / 160).astype(int)]
    covered = drawn[:, 3] > 0
    assert covered.mean() > 0.6
    likeness = np.corrcoef(drawn[covered, :3].ravel(), shown[covered, :3].ravel())[0, 1]
    assert likeness > 0.5
    moved = np.roll(shown.reshape(44, 76, 4), 12, axis=1).reshape(-1, 4)
    unlike = np.corrcoef(drawn[covered, :3].ravel(), moved[covered, :3].ravel())[0, 1]
    assert likeness > unlike + 0.2
    watched.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(380, "dark"), (1400, "light")])
def test_fits_the_window_in_both_schemes(
    browser: Any, scene: Scene, width: int, scheme: str
) -> None:
    watched = Watched(
        browser, scene.report, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = sum(int(c) for c in ground[4:-1].split(","))
    assert (level < 200) == (scheme == "dark")
    assert watched.is_clean()
    watched.page.close()


@pytest.mark.parametrize("status", ["rotation_only", "failed"])
def test_degenerate_scenes_open_clean(browser: Any, tmp_path: Path, status: str) -> None:
    clip = render(2, (64, 40), "rotation", 0, supersample=1)
    found = finish(write_tree(tmp_path, clip, status=status, without=("tracks",)))
    watched = Watched(browser, found.report)
    assert watched.is_clean()
    assert watched.pixels("clip")[..., :3].std() > 20
    watched.page.close()


def test_one_frame_opens_clean(browser: Any, tmp_path: Path) -> None:
    clip = render(1, (64, 40), "static", 1, supersample=1)
    found = finish(write_tree(tmp_path, clip, status="too_short", without=("tracks",)))
    watched = Watched(browser, found.report)
    assert watched.is_clean()
    assert watched.page.locator("#play").is_disabled()
    watched.page.close()


def test_the_index_opens_clean_and_leads_to_the_report(browser: Any, scene: Scene) -> None:
    failed = {"name": "<script>x</script>", "stage": "ingest", "reason": "empty", "message": "m"}
    watched = Watched(browser, build_index(scene.root, scene.dataset, [failed]))
    assert watched.is_clean()
    watched.page.click("text=box-room")
    watched.page.wait_for_load_state("load")
    assert watched.page.title() == "box-room · DynamicVerse"
    watched.page.close()
