"""Cameras and static points of a clip from its tracks: the entry of the engine.

What can be known is decided from the tracks: a camera that stands still, one that only turns,
or one whose motion and scene can be reconstructed up to scale. What cannot be known is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dynamicverse.config import CamerasConfig, ReconstructionConfig
from dynamicverse.dynamicba.bundle.blocks import Floats, Indices, Observations
from dynamicverse.dynamicba.bundle.solver import FocalPrior, LensPrior, Solution, Structure
from dynamicverse.dynamicba.cameras.doubted_masks import with_doubted_masks
from dynamicverse.dynamicba.cameras.focal_search import STEPS, sharpen
from dynamicverse.dynamicba.cameras.graph import TrackGraph
from dynamicverse.dynamicba.cameras.incremental import extend, finish, grow_all, restart
from dynamicverse.dynamicba.cameras.initialise import hypotheses
from dynamicverse.dynamicba.cameras.mapping import Map, Tolerances, explained_share
from dynamicverse.dynamicba.cameras.rotation import (
    RotationModel,
    extend_rotations,
    fit_rotations,
    thinned,
)
from dynamicverse.dynamicba.cameras.segments import with_segments
from dynamicverse.dynamicba.cameras.solution import CameraSolution, FocalSource, Status
from dynamicverse.dynamicba.cameras.static_points import static_points
from dynamicverse.dynamicba.cameras.zoom import finish_either, stated
from dynamicverse.dynamicba.frame_pool import compute_device
from dynamicverse.formats.intrinsics import PriorIntrinsics
from dynamicverse.formats.tracks import Tracks
from dynamicverse.geometry.lie import se3, se3_inverse
from dynamicverse.geometry.projection import intrinsics

__all__ = ["CameraSolution", "solve_cameras"]

Progress = Callable[[int, int], None]

PRIOR_SIGMA = 0.15  # of log f, where a focal length is given and may be improved
FOCAL_STARTS = (0.7, 1.2, 2.0)  # × the expected focal length
FIRST_MOTION = 0.04  # of the longer side between keyframes, median
LEAST_KEYFRAMES = 8  # or all frames, where there are fewer
SURVIVAL = 0.6  # of the tracks of a keyframe must be left in the next
OBSERVABLE = 0.25  # largest standard deviation of log f of an estimate
DOUBTFUL = 0.05  # from here on its uncertainty is stated
MODEL_FRAMES = 24  # keyframes on which the rotation model competes,
MODEL_OBSERVATIONS = 15_000  # with about so many observations
LEAST_EXPLAINED = 0.3  # of the observations, by the model that is chosen
GAIN = 0.03  # of the observations that parallax must explain beyond rotations
LEAST_TRUSTED = 0.05  # of the points must have a known depth
TRUSTED_POINTS = 30
STARTS_TRIED = 3
COMPLETE = 0.9  # of the keyframes registered: no other start is tried
KEPT = (None, LensPrior())  # priors where intrinsics stay as they are
LONG_ITERATIONS = 15  # of a final adjustment of all frames of a long clip


def solve_cameras(
    tracks: Tracks,
    config: ReconstructionConfig,
    *,
    prior: PriorIntrinsics | None = None,
    progress: Progress | None = None,
) -> CameraSolution:
    """Solve cameras, focal length and static points from tracks.

    Tracks with an instance id above 0 are left out, unless most of a frame is (`doubted_masks`).
    The principal point is the prior's, or the centre of the picture. progress: called with
    (registered, all) frames.
    """
    told = progress or (lambda done, total: None)
    found = with_doubted_masks(tracks, lambda some: _Clip(some, config, prior, told).solve())
    if found.status != "full" or found.registered_F.all():
        return found
    held = config.model_copy(update={"opt_intrinsics": False})

    def solve_part(part: Tracks, K: Floats) -> CameraSolution:
        known = PriorIntrinsics(fx=K[0, 0], fy=K[1, 1], cx=K[0, 2], cy=K[1, 2], source="clip")
        return _Clip(part, held, known, lambda done, total: None).solve()

    return with_segments(tracks, found, solve_part)


class _Clip:
    """One clip while it is being solved."""

    def __init__(
        self,
        tracks: Tracks,
        config: ReconstructionConfig,
        prior: PriorIntrinsics | None,
        progress: Progress,
    ) -> None:
        self.graph = TrackGraph(tracks, None if prior is None else (prior.cx, prior.cy))
        self.settings = config.cameras
        self.progress = progress
        self.tolerances = Tolerances(
            self.settings.inlier_px,
            np.radians(self.settings.min_angle),
            self.settings.loss_px,
            compute_device(config.device),
        )
        longer = max(tracks.size)
        self.given = prior is not None
        self.focal = float(np.sqrt(prior.fx * prior.fy)) if prior else self.settings.focal * longer
        sigma = PRIOR_SIGMA if prior else self.settings.focal_sigma
        # two views do not tell a focal length
        estimate = config.opt_intrinsics and self.graph.frames > 2
        self.prior = FocalPrior(self.focal, sigma) if estimate else None
        zoom = self.settings.zoom_sigma
        change = None if zoom == "auto" else zoom
        self.final_prior = FocalPrior(self.focal, sigma, change) if estimate else None
        self.lens_prior = lens_prior(self.settings, longer) if estimate else LensPrior()
        self.statements: list[str] = []

    def solve(self) -> CameraSolution:
        frames = self.graph.frames
        if frames < 2:
            self.statements.append("a single frame: neither camera motion nor depth can be known")
            return self._still("too_short")
        if self.graph.stands_still():
            self.statements.append("depth unobservable: the camera does not move")
            return self._still("static_camera")
        keyframes = self._keyframes()
        used_N = self.graph.thinned(keyframes, self.settings.tracks_per_frame)
        observations = self.graph.observations(keyframes, min(3, frames), used_N)
        world = self._reconstruct(keyframes, observations)
        rotation = self._rotations(keyframes, observations, world)
        if rotation is not None:
            return self._turning(keyframes, rotation)
        if world is None:
            self.statements.append(
                "cameras unknown: no motion of a camera explains the tracks"
                if len(observations)
                else "cameras unknown: too few background tracks"
            )
            return self._failed()
        return self._full(world)

    def _keyframes(self) -> Indices:
        """Keyframes of the clip: enough for three views, no more than may be adjusted together."""
        motion, survival = FIRST_MOTION * max(self.graph.size), SURVIVAL
        keyframes = self.graph.keyframes(motion, survival)
        while len(keyframes) > self.settings.max_frames and survival > 0.1:
            motion, survival = motion * 1.5, survival * 0.8
            keyframes = self.graph.keyframes(motion, survival)
        if len(keyframes) < LEAST_KEYFRAMES:  # slow motion
            count = min(LEAST_KEYFRAMES, self.graph.frames)
            even = np.linspace(0, self.graph.frames - 1, count).round().astype(np.int64)
            keyframes = np.union1d(keyframes, even)
        return keyframes

    # a camera that moves
    def _reconstruct(self, keyframes: Indices, observations: Observations) -> Map | None:
        """The largest map from the best few starts; None if none holds together."""
        starts = [self.focal]
        if self.prior is not None and not self.given:
            starts = [self.focal * factor for factor in FOCAL_STARTS]
        found = hypotheses(self.graph, keyframes, observations, starts, self.prior, self.tolerances)
        best: Map | None = None
        tried: list[Indices] = []
        for hypothesis in found:
            if len(tried) == STARTS_TRIED or hypothesis.explained < LEAST_EXPLAINED:
                break
            if any(np.intersect1d(hypothesis.frames, other).size for other in tried):
                continue
            tried.append(hypothesis.frames)
            grow_all(hypothesis.world, keyframes, self.prior, self._advance)
            if best is None or hypothesis.world.inlier_M.sum() > best.inlier_M.sum():
                best = hypothesis.world
            if best.registered_F.sum() >= COMPLETE * len(keyframes):
                break
        if best is None or best.trusted_N.sum() < TRUSTED_POINTS:
            return None
        return best

    def _advance(self, registered: int) -> None:
        self.progress(registered, self.graph.frames)

    def _full(self, world: Map) -> CameraSolution:
        """Go on to all frames, adjust, and give every track its point."""
        frames = self.graph.frames
        long = frames > self.settings.max_frames
        if not long:
            world = self._all_frames(world)
        world, solution = self._adjusted(self._sharpened(world))
        solution, source = self._focal(world, solution)
        if long:
            world = self._all_frames(world)
            prior, lens = (self.final_prior, self.lens_prior) if source == "estimated" else KEPT
            solution = finish(world, prior, lens, LONG_ITERATIONS)
        registered_F = world.registered_F
        scale = world.rebase(int(np.flatnonzero(registered_F)[0]))
        missing = int((~registered_F).sum())
        if missing:
            self.statements.append(f"{missing} of {frames} frames could not be registered")
        self.progress(frames, frames)
        c2w = se3_inverse(se3(world.structure.R_F33, world.structure.t_F3))
        c2w[~registered_F] = np.nan
        points = static_points(self.graph, world)
        return CameraSolution(
            "full",
            c2w,
            self._K(world.structure),
            registered_F.copy(),
            source,
            points,
            np.isfinite(points[:, 0]),
            world.rmse(),
            int(world.inlier_M.sum()),
            self.statements,
            world.structure.lens.k1,
            *_sigmas(world, solution, scale),
        )

    def _sharpened(self, world: Map) -> Map:
        """With a loss as narrow as the noise, from the focal length that the better half of the
        tracks prefers."""
        steps = 0 if self.prior is None or self.given else STEPS
        sharp = sharpen(self.graph, world, self.focal, steps)
        if sharp is None:
            return world
        if np.isclose(sharp.structure.focal, world.structure.focal):
            world.tolerances = replace(world.tolerances, loss_px=sharp.loss_px)
            return world
        grown = restart(world, sharp)
        return grown if grown.registered_F.sum() >= COMPLETE * world.registered_F.sum() else world

    def _all_frames(self, world: Map) -> Map:
        everything = np.arange(self.graph.frames)
        used_N = self.graph.thinned(everything, self.settings.tracks_per_frame)
        wanted = self.graph.observations(everything, min(3, self.graph.frames), used_N)
        return extend(world, wanted, everything)

    def _adjusted(self, world: Map) -> tuple[Map, Solution | None]:
        """Everything, with a focal length a frame where the clip zooms."""
        if self.final_prior is None or self.settings.zoom_sigma != "auto":
            return world, finish(world, self.final_prior, self.lens_prior)
        world, solution, self.final_prior = finish_either(
            world, self.final_prior, self.lens_prior, OBSERVABLE
        )
        if self.final_prior.change_sigma is not None:
            self.statements.append(stated(world.structure))
        return world, solution

    def _focal(self, world: Map, solution: Solution | None) -> tuple[Solution | None, FocalSource]:
        """Keep the focal length only if the tracks determine it."""
        kept: FocalSource = "prior" if self.given else "assumed"
        if self.prior is None or solution is None or solution.uncertainty is None:
            if kept == "assumed":
                self.statements.append("the focal length is assumed, not estimated")
            return solution, kept
        sigma = solution.uncertainty.log_focal
        if sigma > OBSERVABLE:
            self.statements.append("the focal length cannot be estimated from this motion")
            world.refocus(self.focal)
            finish(world, None)
            # no further step, but poses are as uncertain as what is assumed makes them
            held = world.adjust(self.prior, 0, uncertainty=True, lens_prior=self.lens_prior)
            if held is not None and held.uncertainty is not None:
                spread_F = np.full(len(held.uncertainty.log_focal_F), self.prior.log_sigma)
                unsure = replace(held.uncertainty, log_focal_F=spread_F)
                held = replace(held, uncertainty=unsure)
            return held, kept
        if sigma > DOUBTFUL:
            self.statements.append(f"the focal length is uncertain: ± {100 * sigma:.0f} %")
        return solution, "estimated"

    # a camera that turns
    def _rotations(
        self, keyframes: Indices, observations: Observations, world: Map | None
    ) -> RotationModel | None:
        """The rotation-only model, if it explains the tracks about as well as the map."""
        if not len(observations):
            return None
        frames = keyframes
        if world is not None and len(keyframes) > MODEL_FRAMES:
            middle = np.searchsorted(keyframes, world.reference)
            first = int(np.clip(middle - MODEL_FRAMES // 2, 0, len(keyframes) - MODEL_FRAMES))
            frames = keyframes[first : first + MODEL_FRAMES]
        most = None if world is None else MODEL_OBSERVATIONS
        model = self._fit_rotations(frames, observations, self.prior, most)
        share = explained_share(model.error_M, self.tolerances.loss_px, len(model.error_M))
        if share < LEAST_EXPLAINED:
            return None
        if world is not None:
            trusted = world.trusted_N.sum() / max(1, world.known_N.sum())
            if world.explained(frames) > share + GAIN and trusted > LEAST_TRUSTED:
                return None
        return model if world is None else self._fit_rotations(keyframes, observations, self.prior)

    def _fit_rotations(
        self,
        frames: Indices,
        observations: Observations,
        prior: FocalPrior | None,
        most: int | None = None,
    ) -> RotationModel:
        inside = observations.select(np.isin(observations.frame_M, frames))
        if most is not None:
            inside = thinned(inside, most)
        return fit_rotations(
            self.graph,
            frames,
            inside,
            self.focal,
            prior,
            self.tolerances.loss_px,
            self.tolerances.device,
            trial=most is not None,
        )

    def _turning(self, keyframes: Indices, model: RotationModel) -> CameraSolution:
        self.statements.append("depth unobservable: no parallax")
        source: FocalSource = "prior" if self.given else "assumed"
        if self.prior is not None and model.log_focal_sigma < OBSERVABLE:
            source = "estimated"
        elif self.prior is not None:
            self.statements.append("the focal length cannot be estimated from this motion")
            model = self._fit_rotations(keyframes, model.observations, None)
        R_F33 = extend_rotations(self.graph, model)
        self.progress(self.graph.frames, self.graph.frames)
        registered_F = np.isfinite(R_F33[:, 0, 0])
        c2w = se3(np.swapaxes(R_F33, 1, 2), np.zeros(3))
        c2w[~registered_F] = np.nan
        agrees = model.error_M < self.tolerances.inlier_px
        found = self._without_points(
            "rotation_only", c2w, model.focal, source, model.rmse(), int(agrees.sum())
        )
        sigma_F6 = np.full((self.graph.frames, 6), np.nan)
        sigma_F6[model.frames, :3] = model.rotation_sigma_K3
        sigma_F = np.full(self.graph.frames, model.log_focal_sigma * model.focal)
        return replace(found, pose_sigma_F6=sigma_F6, focal_sigma_F=sigma_F)

    # a camera of which less is known
    def _still(self, status: Status) -> CameraSolution:
        self.progress(self.graph.frames, self.graph.frames)
        c2w = np.tile(np.eye(4), (self.graph.frames, 1, 1))
        source: FocalSource = "prior" if self.given else "assumed"
        return self._without_points(status, c2w, self.focal, source, 0.0, 0)

    def _failed(self) -> CameraSolution:
        self.progress(self.graph.frames, self.graph.frames)
        c2w = np.full((self.graph.frames, 4, 4), np.nan)
        source: FocalSource = "prior" if self.given else "assumed"
        return self._without_points("failed", c2w, self.focal, source, 0.0, 0)

    def _without_points(
        self,
        status: Status,
        c2w_F44: Floats,
        focal: float,
        source: FocalSource,
        rmse: float,
        count: int,
    ) -> CameraSolution:
        tracks = self.graph.tracks
        return CameraSolution(
            status,
            c2w_F44,
            self._K(Structure(c2w_F44, c2w_F44, c2w_F44, focal)),
            np.isfinite(c2w_F44[:, 0, 0]),
            source,
            np.full((tracks, 3), np.nan),
            np.zeros(tracks, bool),
            rmse,
            count,
            self.statements,
        )

    def _K(self, structure: Structure) -> Floats:
        K_F33 = np.tile(intrinsics(1.0, self.graph.centre), (self.graph.frames, 1, 1))
        K_F33[:, [0, 1], [0, 1]] = structure.lens.focal_F(structure.focal, len(K_F33))[:, None]
        K_F33[:, :2, 2] += structure.lens.centre_2
        return K_F33


def lens_prior(settings: CamerasConfig, longer: int) -> LensPrior:
    """The priors of the settings for a picture with this longer side in px."""
    centre = settings.centre_sigma
    return LensPrior(None if centre is None else centre * longer, settings.distortion_sigma)


def _sigmas(world: Map, solution: Solution | None, scale: float) -> tuple[Floats, Floats]:
    """Standard deviations of poses (F, 6) and focal lengths (F,); NaN where not estimated.

    scale: that lengths were multiplied by since the solution.
    """
    frames = len(world.registered_F)
    pose_F6, focal_F = np.full((frames, 6), np.nan), np.full(frames, np.nan)
    if solution is not None and solution.uncertainty is not None:
        registered = np.flatnonzero(world.registered_F)
        pose_F6[registered] = solution.uncertainty.pose_F6 * [1, 1, 1, scale, scale, scale]
        focal_F[registered] = solution.uncertainty.log_focal_F * solution.structure.focal
    return pose_F6, np.where(focal_F > 0, focal_F, np.nan)
