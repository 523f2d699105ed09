"""The networks UniMatch and GMFlow of `ptlflow`, driven for whole runs of frames.

`ptlflow` solves one direction of one pair at a time, and samples a window of features for every
pixel. Here the features of a frame are computed once, for both of its pairs and both directions,
the coarse scale is matched both ways at once (as the networks' own `pred_bidir_flow` does), and
windows are looked up in the correlations of all pixels with all, as RAFT does: the correlation is
linear in the sampled features, so interpolating it gives the same numbers. A test holds the two
ways together. Half precision only for convolutions, attention and correlations; flow, its
softmax and its propagation stay in single.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, unflatten
from torch.nn.functional import (
    interpolate,
    linear,
    pad,
    scaled_dot_product_attention,
    softmax,
)

from dynamicverse.backends.accelerator import fused, half
from dynamicverse.backends.flow.refining import Refinement

WINDOW = 4  # px of the scale, each way
BGR_MEAN, BGR_STD = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)
FINE = 4  # px of the picture a pixel of the finest scale
BYTES = 2  # of a correlation in half precision


def volume_bytes(height: int, width: int) -> int:
    """Device memory of the correlations of one pair, both ways."""
    return 2 * BYTES * (-(-height // FINE) * -(-width // FINE)) ** 2


def consecutive_flow(
    model: Any, tools: ModuleType, refine: Refinement | None, bgr_F3HW: Tensor
) -> tuple[Tensor, Tensor]:
    """Forward and backward flow (F-1,2,H,W) px between neighbours of F frames in 0..1.

    model: ptlflow's `UniMatch` or `GMFlow` with two scales; its transformer may be in half
    precision. tools: the module with its functions `flow_warp` and `feature_add_position`.
    refine: where the network refines its flow.
    """
    images_1F3HW, padding = model.preprocess_images(
        bgr_F3HW[None],
        bgr_add=[-mean for mean in BGR_MEAN],
        bgr_mult=[1 / std for std in BGR_STD],
        bgr_to_rgb=True,
        pad_two_side=True,
    )
    with half(bgr_F3HW.device):
        fine_FCHW, coarse_FCHW = (found.float() for found in model.backbone(images_1F3HW[0]))
    flow_S2HW = _coarse(model, tools, coarse_FCHW)
    flow_S2HW = interpolate(flow_S2HW, scale_factor=2, mode="bilinear", align_corners=True) * 2
    first_SCHW = torch.cat([fine_FCHW[:-1], fine_FCHW[1:]])
    second_SCHW = torch.cat([fine_FCHW[1:], fine_FCHW[:-1]])
    flow_S2HW, context_SCHW = _fine(model, tools, first_SCHW, second_SCHW, flow_S2HW)
    if refine is not None:
        flow_S2HW, mask = _refined(refine, first_SCHW, second_SCHW, flow_S2HW, context_SCHW)
        full_S2HW = _upsampled(flow_S2HW, mask, model.upsample_factor)
    else:
        with half(bgr_F3HW.device):
            mask = model.upsampler(torch.cat([flow_S2HW, context_SCHW], dim=1))
        full_S2HW = _upsampled(flow_S2HW, mask.float(), model.upsample_factor)
    full_S2HW = model.postprocess_predictions(full_S2HW, padding, is_flow=True)
    forward_P2HW, backward_P2HW = full_S2HW.chunk(2)
    return forward_P2HW, backward_P2HW


def _coarse(model: Any, tools: ModuleType, features_FCHW: Tensor) -> Tensor:
    """Global matching: the forward flows of all pairs, then the backward flows."""
    first_PCHW, second_PCHW = _transformed(
        model, tools, features_FCHW[:-1], features_FCHW[1:], model.attn_splits_list[0]
    )
    first_SCHW = torch.cat([first_PCHW, second_PCHW])
    second_SCHW = torch.cat([second_PCHW, first_PCHW])
    height, width = first_SCHW.shape[2:]
    here_N2 = _pixels(height, width, first_SCHW.device)
    found_SN2 = torch.stack(
        [
            softmax(_correlation(a_CHW, b_CHW).float(), dim=-1) @ here_N2
            for a_CHW, b_CHW in zip(first_SCHW, second_SCHW, strict=True)
        ]
    )
    flow_S2HW = unflatten((found_SN2 - here_N2).transpose(1, 2), 2, (height, width))
    return _propagated(model, first_SCHW, flow_S2HW, model.prop_radius_list[0])


def _fine(
    model: Any, tools: ModuleType, first_SCHW: Tensor, second_SCHW: Tensor, flow_S2HW: Tensor
) -> tuple[Tensor, Tensor]:
    """The flow matched again near where the coarse flow leads, and the features that did it."""
    warped_SCHW = tools.flow_warp(second_SCHW, flow_S2HW)
    splits, radius = model.attn_splits_list[1], model.corr_radius_list[1]
    first_SCHW, warped_SCHW = _transformed(model, tools, first_SCHW, warped_SCHW, splits)
    height, width = flow_S2HW.shape[2:]
    here_N2 = _pixels(height, width, flow_S2HW.device)
    offset_K2 = _window(radius, flow_S2HW.device)
    there_NK2 = here_N2[:, None] + offset_K2
    outside_NK = ((there_NK2 < 0) | (there_NK2 >= here_N2.new_tensor([width, height]))).any(-1)
    steps = []
    for a_CHW, b_CHW in zip(first_SCHW, warped_SCHW, strict=True):
        volume_1NM = _correlation(a_CHW, b_CHW)[None]
        score_1NK = _near(volume_1NM, here_N2[None], width, radius, len(offset_K2)).float()
        score_NK = score_1NK[0].masked_fill(outside_NK, -1e9)
        steps.append((softmax(score_NK, dim=-1)[..., None] * offset_K2).sum(1))
    step_SN2 = torch.stack(steps)
    flow_S2HW = flow_S2HW + unflatten(step_SN2.transpose(1, 2), 2, (height, width))
    return _propagated(model, first_SCHW, flow_S2HW, model.prop_radius_list[1]), first_SCHW


def _refined(
    refine: Refinement,
    first_SCHW: Tensor,
    second_SCHW: Tensor,
    flow_S2HW: Tensor,
    context_SCHW: Tensor,
) -> tuple[Tensor, Tensor]:
    """UniMatch's recurrent refinements; flow and the mask of its upsampling."""
    pairs = zip(first_SCHW, second_SCHW, strict=True)
    volume_SNM = torch.stack([_correlation(a_CHW, b_CHW) for a_CHW, b_CHW in pairs])
    height, width = flow_S2HW.shape[2:]
    here_N2 = _pixels(height, width, flow_S2HW.device)

    def look_up(flow_S2HW: Tensor) -> Tensor:
        there_SN2 = here_N2 + flow_S2HW.flatten(2).transpose(1, 2)
        return _near(volume_SNM, there_SN2, width, WINDOW, refine.window)

    return refine(look_up, flow_S2HW, context_SCHW)


