"""One rigid scene over several frames: the test for motion along the epipolar lines.

Two frames cannot tell a thing that moves along its epipolar lines from one at another depth;
several can, unless it keeps in step with the camera. A static point p is seen at
H_g p + (ρ α_g + v_g·p) e_g after a gap g (H_g: homography of any plane, e_g: epipole). Its
parallax ρ is the same over all gaps; α_g (1) and v_g (3) are the same for all points. Both are
found by alternating least squares, robust, from flow chained over the gaps; what is left of a
point is how far it goes from where one rigid scene would have it.

Irani and Anandan, "A unified approach to moving object detection in 2D and 3D scenes",
PAMI 20(6), 1998. No calibration is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicverse.backends.analysis import Flow, Valid
from dynamicverse.backends.analysis.background import Array, Background
from dynamicverse.backends.analysis.working import Map

SHORTEST_GAP = 2  # frames; the parallax of one frame is noise
FEWEST_GAPS, FEWEST_POINTS = 5, 300
STEP = 2  # px between the points that may be fitted
LAYERS, LAYER_POINTS = 8, 300  # of parallax, and points that are fitted in each
GUESSES, GUESS_POINTS, JUDGES = 60, 6, 600
ITERATIONS, REWEIGHTS = 6, 3
NOISE_FLOOR = 0.1  # px
SLACK = 0.03  # of a point's parallax: chained flow errs more on what goes far


@dataclass(frozen=True)
class Rigid:
    """How far each pixel is from one rigid scene after one gap.

    noises_HW: along the epipolar line, in standard deviations, 0 where flow is not consistent;
    offset_HW2: from the end of the flow to where the rigid scene would have it, px.
    """

    noises_HW: Map
    offset_HW2: Flow


@dataclass(frozen=True)
class _Parallax:
    """γ of every pixel and px a unit of γ, both (H,W), and the direction (H,W,2) in px."""

    gamma_HW: Map
    direction_HW2: Map
    valid_HW: Valid

    @property
    def scale_HW(self) -> Map:
        return np.hypot(self.direction_HW2[..., 0], self.direction_HW2[..., 1])


def rigid_residuals(
    chains: Mapping[int, tuple[Flow, Valid]],
    backgrounds: Mapping[int, Background],
    x_HW: Map,
    y_HW: Map,
    seed: int,
) -> dict[int, Rigid]:
    """Signed gap → residuals; empty where there are too few gaps with a fundamental matrix, or
    too few points that are seen over several of them."""
    seen: dict[int, _Parallax] = {}
    for gap, background in backgrounds.items():
        if abs(gap) >= SHORTEST_GAP and background.F is not None:
            seen[gap] = _parallax(background, background.F, *chains[gap], x_HW, y_HW)
    gaps = sorted(seen, key=lambda g: (-abs(g), g))
    if len(gaps) < FEWEST_GAPS:
        return {}
    size = max(x_HW.shape)
    frame_HW3 = np.stack([x_HW / size, y_HW / size, np.ones_like(x_HW)], -1)
    some = np.s_[STEP // 2 :: STEP, STEP // 2 :: STEP]
    gamma_GN, scale_GN, valid_GN = (
        np.stack([getattr(seen[g], name)[some].ravel() for g in gaps]).astype(kind)
        for name, kind in (("gamma_HW", float), ("scale_HW", float), ("valid_HW", bool))
    )
    rng = np.random.default_rng(seed)
    chosen = _balanced(np.abs(gamma_GN[0]) * scale_GN[0], valid_GN[0], rng)
    gamma_GN, scale_GN, valid_GN = (m[:, chosen] for m in (gamma_GN, scale_GN, valid_GN))
    model = _fit(gamma_GN, scale_GN, valid_GN, frame_HW3[some].reshape(-1, 3)[chosen], rng)
    if model is None:
        return {}
    alpha_G, plane_G3, noise_G = (m.astype(np.float32) for m in model)
    total_HW, weight_HW = np.zeros_like(x_HW), np.full_like(x_HW, 1e-12)
    level_HW = {}
    for k, gap in enumerate(gaps):
        view = seen[gap]
        level_HW[gap] = view.gamma_HW - frame_HW3 @ plane_G3[k]
        sure_HW = view.valid_HW * (view.scale_HW / noise_G[k]) ** 2
        total_HW += alpha_G[k] * sure_HW * level_HW[gap]
        weight_HW += alpha_G[k] ** 2 * sure_HW
    rho_HW = total_HW / weight_HW
    found = {}
    for k, gap in enumerate(gaps):
        miss_HW = alpha_G[k] * rho_HW - level_HW[gap]
        offset_HW2 = miss_HW[..., None] * seen[gap].direction_HW2
        residual_HW = np.hypot(offset_HW2[..., 0], offset_HW2[..., 1]) * seen[gap].valid_HW
        parallax_HW = np.abs(seen[gap].gamma_HW) * seen[gap].scale_HW
        found[gap] = Rigid(residual_HW / (noise_G[k] + SLACK * parallax_HW), offset_HW2)
    return found


def _parallax(
    background: Background, F: Array, flow_HW2: Flow, valid_HW: Valid, x_HW: Map, y_HW: Map
) -> _Parallax:
    """γ in H p + γ e ~ p', least squares."""
    h = background.H.astype(np.float32)
    e = np.linalg.svd(F)[0][:, 2].astype(np.float32)
    u_HW, v_HW = x_HW + flow_HW2[..., 0], y_HW + flow_HW2[..., 1]
    px, py, pz = (h[i, 0] * x_HW + h[i, 1] * y_HW + h[i, 2] for i in range(3))
    towards_HW2 = np.stack([e[0] - u_HW * e[2], e[1] - v_HW * e[2]], -1)
    ahead_HW2 = np.stack([u_HW * pz - px, v_HW * pz - py], -1)
    length_HW = (towards_HW2**2).sum(-1) + np.float32(1e-12)
    gamma_HW = (towards_HW2 * ahead_HW2).sum(-1) / length_HW
    depth_HW = pz + gamma_HW * e[2]
    usable_HW = valid_HW & (np.abs(depth_HW) > 1e-6)
    direction_HW2 = towards_HW2 / np.where(usable_HW, depth_HW, 1)[..., None]
    # unit: about a pixel
    unit = np.float32(np.median(np.hypot(*direction_HW2[usable_HW].T))) if usable_HW.any() else 1
    return _Parallax(gamma_HW * unit, direction_HW2 / unit, usable_HW)


