"""Typed configuration: one section a stage, two presets of one pipeline.

A value comes from, in rising order: the defaults here, the preset, `--config FILE`,
`--set a.b=c`. An unknown key or a bad value is a one-line ConfigError that names the
nearest valid one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicverse.errors import ConfigError

PRESETS = ("embedded", "gpu")
MAX_CONFIG_BYTES = 1 << 20


class Section(BaseModel):
    """A part of the configuration; immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FilterConfig(Section):
    """The data filter. A threshold of null is not applied.

    The scores are defined in `dynamicverse.curation.scores`. By default only what no stage can
    use is rejected; a static camera, a rotation and a static scene never are.
    """

    min_sharpness: float | None = Field(0.002, ge=0, description="below: nothing is sharp")
    min_contrast: float | None = Field(0.008, ge=0, description="below: black or uniform")
    min_brightness: float | None = Field(0.004, ge=0, description="below: black")
    max_brightness: float | None = Field(None, ge=0)
    max_clipped_share: float | None = Field(None, ge=0, le=1)
    min_motion: float | None = Field(None, ge=0)
    max_motion: float | None = Field(None, ge=0)
    min_camera_smoothness: float | None = Field(None, ge=0, le=1)
    min_parallax: float | None = Field(None, ge=0, le=1)
    min_moving_share: float | None = Field(None, ge=0, le=1)
    max_moving_share: float | None = Field(None, ge=0, le=1)
    max_duplicate_share: float | None = Field(None, ge=0, le=1)
    on_reject: Literal["skip", "process"] = Field(
        "skip", description="what later stages do with a rejected clip; the verdict is recorded"
    )


class IngestConfig(Section):
    """Decoding, shot detection, data filter."""

    split_shots: bool = Field(True, description="cut a video at its shots; a folder never is")
    min_shot_s: float = Field(
        0.5, ge=0, description="a shot cut out of a longer video that is shorter is rejected"
    )
    fps: float | None = Field(None, gt=0, description="take at most this many frames a second")
    max_side: int | None = Field(
        1280,
        ge=64,
        description="scale the longer side down to this; time and memory grow with the pixels, "
        "and beyond 720p motion is hardly measured any better",
    )
    max_frames: int | None = Field(None, ge=1, description="more frames are an error, not a cut")
    max_pixels: int = Field(1 << 26, ge=1, description="of one frame; larger is an error")
    min_side: int = Field(64, ge=1, description="a frame with a shorter side is an error")
    truncated: Literal["keep", "reject"] = Field(
        "keep", description="a file that ends early: use its good part, or make it an error"
    )
    frame_rate: float | None = Field(
        None, gt=0, description="of frame folders, frames a second; null: not known"
    )
    jpeg_quality: int = Field(95, ge=50, le=100)
    filter: FilterConfig = FilterConfig()


class KeyframesConfig(Section):
    """Optical flow and the choice of keyframes."""

    flow_model: str = Field("dis", description="dis, or unimatch, raft, gmflow with weights")
    score: Literal["mean", "median", "p75", "p90", "p95", "max"] = Field(
        "p90", description="how the lengths of a flow field become the score of its frame"
    )
    ratio: float = Field(0.2, gt=0, le=1, description="share of the frames that become keyframes")
    min_gap: int = Field(3, ge=1, description="least distance of two keyframes, frames")


class AnalysisConfig(Section):
    """Which objects move."""

    backend: str = "motion"
    min_frames: int = Field(8, ge=1, description="motion: drop objects seen in fewer frames")
    min_support: float = Field(
        0.3,
        ge=0,
        le=1,
        description="motion: share of an object's pixels that must move by "
        "their own evidence, not by their colour",
    )
    min_share: float = Field(
        0.005,
        ge=0,
        le=1,
        description="motion: drop objects with a smaller share of the pixels "
        "(all frames) of the largest object",
    )


class SegmentationConfig(Section):
    """Instance masks of the moving objects."""

    backend: str = "motion"
    visuals: bool = Field(True, description="write pictures and videos of the masks as well")


