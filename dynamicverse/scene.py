"""The one owner of every path in the output tree.

No other module joins a path below an output root. An *artifact* is a named group of files
that one stage writes and others read; stages declare artifacts by name, the runner stages,
digests and validates them through `Scene.files`.

Frame indices in code are 0-based. On disk `rgb/`, `depth/`, `flow/` count from 1 and
`frame_XXXXX` names count from 0, as the documented tree has it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

MAX_NAME = 100
KEY_FRAMES = "key_frames"  # the folder beside the datasets
UNFINISHED = ".tmp"  # how names of files end while they are written (formats/atomic.py)


@dataclass(frozen=True)
class Artifact:
    """Files that one stage writes: glob patterns below the root, to be filled in with
    `{dataset}` and `{scene}`.

    `reproducible` is False where the content holds times of this very run, so that two
    runs of the same work differ in it.
    """

    name: str
    stage: str
    patterns: tuple[str, ...]
    reproducible: bool = True


ARTIFACTS: dict[str, Artifact] = {
    a.name: a
    for a in (
        Artifact("scene_json", "ingest", ("{dataset}/{scene}/scene.json",)),
        Artifact("rgb", "ingest", ("{dataset}/{scene}/rgb/*.jpg",)),
        Artifact("video", "ingest", ("{dataset}/{scene}/videos/{scene}.mp4",)),
        Artifact(
            "key_frames",
            "keyframes",
            (
                "key_frames/{dataset}/{scene}/keyframe_info.json",
                "key_frames/{dataset}/{scene}/frame_*.jpg",
            ),
        ),
        Artifact("flow", "keyframes", ("{dataset}/{scene}/dynamicBA/flow/*.png",)),
        Artifact(
            "analysis", "analysis", ("{dataset}/{scene}/analysis/dynamic_objects_{scene}.json",)
        ),
        Artifact("motion", "analysis", ("{dataset}/{scene}/analysis/motion/*.png",)),
        Artifact("masks", "segmentation", ("{dataset}/{scene}/qwen/Annotations/frame_*.png",)),
        Artifact(
            "segmentation",
            "segmentation",
            (
                "{dataset}/{scene}/segmentation/instance_labels.json",
                "{dataset}/{scene}/segmentation/result_summary.json",
                "{dataset}/{scene}/segmentation/frames/*/*",
                "{dataset}/{scene}/segmentation/videos/*.mp4",
            ),
        ),
        Artifact("tracks", "tracks", ("{dataset}/{scene}/tracks/tracks.npz",)),
        Artifact(
            "depth_prior",
            "depth",
            (
                "{dataset}/{scene}/depth_prior/*.exr",
                "{dataset}/{scene}/depth_prior/intrinsics.json",
            ),
        ),
        Artifact(
            "cameras",
            "reconstruction",
            (
                "{dataset}/{scene}/dynamicBA/poses.npz",
                "{dataset}/{scene}/dynamicBA/reconstruction.json",
            ),
        ),
        Artifact("depth", "reconstruction", ("{dataset}/{scene}/dynamicBA/depth/*.exr",)),
        Artifact("fused", "reconstruction", ("{dataset}/{scene}/dynamicBA/fused_4d.npz",)),
        Artifact(
            "captions",
            "captions",
            (
                "{dataset}/{scene}/captions/captions.json",
                "{dataset}/{scene}/captions/objects.csv",
            ),
        ),
        Artifact("report", "report", ("{dataset}/{scene}/report/index.html",), reproducible=False),
    )
}


def sanitise(name: str) -> str:
    """A file-system-safe scene or dataset name: ASCII letters, digits, `.`, `_`, `-`.

    Never empty, never starting with a dot or dash, at most MAX_NAME characters.
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", ascii_name).lstrip(".-_").rstrip("._-")
    return safe[:MAX_NAME].rstrip("._-") or "scene"