def _transformed(
    model: Any, tools: ModuleType, first_BCHW: Tensor, second_BCHW: Tensor, splits: int
) -> tuple[Tensor, Tensor]:
    """The network's transformer: attention in splits² windows, moved by half in odd layers."""
    positioned = tools.feature_add_position(first_BCHW, second_BCHW, splits, model.feature_channels)
    kind = model.transformer.layers[0].self_attn.q_proj.weight.dtype
    token_DHWC = torch.cat(positioned).to(kind).permute(0, 2, 3, 1)
    height, width = token_DHWC.shape[1] // splits, token_DHWC.shape[2] // splits
    moved = (height // 2, width // 2)
    apart_1KLL = _apart(splits, height, width, moved, token_DHWC.device)
    for turn, layer in enumerate(model.transformer.layers):
        shift, bias = (moved, apart_1KLL) if turn % 2 else ((0, 0), None)
        token_DHWC = token_DHWC.roll((-shift[0], -shift[1]), (1, 2)) if turn % 2 else token_DHWC
        window_DKLC = _windows(token_DHWC, splits)
        other_DKLC = window_DKLC.roll(len(window_DKLC) // 2, 0)
        attending = layer.self_attn
        window_DKLC = window_DKLC + _attended(attending, window_DKLC, window_DKLC, bias)
        attending = layer.cross_attn_ffn
        message_DKLC = _attended(attending, window_DKLC, other_DKLC, bias)
        message_DKLC = attending.mlp(torch.cat([window_DKLC, message_DKLC], dim=-1))
        window_DKLC = window_DKLC + attending.norm2(message_DKLC)
        token_DHWC = _together(window_DKLC, splits, height, width)
        token_DHWC = token_DHWC.roll(shift, (1, 2)) if turn % 2 else token_DHWC
    first_BCHW, second_BCHW = token_DHWC.float().permute(0, 3, 1, 2).contiguous().chunk(2)
    return first_BCHW, second_BCHW


def _attended(layer: Any, source_DKLC: Tensor, target_DKLC: Tensor, bias: Tensor | None) -> Tensor:
    weights = [layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]
    if source_DKLC is target_DKLC:
        query, key, value = linear(source_DKLC, torch.cat(weights)).chunk(3, dim=-1)
    else:
        query = linear(source_DKLC, weights[0])
        key, value = linear(target_DKLC, torch.cat(weights[1:])).chunk(2, dim=-1)
    bias = None if bias is None else bias.to(query.dtype)
    found = scaled_dot_product_attention(query, key, value, attn_mask=bias)
    message: Tensor = layer.norm1(layer.merge(found))
    return message


def _windows(token_DHWC: Tensor, splits: int) -> Tensor:
    parts = unflatten(unflatten(token_DHWC, 2, (splits, -1)), 1, (splits, -1))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _together(window_DKLC: Tensor, splits: int, height: int, width: int) -> Tensor:
    parts = unflatten(unflatten(window_DKLC, 2, (height, width)), 1, (splits, splits))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _apart(
    splits: int, height: int, width: int, moved: tuple[int, int], device: torch.device
) -> Tensor:
    """-100 (1,K,L,L) between pixels that moved windows bring together from opposite edges."""
    sides = []
    for size, shift in ((height, moved[0]), (width, moved[1])):
        place = torch.arange(splits * size, device=device)
        sides.append((place >= (splits - 1) * size).int() + (place >= splits * size - shift).int())
    region_HW = 3 * sides[0][:, None] + sides[1]
    region_KL = _windows(region_HW[None, ..., None], splits)[0, ..., 0]
    apart_1KLL: Tensor = region_KL[None, :, :, None] != region_KL[None, :, None, :]
    return torch.where(apart_1KLL, -100.0, 0.0)


def _propagated(model: Any, features_SCHW: Tensor, flow_S2HW: Tensor, radius: int) -> Tensor:
    """The network's propagation of flow between places with like features."""
    if radius > 0:
        return _propagated_nearby(model.feature_flow_attn, features_SCHW, flow_S2HW, radius)
    found: Tensor = model.feature_flow_attn(features_SCHW, flow_S2HW.contiguous())
    return found


def _propagated_nearby(layer: Any, features_SCHW: Tensor, flow_S2HW: Tensor, radius: int) -> Tensor:
    """The same within a window; shift by shift, as the windows of all places fill memory."""
    height, width = flow_S2HW.shape[2:]
    token_SHWC = features_SCHW.permute(0, 2, 3, 1)
    with half(flow_S2HW.device):
        query_SHWC = layer.q_proj(token_SHWC) * token_SHWC.shape[3] ** -0.5
        key_SHWC = pad(layer.k_proj(token_SHWC), (0, 0, radius, radius, radius, radius))
    around_S2HW = pad(flow_S2HW, (radius, radius, radius, radius))
    shifts = [(y, x) for y in range(2 * radius + 1) for x in range(2 * radius + 1)]
    score_KSHW = torch.stack(
        [
            (query_SHWC * key_SHWC[:, y : y + height, x : x + width]).sum(-1, dtype=torch.float32)
            for y, x in shifts
        ]
    )
    share_KSHW = softmax(score_KSHW, dim=0)
    found_S2HW = torch.zeros_like(flow_S2HW)
    for share_SHW, (y, x) in zip(share_KSHW, shifts, strict=True):
        found_S2HW.addcmul_(share_SHW[:, None], around_S2HW[..., y : y + height, x : x + width])
    return found_S2HW


def _correlation(first_CHW: Tensor, second_CHW: Tensor) -> Tensor:
    """Scaled products (N,M) of the features of all pixels with all; in half on a GPU."""
    kind = torch.float16 if first_CHW.is_cuda else torch.float32
    first_CN = (first_CHW.flatten(1) * first_CHW.shape[0] ** -0.5).to(kind)
    scaled_NM: Tensor = first_CN.T @ second_CHW.flatten(1).to(kind)
    return scaled_NM


def _near(volume_SNM: Tensor, there_SN2: Tensor, width: int, radius: int, columns: int) -> Tensor:
    """`_looked_up` with zeros up to so many columns, in the precision of the volume on a GPU."""
    kernels = fused(volume_SNM.device.type)
    if kernels is None:
        found_SNK = _looked_up(volume_SNM, there_SN2, width, radius)
        return pad(found_SNK, (0, columns - found_SNK.shape[2]))
    found_RK = kernels.windows(
        volume_SNM.flatten(0, 1), there_SN2.flatten(0, 1), width, radius, columns
    )
    return unflatten(found_RK, 0, volume_SNM.shape[:2])


def _looked_up(volume_SNM: Tensor, there_SN2: Tensor, width: int, radius: int) -> Tensor:
    """Correlations (S,N,K) in the window of (2r+1)² px round a point, bilinear; 0 outside.

    volume_SNM: of N pixels with the M pixels of a picture `width` wide, row by row; there_SN2:
    where the window of each of the N pixels is, x and y.
    """
    height, side = volume_SNM.shape[2] // width, 2 * radius + 2
    corner_SN2 = there_SN2.floor()
    right_SN11, down_SN11 = (there_SN2 - corner_SN2)[..., None, None].unbind(2)
    span = torch.arange(-radius, radius + 2, device=volume_SNM.device)
    column_SNk, row_SNk = (corner_SN2.long()[..., None] + span).unbind(2)
    inside_SNkk = ((row_SNk >= 0) & (row_SNk < height))[..., :, None] & (
        (column_SNk >= 0) & (column_SNk < width)
    )[..., None, :]
    index_SNkk = (row_SNk.clamp(0, height - 1) * width)[..., :, None] + column_SNk.clamp(
        0, width - 1
    )[..., None, :]
    patch_SNK = volume_SNM.gather(2, index_SNkk.flatten(2)).float()
    patch_SNkk = unflatten(patch_SNK, 2, (side, side))
    patch_SNkk = patch_SNkk * inside_SNkk
    patch_SNkk = torch.lerp(patch_SNkk[..., :-1], patch_SNkk[..., 1:], right_SN11)
    return torch.lerp(patch_SNkk[..., :-1, :], patch_SNkk[..., 1:, :], down_SN11).flatten(2)


def _pixels(height: int, width: int, device: torch.device) -> Tensor:
    """x and y (N,2) of all pixels, row by row."""
    row, column = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([column, row], dim=-1).flatten(0, 1).float()


def _window(radius: int, device: torch.device) -> Tensor:
    """Offsets (K,2), x and y, row by row."""
    return _pixels(2 * radius + 1, 2 * radius + 1, device) - radius


def _upsampled(flow_S2HW: Tensor, mask_SKHW: Tensor, factor: int) -> Tensor:
    """Convex upsampling: every fine pixel is a mean of the nine coarse ones round it."""
    size, _, height, width = flow_S2HW.shape
    weight = softmax(mask_SKHW.reshape(size, 1, 9, factor, factor, height, width), dim=2)
    near = torch.nn.functional.unfold(factor * flow_S2HW, (3, 3), padding=1)
    near = near.view(size, 2, 9, 1, 1, height, width)
    fine = (weight * near).sum(dim=2).permute(0, 1, 4, 2, 5, 3)
    return fine.reshape(size, 2, factor * height, factor * width)