def _balanced(
    parallax_N: Array, valid_N: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Points of every layer of parallax (px; doubled from layer to layer), as many of each as
    there are: where most of a picture is far away, the few near things alone say how the
    parallax goes on."""
    layer_N = np.log2(np.maximum(parallax_N, 0.5) / 0.5).astype(np.int64).clip(0, LAYERS - 1)
    chosen = []
    for layer in range(LAYERS):
        members = np.flatnonzero(valid_N & (layer_N == layer))
        chosen.append(rng.permutation(members)[:LAYER_POINTS])
    return np.sort(np.concatenate(chosen))


def _fit(
    gamma_GN: Array,
    scale_GN: Array,
    valid_GN: npt.NDArray[np.bool_],
    frame_N3: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array] | None:
    """α (G), v (G,3) and noise (G) px of every gap; None where too few points are seen."""
    gaps = len(gamma_GN)
    alpha_G, plane_G3, noise_G = np.zeros(gaps), np.zeros((gaps, 3)), np.ones(gaps)
    rho_N, known_N = gamma_GN[0], valid_GN[0]  # of the longest gap, as a start
    if known_N.sum() < FEWEST_POINTS:
        return None
    for iteration in range(ITERATIONS):
        for k in range(gaps):
            use_N = valid_GN[k] & known_N
            if use_N.sum() < FEWEST_POINTS:
                return None
            A = np.column_stack([rho_N[use_N], frame_N3[use_N]])
            b, scale = gamma_GN[k][use_N], scale_GN[k][use_N]
            q = np.append(alpha_G[k], plane_G3[k]) if iteration else _guess(A, b, scale, rng)
            for _ in range(REWEIGHTS):
                error = np.abs(A @ q - b) * scale
                noise_G[k] = max(NOISE_FLOOR, 1.5 * float(np.median(error)))
                weighted = A * ((1 + (error / (2 * noise_G[k])) ** 2) ** -2 * scale**2)[:, None]
                q = np.linalg.solve(weighted.T @ A + 1e-9 * np.eye(4), weighted.T @ b)
            alpha_G[k], plane_G3[k] = q[0], q[1:]
        sure_GN = valid_GN * (scale_GN / noise_G[:, None]) ** 2
        weight_N = (alpha_G[:, None] ** 2 * sure_GN).sum(0)
        level_GN = gamma_GN - plane_G3 @ frame_N3.T
        known_N = weight_N > 1e-9
        rho_N = (alpha_G[:, None] * sure_GN * level_GN).sum(0) / np.where(known_N, weight_N, 1)
    return alpha_G, plane_G3, noise_G


def _guess(A: Array, b: Array, scale: Array, rng: np.random.Generator) -> Array:
    """Least median of squares."""
    columns = A.shape[1]
    chosen_KS = rng.integers(len(A), size=(GUESSES, GUESS_POINTS))
    a_KSC, b_KS1 = A[chosen_KS], b[chosen_KS][..., None]
    turned_KCS = a_KSC.transpose(0, 2, 1)
    squared_KCC = turned_KCS @ a_KSC + 1e-9 * np.eye(columns)
    guess_KC = np.linalg.solve(squared_KCC, turned_KCS @ b_KS1)[..., 0]
    some = rng.permutation(len(A))[:JUDGES]
    error_KJ = np.abs(guess_KC @ A[some].T - b[some]) * scale[some]
    return np.asarray(guess_KC[np.median(error_KJ, axis=1).argmin()])
