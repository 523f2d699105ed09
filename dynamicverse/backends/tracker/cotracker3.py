"""CoTracker3: a grid of points, seeded again every `interval` frames and followed both ways.

Karaev et al., "CoTracker3: Simpler and better point tracking by pseudo-labelling real videos"
(2024). The offline model sees the whole clip at once; the online model slides a window of 16
frames over a longer one. The package is not on PyPI; see INSTALL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from dynamicverse.backends import BackendInfo, weights
from dynamicverse.backends.accelerator import (
    Coming,
    Network,
    Rgb,
    ahead,
    half,
    package,
    upload,
)
from dynamicverse.backends.tracker import FrameReader, TrackSet
from dynamicverse.backends.tracker.cotracker_steps import (
    features,
    follow,
    online_window,
    tables,
    use_fused_attention,
)
from dynamicverse.backends.tracker.trackset import followed, joined
from dynamicverse.config import TracksConfig

COMMIT = "82e02e8029753ad4ef13cf06be7f4fc5facdda4d"
INSTALL = f"pip install 'git+https://github.com/facebookresearch/co-tracker@{COMMIT}'"
ITERATIONS = 6
SUPPORT = 6  # grid points a side that only help the others, in the first frame
OFFLINE_WINDOW, ONLINE_WINDOW = 60, 16  # frames that the models were trained with
MAX_OFFLINE = 120  # frames; the online model takes longer clips
OFFLINE_VISIBLE, ONLINE_VISIBLE = 0.9, 0.6  # thresholds of the model's own predictors
BATCH = 3000  # points at a time
FRAMES_AT_ONCE = 32  # through the feature network


class CoTracker3(Network):
    """CoTracker3; positions in single precision, the networks in half on a GPU."""

    info = BackendInfo(
        name="cotracker3",
        licence="CC-BY-NC-4.0 (code and weights)",
        weights=weights.REGISTRY["cotracker3"].source,
        revision=weights.REGISTRY["cotracker3"].revision,
        device="cuda",
        memory_gb=20.0,
        batch_size=BATCH,
        packages=("cotracker",),
    )

    def __init__(self, settings: TracksConfig, models: tuple[Any, Any] | None = None) -> None:
        """models: offline and online; None: with the pulled weights."""
        super().__init__(BATCH, kernels=True)
        self._settings = settings
        offline, online = _loaded() if models is None else models
        self._offline = offline.to(self._where).eval()
        self._online = online.to(self._where).eval()
        for model in (self._offline, self._online):
            use_fused_attention(model)
        self._online.forward_window = online_window(self._online)

    def track(self, frames: FrameReader, progress: Callable[[int], None]) -> TrackSet:
        """Tracks of the whole clip.

        Memory: 50 MB of the device for each frame (online 1.2 MB), 20 bytes for each visible
        sample.
        """
        first_HW3, count = frames[0], len(frames)
        rgb = chain([first_HW3], (frames[t] for t in range(1, count)))
        size = (first_HW3.shape[1], first_HW3.shape[0])
        points_S2 = grid(size, self._settings.grid_size)
        queries = range(0, count, self._settings.interval)
        found: list[TrackSet] = []
        done = 0
        seeded = self._seeded(rgb, count, size, queries, points_S2)
        with closing(ahead(seeded, self._thread)) as coming:
            for query, points in coming:  # the network goes on while these are put together
                positions_FN2, visible_FN, sure_FN = points.arrived()
                found.append(followed(query, positions_FN2, visible_FN, sure_FN, size))
                done += visible_FN.shape[1]
                progress(count * done // (len(queries) * len(points_S2)))
        return joined(found)

    @torch.inference_mode()
    def _seeded(
        self,
        rgb: Iterable[Rgb],
        count: int,
        size: tuple[int, int],
        queries: Iterable[int],
        points_S2: npt.NDArray[np.float32],
    ) -> Iterator[tuple[int, Coming]]:
        """Seed frames, each with points from there: positions (F,N,2) px, whether they are visible
        (F,N), and confidence (F,N)."""
        mode = self._settings.cotracker3
        online = mode == "online" or (mode == "auto" and count > MAX_OFFLINE)
        with closing(ahead(self._small(rgb))) as parts:
            seen = torch.cat(list(parts)) if online else self._features(parts)
        for query in queries:

            def follow(points: list[npt.NDArray[np.float32]], query: int = query) -> list[Coming]:
                return [self._follow(seen, size, np.array(points), query, online)]

            for (found,) in self._batches.parts(list(points_S2), follow):
                yield query, found

    def _small(self, rgb: Iterable[Rgb]) -> Iterator[torch.Tensor]:
        """Parts (f,3,H,W) of the clip on the device, in the model's size."""
        shape = tuple(self._offline.model_resolution)
        part: list[torch.Tensor] = []
        for frame_HW3 in rgb:
            image_13HW = upload([frame_HW3], self._where).float()
            small_13HW = interpolate(image_13HW, shape, mode="bilinear", align_corners=True)
            part.append(small_13HW.half())
            if len(part) == FRAMES_AT_ONCE:
                yield torch.cat(part)
                part = []
        if part:
            yield torch.cat(part)

    def _features(self, parts: Iterable[torch.Tensor]) -> tuple[Any, Any]:
        levels = features(self._offline, parts)
        return levels, tables(self._offline, levels)

    def _follow(
        self,
        seen: Any,
        size: tuple[int, int],
        points_N2: npt.NDArray[np.float32],
        start: int,
        online: bool,
    ) -> Coming:
        """The points of frame `start` in all frames: forwards from there, and backwards.

        seen: the clip (F,3,H,W) for the online model, its features for the offline one.
        """
        run = self._windows if online else self._whole
        height, width = self._offline.model_resolution
        scale_2 = torch.tensor(
            [(width - 1) / max(size[0] - 1, 1), (height - 1) / max(size[1] - 1, 1)],
            device=self._where,
        )
        query_N3 = self._queries(points_N2, scale_2, start, (height, width))
        found = run(seen, query_N3, False)
        if start > 0:
            back = run(seen, query_N3, True)
            found = [torch.cat([b[:start], f[start:]]) for f, b in zip(found, back, strict=True)]
        position_FN2, visible_FN, sure_FN = (values[:, : len(points_N2)] for values in found)
        position_FN2 = position_FN2 / scale_2
        shown_FN = visible_FN * sure_FN > ONLINE_VISIBLE if online else visible_FN > OFFLINE_VISIBLE
        edge_2 = torch.tensor(size, device=self._where) - 1
        shown_FN = shown_FN & ((position_FN2 >= 0) & (position_FN2 <= edge_2)).all(-1)
        position_FN2[start] = torch.from_numpy(points_N2).to(self._where)
        shown_FN[start] = True
        return Coming(position_FN2, shown_FN, sure_FN)

    def _queries(
        self,
        points_N2: npt.NDArray[np.float32],
        scale_2: torch.Tensor,
        start: int,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        """Frame, x and y (N + SUPPORT², 3) in the model's size; the support points are last."""
        rows, columns = (np.linspace(n / 64, n - 1 - n / 64, SUPPORT) for n in shape)
        support = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2).astype(np.float32)
        points = torch.from_numpy(points_N2).to(self._where) * scale_2
        positions = torch.cat([points, torch.from_numpy(support).to(self._where)])
        frame = positions.new_zeros(len(positions), 1)
        frame[: len(points_N2)] = start
        return torch.cat([frame, positions], dim=1)

    def _whole(self, seen: Any, query_N3: torch.Tensor, reverse: bool) -> list[torch.Tensor]:
        """Positions (F,N,2), visibility and confidence (F,N) by the offline model.

        reverse: the model sees the clip from its end; the frames are in the clip's order.
        """
        levels, found = seen
        return list(follow(self._offline, levels, found, query_N3, ITERATIONS, reverse))

    def _windows(
        self, video_F3HW: torch.Tensor, query_N3: torch.Tensor, reverse: bool
    ) -> list[torch.Tensor]:
        """The same by the online model, window after window."""
        if reverse:
            video_F3HW, query_N3 = video_F3HW.flip(0), query_N3.clone()
            query_N3[:, 0] = len(video_F3HW) - 1 - query_N3[:, 0]
        self._online.init_video_online_processing()
        step = ONLINE_WINDOW // 2
        for start in range(0, max(1, len(video_F3HW) - step), step):
            window = video_F3HW[None, start : start + ONLINE_WINDOW].float()
            with half(self._where):
                found = self._online(window, query_N3[None], iters=ITERATIONS, is_online=True)
        return [values[0].flip(0) if reverse else values[0] for values in found[:3]]


def grid(size: tuple[int, int], grid_size: int) -> npt.NDArray[np.float32]:
    """The centres (S,2) px of square cells, `grid_size` along the longer side, row by row."""
    side = max(size) / grid_size
    x, y = (
        (np.arange(max(1, round(n / side))) + 0.5) * n / max(1, round(n / side)) - 0.5 for n in size
    )
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)


def _loaded() -> tuple[Any, Any]:
    builder = package("cotracker.models.build_cotracker", "cotracker3", INSTALL)
    paths = weights.paths(weights.REGISTRY["cotracker3"])
    models = tuple(
        builder.build_cotracker(checkpoint=None, offline=offline, window_len=window)
        for offline, window in ((True, OFFLINE_WINDOW), (False, ONLINE_WINDOW))
    )
    for model, path in zip(models, paths, strict=True):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return models[0], models[1]