@dataclass(frozen=True)
class Scene:
    """All paths of one scene below a local `root`."""

    root: Path
    dataset: str
    name: str

    def __post_init__(self) -> None:
        for part in (self.dataset, self.name):
            if part != sanitise(part):
                raise ValueError(f"not a sanitised name: {part!r}")

    @property
    def folder(self) -> Path:
        return self.root / self.dataset / self.name

    # ingest
    @property
    def scene_json(self) -> Path:
        return self.folder / "scene.json"

    @property
    def video(self) -> Path:
        return self.folder / "videos" / f"{self.name}.mp4"

    def rgb(self, frame: int) -> Path:
        return self.folder / "rgb" / f"{frame + 1:05d}.jpg"

    # keyframes
    @property
    def key_frames_folder(self) -> Path:
        return self.root / KEY_FRAMES / self.dataset / self.name

    @property
    def keyframe_info(self) -> Path:
        return self.key_frames_folder / "keyframe_info.json"

    def key_frame(self, frame: int) -> Path:
        return self.key_frames_folder / f"frame_{frame:05d}.jpg"

    def flow(self, source: int, target: int) -> Path:
        """Optical flow from frame `source` to frame `target` (both 0-based)."""
        return self.folder / "dynamicBA" / "flow" / f"{source + 1:05d}_{target + 1:05d}.png"

    # analysis
    @property
    def dynamic_objects(self) -> Path:
        return self.folder / "analysis" / f"dynamic_objects_{self.name}.json"

    def motion(self, frame: int) -> Path:
        """Coarse labels of what moves (an aid for the segmentation stage)."""
        return self.folder / "analysis" / "motion" / f"{frame + 1:05d}.png"

    # segmentation
    def mask(self, frame: int) -> Path:
        return self.folder / "qwen" / "Annotations" / f"frame_{frame:05d}.png"

    def segmentation_frame(self, kind: str, frame: int) -> Path:
        """`kind` is original, masks, overlay or segmented."""
        suffix = "jpg" if kind in ("original", "overlay") else "png"
        return self.folder / "segmentation" / "frames" / kind / f"{frame + 1:05d}.{suffix}"

    def segmentation_video(self, kind: str) -> Path:
        return self.folder / "segmentation" / "videos" / f"{kind}.mp4"

    @property
    def instance_labels(self) -> Path:
        return self.folder / "segmentation" / "instance_labels.json"

    @property
    def result_summary(self) -> Path:
        return self.folder / "segmentation" / "result_summary.json"

    # tracks and depth prior
    @property
    def tracks(self) -> Path:
        return self.folder / "tracks" / "tracks.npz"

    def depth_prior(self, frame: int) -> Path:
        return self.folder / "depth_prior" / f"{frame + 1:05d}.exr"

    @property
    def prior_intrinsics(self) -> Path:
        return self.folder / "depth_prior" / "intrinsics.json"

    # reconstruction
    @property
    def poses(self) -> Path:
        return self.folder / "dynamicBA" / "poses.npz"

    @property
    def reconstruction_json(self) -> Path:
        return self.folder / "dynamicBA" / "reconstruction.json"

    def depth(self, frame: int) -> Path:
        return self.folder / "dynamicBA" / "depth" / f"{frame + 1:05d}.exr"

    @property
    def fused(self) -> Path:
        return self.folder / "dynamicBA" / "fused_4d.npz"

    # captions and report
    @property
    def captions(self) -> Path:
        return self.folder / "captions" / "captions.json"

    @property
    def object_captions(self) -> Path:
        return self.folder / "captions" / "objects.csv"

    @property
    def report(self) -> Path:
        return self.folder / "report" / "index.html"

    # book-keeping
    @property
    def log(self) -> Path:
        return self.folder / f"processing_log_{self.name}.log"

    def manifest(self, stage: str) -> Path:
        return self.folder / ".dynamicverse" / f"{stage}.json"

    # artifacts
    def patterns(self, artifact: str) -> list[str]:
        """Glob patterns of an artifact, relative to the root, with `/` separators."""
        return [
            p.format(dataset=self.dataset, scene=self.name) for p in ARTIFACTS[artifact].patterns
        ]

    def files(self, artifact: str) -> list[Path]:
        """The files of an artifact that exist, whole, sorted by path."""
        found = {p for pattern in self.patterns(artifact) for p in self.root.glob(pattern)}
        return sorted(p for p in found if p.is_file() and p.suffix != UNFINISHED)
