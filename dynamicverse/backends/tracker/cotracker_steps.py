"""The inner loop of CoTracker3, driven so that it does not wait for memory.

The network compares, in every turn, a window of 7×7 features round a point's present position
with the 7×7 features round where the point was asked for. As written it samples all windows by
trilinear interpolation of single-precision features; here the 8×8 features at whole pixels are
read in half precision, compared, and the comparisons are interpolated: the same numbers, as the
comparison is linear, from a third of the memory traffic. For that the features lie in memory as
rows of eight neighbours, and the 49 comparisons are padded to 64, as GPUs like their products.
Features of the clip are computed once for all points and both directions. Positions stay in
single precision. A test holds this to the network's own loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, unflatten
from torch.nn.functional import (
    avg_pool2d,
    embedding,
    linear,
    normalize,
    pad,
    scaled_dot_product_attention,
)

from dynamicverse.backends.accelerator import fuse_norms, fused, half
from dynamicverse.backends.cuda_graphs import Graphed

PADDED = 64  # comparisons of a window, of which (2r+1)² are used
WAVES = 10  # octaves of the encoding of motion


def use_fused_attention(model: Any) -> None:
    """Let the network's attention run in one kernel; as written it stores every weight.

    On a GPU its norms come in the precision in which they are read.
    """
    for layer in model.updateformer.modules():
        if hasattr(layer, "to_kv"):
            layer.forward = partial(_attention, layer)
    fuse_norms(model.updateformer)


def _attention(
    layer: Any, x_BNC: Tensor, context: Tensor | None = None, attn_bias: Tensor | None = None
) -> Tensor:
    seen_BMC = x_BNC if context is None else context
    query, key, value = (
        values.unflatten(2, (layer.heads, -1)).transpose(1, 2)
        for values in (layer.to_q(x_BNC), *layer.to_kv(seen_BMC).chunk(2, dim=-1))
    )
    found = scaled_dot_product_attention(query, key, value, attn_mask=attn_bias)
    told: Tensor = layer.to_out(found.transpose(1, 2).flatten(2))
    return told


def features(model: Any, parts: Iterable[Tensor]) -> list[Tensor]:
    """Unit features (1,F,C,h,w) of a clip in 0..255, of all levels, the finest first.

    parts: (f,3,H,W) of the clip, one after the other; they see the network one by one.
    """
    found = []
    for part_f3HW in parts:
        with half(part_f3HW.device):
            map_fChw = model.fnet(part_f3HW.float() / 127.5 - 1)
        found.append(normalize(map_fChw.float(), dim=1, eps=1e-6))
    levels = [torch.cat(found)]
    for _ in range(model.corr_levels - 1):
        levels.append(avg_pool2d(levels[-1], 2, stride=2))
    return [level_FChw[None] for level_FChw in levels]


@dataclass(frozen=True)
class Table:
    """Features of a clip at one level, for reading windows.

    rows_MC: a row has the features of `side` neighbours in x; the rows are those of every place
    (F,h,w + 2·reach), the picture's edge going on `reach` px to either side.
    """

    rows_MC: Tensor
    height: int
    width: int
    side: int

    @property
    def reach(self) -> int:
        return self.side


def tables(model: Any, levels: Sequence[Tensor]) -> list[Table]:
    """`levels` as tables, in half precision on a GPU."""
    kind = torch.float16 if levels[0].is_cuda else torch.float32
    side = 2 * model.corr_radius + 2
    found = []
    for level_1FChw in levels:
        height, width = level_1FChw.shape[3:]
        wide_FChw = pad(level_1FChw[0].to(kind), (side, 2 * side - 1, 0, 0), mode="replicate")
        rows_FhwCk = wide_FChw.permute(0, 2, 3, 1).unfold(2, side, 1)
        rows_MC = rows_FhwCk.transpose(3, 4).reshape(-1, side * level_1FChw.shape[2])
        found.append(Table(rows_MC, height, width, side))
    return found


def follow(
    model: Any,
    levels: Sequence[Tensor],
    tables: Sequence[Table],
    query_N3: Tensor,
    turns: int,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The points in all frames by the offline network.

    levels, tables: of the clip; query_N3: frame, x and y px. reverse: the network sees the clip
    from its end; frames count from its beginning all the same. Gives positions (F,N,2) px,
    visibility and confidence (F,N).
    """
    frames, points = levels[0].shape[1], len(query_N3)
    start_1N2 = query_N3[None, :, 1:] / model.stride
    asked = [
        model.get_track_feat(
            level, query_N3[None, :, 0].long(), start_1N2 / 2**i, support_radius=model.corr_radius
        )[1][:, None]
        for i, level in enumerate(levels)
    ]
    none = start_1N2.new_zeros(1, frames, points, 1)
    at_1FN2 = start_1N2[:, None].expand(-1, frames, -1, -1).float()
    found = turn(model, tables, at_1FN2, asked, none, none, turns, reverse)
    position_FN2, visible_FN1, sure_FN1 = (one[0].flip(0) if reverse else one[0] for one in found)
    return (
        position_FN2 * model.stride,
        torch.sigmoid(visible_FN1[..., 0]),
        torch.sigmoid(sure_FN1[..., 0]),
    )