class TracksConfig(Section):
    """Point tracks."""

    backend: str = "klt"
    grid_size: int = Field(50, ge=2, le=400, description="grid points along the longer side")
    interval: int = Field(10, ge=1, description="re-seed the grid every so many frames")
    cotracker3: Literal["auto", "offline", "online"] = Field(
        "auto", description="cotracker3: the whole clip at once, or windows; auto: by its length"
    )
    max_error: float = Field(1.0, gt=0, description="klt: forward-backward error, px")
    max_gap: int = Field(5, ge=0, description="klt: look for a covered point so many frames")
    min_length: int = Field(3, ge=1, description="drop tracks visible in fewer frames")
    max_cells: int = Field(
        36_000_000,
        ge=1,
        description="frames x tracks of the dense artifact, 13 bytes each in memory; the "
        "longest tracks are kept (at 1800 frames: 20,000)",
    )


class DepthConfig(Section):
    """A monocular depth prior."""

    backend: str = Field("none", description="none, or unidepth, depth_anything, depth_pro")
    depth_anything: Literal["outdoor-small", "indoor-small", "outdoor-large", "indoor-large"] = (
        Field("outdoor-small", description="weights; the large ones are non-commercial")
    )


class DenseConfig(Section):
    """Dense depth of the static scene by plane sweep."""

    work_size: int = Field(320, ge=32, description="longer side of the matched pictures, px")
    neighbours: int = Field(4, ge=1, le=16, description="frames that a frame is matched with")
    reach: int = Field(24, ge=1, le=64, description="neighbours are so many frames away at most")
    hypotheses: int = Field(64, ge=16, le=192, description="at most so many depths are tried")
    agree: int = Field(2, ge=1, le=16, description="other views that must confirm a depth")
    fill: int = Field(0, ge=0, description="fill holes up to so many px from known depth")


class FuseConfig(Section):
    """The fused 4D scene."""

    max_points: int = Field(2_000_000, ge=1, description="static points; more are merged")
    max_moving_points: int = Field(2_000_000, ge=1, description="moving points, all frames")
    confidence: float = Field(0.4, ge=0, le=1, description="of static depth, at least")
    edge_share: float = Field(0.05, ge=0, lt=1, description="drop the steepest depth edges")


class CamerasConfig(Section):
    """Cameras and static points from tracks."""

    focal: float = Field(
        1.0,
        gt=0.1,
        lt=20,
        description="focal length / longer side of the picture that is expected, and assumed "
        "where it cannot be estimated",
    )
    focal_sigma: float = Field(0.7, gt=0, description="how far off that may be, in log f")
    centre_sigma: float | None = Field(
        0.01,
        gt=0,
        description="how far the principal point may be off the centre of the picture, of its "
        "longer side; null: it is the centre",
    )
    distortion_sigma: float | None = Field(
        0.02, gt=0, description="how large the radial distortion k1 may be; null: there is none"
    )
    zoom_sigma: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto",
        description="change of log f from frame to frame; null: one focal length for the clip; "
        "auto: one, unless the tracks say that the clip zooms",
    )
    inlier_px: float = Field(3.0, gt=0, description="reprojection error of an inlier, at most")
    loss_px: float = Field(1.0, gt=0, description="scale of the robust loss")
    min_angle: float = Field(
        1.0, gt=0, description="triangulation angle of a point of known depth, degrees"
    )
    tracks_per_frame: int = Field(
        600, ge=50, description="tracks that the cameras are solved from; others only get points"
    )
    max_frames: int = Field(
        600,
        ge=2,
        description="adjust at most so many frames together; in a longer clip these are "
        "keyframes, and the others are fitted to their points",
    )


class ReconstructionConfig(Section):
    """dynamicBA: cameras, structure, moving points, dense depth, fusion."""

    opt_intrinsics: bool = Field(True, description="estimate the focal length")
    refine_depth: bool = Field(
        True, description="with a depth prior: make the depth of static pixels agree with the flow"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where large sums are computed; auto: on a GPU where there is one"
    )
    cameras: CamerasConfig = CamerasConfig()
    dense: DenseConfig = DenseConfig()
    fuse: FuseConfig = FuseConfig()


class CaptionsConfig(Section):
    """Captions of objects, scene and camera."""

    backend: str = "geometric"


class ReportConfig(Section):
    """The HTML report."""

    frames: int = Field(40, ge=1, le=120, description="frames of the clip that the page shows")
    points: int = Field(30_000, ge=0, le=40_000, description="static points of the 4D view")


