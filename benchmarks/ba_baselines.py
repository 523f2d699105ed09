"""The two sides that ours is compared with in `bundle_adjustment.py`: Ceres and Adam."""

from __future__ import annotations

import time
import zlib  # noqa: F401  (before pycolmap, which brings its own)
from dataclasses import dataclass

import numpy as np
import torch
from ba_problems import SIZE, Problem

from dynamicverse.dynamicba.bundle.jacobians import rotations
from dynamicverse.dynamicba.bundle.solver import Structure


@dataclass(frozen=True)
class Run:
    """What a solver found and how long it took."""

    structure: Structure
    seconds: float
    iterations: int


def ceres(problem: Problem, threads: int) -> Run:
    """Ceres through pycolmap: Soft-L1, the solver type as pycolmap chooses it."""
    import pycolmap

    start, seen = problem.start, problem.observations
    scene = pycolmap.Reconstruction()
    centre = np.array(SIZE) / 2
    scene.add_camera_with_trivial_rig(
        pycolmap.Camera(
            model="SIMPLE_PINHOLE",
            width=SIZE[0],
            height=SIZE[1],
            params=[start.focal, *centre],
            camera_id=1,
        )
    )
    frames = len(start.t_F3)
    slot_M = np.zeros(len(seen), int)
    config = pycolmap.BundleAdjustmentConfig()
    for frame in range(frames):
        mine = np.flatnonzero(seen.frame_M == frame)
        slot_M[mine] = np.arange(len(mine))
        image = pycolmap.Image(
            name=f"{frame}", camera_id=1, image_id=frame + 1, keypoints=seen.xy_M2[mine] + centre
        )
        pose = pycolmap.Rigid3d(np.c_[start.R_F33[frame], start.t_F3[frame]])
        scene.add_image_with_trivial_frame(image, pose)
        config.add_image(frame + 1)
    tracks = {int(point): pycolmap.Track() for point in np.unique(seen.point_M)}
    for point, frame, slot in zip(seen.point_M, seen.frame_M, slot_M, strict=True):
        tracks[int(point)].add_element(int(frame) + 1, int(slot))
    for point, track in tracks.items():
        if track.length() > 1:
            scene.add_point3D(start.points_N3[point], track, np.zeros(3, np.uint8))
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = False
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = 1.0
    options.ceres.solver_options.num_threads = threads
    adjuster = pycolmap.create_default_bundle_adjuster(options, config, scene)
    began = time.perf_counter()
    summary = adjuster.solve()
    seconds = time.perf_counter() - began
    poses = np.stack([scene.images[f + 1].cam_from_world().matrix() for f in range(frames)])
    found = Structure(
        poses[:, :, :3], poses[:, :, 3], start.points_N3, float(scene.cameras[1].params[0])
    )
    return Run(found, seconds, _iterations(summary))


def _iterations(summary: object) -> int:
    """Of a Ceres summary; -1 where this version of pycolmap does not tell."""
    inner = getattr(summary, "ceres_summary", summary)
    done = getattr(inner, "num_successful_steps", None)
    return -1 if done is None else int(done) + int(inner.num_unsuccessful_steps)


def adam(problem: Problem, iterations: int, device: str) -> Run:
    """First-order static bundle adjustment as the original engine is described.

    Adam with amsgrad at 1e-2 for poses and points and 1e-4 (pixels) for the focal length, the
    rate halved on plateaus; mean distance in px plus a smoothness of the poses of weight one.
    """
    start, seen = problem.start, problem.observations

    def tensor(value: np.ndarray) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float32, device=device)

    R, xy = tensor(start.R_F33), tensor(seen.xy_M2)
    frame, point = (torch.tensor(v, device=device) for v in (seen.frame_M, seen.point_M))
    turn, t, points, focal = (
        tensor(v).requires_grad_()
        for v in (np.zeros_like(start.t_F3), start.t_F3, start.points_N3, np.array(start.focal))
    )
    groups = [{"params": [turn, t, points], "lr": 1e-2}, {"params": [focal], "lr": 1e-4}]
    optimiser = torch.optim.Adam(groups, amsgrad=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=20)
    began = time.perf_counter()
    for _ in range(iterations):
        optimiser.zero_grad()
        rotation = rotations(turn + 1e-12) @ R
        local = (rotation[frame] @ points[point][:, :, None])[:, :, 0] + t[frame]
        error = focal * local[:, :2] / local[:, 2:].clamp(min=1e-3) - xy
        centre = -(rotation.mT @ t[:, :, None])[:, :, 0]
        step = rotation[1:] @ rotation[:-1].mT
        smooth = centre.diff(dim=0).norm(dim=1).mean() + (3 - step.diagonal(0, 1, 2).sum(1)).mean()
        loss = (error.square().sum(1) + 1e-12).sqrt().mean() + smooth
        loss.backward()
        optimiser.step()
        schedule.step(loss.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        R_found = (rotations(turn) @ R).double().cpu().numpy()
    found = Structure(
        R_found,
        t.detach().double().cpu().numpy(),
        points.detach().double().cpu().numpy(),
        float(focal.detach()),
    )
    return Run(found, seconds, iterations)