def turn(
    model: Any,
    tables: Sequence[Table],
    at_1FN2: Tensor,
    asked: Sequence[Tensor],
    visible_1FN1: Tensor,
    sure_1FN1: Tensor,
    turns: int,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions (1,F,N,2) in feature px, logits of visibility and confidence (1,F,N,1).

    asked: the features (1,1,49,N,C) round where the points were asked for, a level each.
    """
    frames, points = at_1FN2.shape[1:3]
    asked_NPC = [_padded(a.reshape(-1, points, a.shape[-1]), tables[0]) for a in asked]
    hidden, out = model.corr_mlp.fc1, model.corr_mlp.fc2
    weight = _spread(hidden.weight, model).to(asked_NPC[0].dtype)
    height, width = (
        torch.full((1,), n / model.stride, device=at_1FN2.device) for n in model.model_resolution
    )
    time_1FC = model.interpolate_time_embed(at_1FN2.new_zeros(1, frames, model.input_dim), frames)
    for _ in range(turns):
        with half(at_1FN2.device):
            seen = [
                _likeness(table, asked_NPC[i], at_1FN2[0] / 2**i, reverse)
                for i, table in enumerate(tables)
            ]
            told = [out(model.corr_mlp.act(linear(one, weight, hidden.bias))) for one in seen]
        step_1fN2 = at_1FN2.diff(dim=1)
        on, back = (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 1, 0)  # no step at the clip's ends
        steps = torch.cat([pad(-step_1fN2, on), pad(step_1fN2, back)], dim=-1)
        motion = _waves(steps / torch.cat([width, height, width, height]))
        state_NFc = torch.cat([visible_1FN1, sure_1FN1], dim=-1)[0].transpose(0, 1)
        token_NFC = torch.cat(
            [state_NFc, *(one.float() for one in told), motion[0].transpose(0, 1)], dim=-1
        )
        with half(at_1FN2.device):
            change_NFc = model.updateformer((token_NFC + time_1FC)[None], add_space_attn=True)[0]
        change_1FNc = change_NFc.float().transpose(0, 1)[None]
        at_1FN2 = at_1FN2 + change_1FNc[..., :2]
        visible_1FN1 = visible_1FN1 + change_1FNc[..., 2:3]
        sure_1FN1 = sure_1FN1 + change_1FNc[..., 3:4]
    return at_1FN2, visible_1FN1, sure_1FN1


def online_window(model: Any) -> Any:
    """`turn` in the form in which the online network calls its own loop, as a CUDA graph."""

    def loop(
        levels: list[Tensor], at: Tensor, asked: list[Tensor], vis: Tensor, conf: Tensor, turns: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return turn(model, tables(model, levels), at, asked, vis, conf, turns)

    replayed = Graphed(loop)

    def forward_window(
        fmaps_pyramid: Sequence[Tensor],
        coords: Tensor,
        track_feat_support_pyramid: Sequence[Tensor],
        vis: Tensor,
        conf: Tensor,
        iters: int,
        **other: Any,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        asked = [one.flatten(2, 2) for one in track_feat_support_pyramid]
        at, visible, sure = replayed(list(fmaps_pyramid), coords, asked, vis, conf, iters)
        return [at * model.stride], [visible[..., 0]], [sure[..., 0]]

    return forward_window


def _padded(asked_KNC: Tensor, table: Table) -> Tensor:
    """The features asked for, (N,PADDED,C), in the precision of the table."""
    asked_NKC = asked_KNC.transpose(0, 1).to(table.rows_MC.dtype)
    return pad(asked_NKC, (0, 0, 0, PADDED - asked_NKC.shape[1])).contiguous()


def _spread(weight_HK: Tensor, model: Any) -> Tensor:
    """The first weights (H,49·49) of the comparison's network, for comparisons (49·PADDED)."""
    width = 2 * model.corr_radius + 1
    weight_HxyK = torch.unflatten(weight_HK, 1, (width, width, width**2))
    return pad(weight_HxyK.transpose(1, 2), (0, PADDED - width**2)).flatten(1)


def _likeness(table: Table, asked_NPC: Tensor, at_FN2: Tensor, reverse: bool) -> Tensor:
    """The window round each point against the features asked for, (N,F,49·PADDED), y slowest.

    Outside the picture its edge goes on.
    """
    frames, points = at_FN2.shape[:2]
    side, reach, device = table.side, table.reach, at_FN2.device
    corner_FN2 = at_FN2.floor()
    right, down = (
        (at_FN2 - corner_FN2)
        .transpose(0, 1)
        .to(table.rows_MC.dtype)[..., None, None, None]
        .unbind(2)
    )
    column_NF, row_NF = corner_FN2.long().transpose(0, 1).unbind(2)
    first_NF1 = (column_NF - (side // 2 - 1) + reach).clamp(0, table.width - 1 + 2 * reach)[
        ..., None
    ]
    span = torch.arange(1 - side // 2, side // 2 + 1, device=device)
    row_NFk = (row_NF[..., None] + span).clamp(0, table.height - 1)
    frame_F1 = torch.arange(frames, device=device)[:, None]
    if reverse:
        frame_F1 = frames - 1 - frame_F1
    line = table.width + 2 * reach
    index_NFk = (frame_F1 * table.height + row_NFk) * line + first_NF1
    near_NLC = embedding(index_NFk.flatten(1), table.rows_MC).view(points, -1, asked_NPC.shape[2])
    found = (near_NLC @ asked_NPC.transpose(1, 2)).view(points, frames, side, side, PADDED)
    kernels = fused(device.type)
    if kernels is not None:
        blended = kernels.blended(found.flatten(0, 1), right.flatten(), down.flatten())
        return unflatten(blended, 0, (points, frames))
    found = torch.lerp(found[:, :, :-1], found[:, :, 1:], down)
    found = torch.lerp(found[:, :, :, :-1], found[:, :, :, 1:], right)
    return found.flatten(2)


def _waves(values: Tensor) -> Tensor:
    """The values, and their sines and cosines at WAVES doubling frequencies."""
    scale_K = 2.0 ** torch.arange(WAVES, device=values.device)
    angles = (values[..., None, :] * scale_K[:, None]).flatten(-2)
    return torch.cat([values, torch.sin(angles), torch.sin(angles + torch.pi / 2)], dim=-1)