class TokenPrice(Section):
    """What a model's tokens cost, $ per million."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class VlmConfig(Section):
    """The vision-language model behind the backends `openai` and `qwen`.

    Keys are never part of the configuration: see docs/backends.md.
    """

    url: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        description="of an OpenAI-compatible API, with /v1; null: DashScope, by DASHSCOPE_API_KEY",
    )
    model: str = Field("", max_length=200, description="the name that the server serves it under")
    structured: Literal["auto", "json_schema", "prompt"] = Field(
        "auto",
        description="hold the server to a JSON Schema, or only ask; auto: only QVQ is asked",
    )
    boxes: Literal["auto", "pixels", "thousandths"] = Field(
        "auto",
        description="unit of the boxes that the model was trained on; auto: thousandths of the "
        "picture for Qwen3-VL, else pixels",
    )
    pictures: int = Field(24, ge=1, le=64, description="of a clip, in one question at most")
    picture_side: int = Field(644, ge=56, le=2048, description="longer side of a picture, px")
    max_tokens: int = Field(4096, ge=64, le=65536, description="of an answer, thoughts included")
    max_objects: int = Field(16, ge=1, le=64, description="moving objects in an answer")
    timeout_s: float = Field(300, gt=0, description="of one answer, from question to last word")
    attempts: int = Field(5, ge=1, le=20, description="of a question, when the service fails")
    concurrency: int = Field(
        8, ge=1, le=512, description="scenes, and so requests, under way at once in one process"
    )
    prices: dict[str, TokenPrice] = Field({}, description="of models, for the manifests' cost")

    def decisive(self) -> dict[str, Any]:
        """The part that decides the answers, not how they are got."""
        how = {"url", "timeout_s", "attempts", "concurrency", "prices"}
        return self.model_dump(mode="json", exclude=how)


class ClusterConfig(Section):
    """What a cluster costs. Not part of a run's identity."""

    prices: dict[str, float] = Field(
        {}, description="$ per hour of one pod, by GPU pool (a gpu-type, any, cpu)"
    )


class Config(Section):
    """Everything that decides what a run computes."""

    preset: Literal["embedded", "gpu"] = "embedded"
    ingest: IngestConfig = IngestConfig()
    keyframes: KeyframesConfig = KeyframesConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    tracks: TracksConfig = TracksConfig()
    depth: DepthConfig = DepthConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    captions: CaptionsConfig = CaptionsConfig()
    report: ReportConfig = ReportConfig()
    vlm: VlmConfig = VlmConfig()
    cluster: ClusterConfig = ClusterConfig()


def load(
    preset: str = "embedded",
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> Config:
    """Build the configuration.

    overrides: `a.b=c` strings; the value is read as YAML.
    Raises ConfigError with one line that says what is wrong and what would be right.
    """
    if preset not in PRESETS:
        raise ConfigError(f"no preset '{preset}' (known: {', '.join(PRESETS)})")
    merged: dict[str, Any] = {"preset": preset}
    text = files("dynamicverse").joinpath(f"presets/{preset}.yaml").read_text("utf-8")
    _merge(merged, _parse(text, f"preset {preset}"))
    if file is not None:
        _merge(merged, _parse(_read(file), str(file)))
    for override in overrides:
        _merge(merged, _override(override))
    return validate(merged)


def validate(values: Mapping[str, Any]) -> Config:
    """Check plain values (as from JSON or YAML) against the model."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{file}: a configuration larger than {MAX_CONFIG_BYTES} bytes")
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML ({str(error).splitlines()[0]})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected 'section: {{key: value}}'")
    return values


def _override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text}: expected section.key=value")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from error
    for key in reversed(keys):
        nested = {key: nested}
    return dict(nested)


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(error: ValidationError) -> str:
    """The first problem in one line, with the nearest valid key."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] != "extra_forbidden":
        given = problem.get("input")
        return f"configuration: {path} = {given!r}: {problem['msg'].lower()}"
    model: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return f"configuration: unknown key '{path}'"
        model = annotation
    known = sorted(model.model_fields)
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    prefix = ".".join(location[:-1])
    if near:
        best = f"{prefix}.{near[0]}" if prefix else near[0]
        return f"configuration: unknown key '{path}'; did you mean '{best}'?"
    return f"configuration: unknown key '{path}' (known: {', '.join(known)})"
