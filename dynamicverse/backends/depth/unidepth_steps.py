"""The steps of UniDepthV2, so that its two passes over a clip share what they have in common.

`infer` of the package encodes a picture anew in each pass, normalises 24 layers of which 4 are
used, enlarges features that nobody reads, and attends through weights that it stores. Here
pictures are encoded once, and only what leads to the camera or to depth along the optical axis
is computed. The sums are the network's own; a test holds them to `infer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, unflatten
from torch.nn.functional import interpolate, linear, pad, scaled_dot_product_attention

from dynamicverse.backends.accelerator import fuse_norms, half


@dataclass(frozen=True)
class Encoded:
    """What the decoders read of pictures: features (B,h,w,C) of each level, tokens (B,4,C)."""

    features: tuple[Tensor, ...]
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, start: int, end: int) -> Encoded:
        return Encoded(tuple(level[start:end] for level in self.features), self.tokens[start:end])

    @staticmethod
    def joined(parts: list[Encoded]) -> Encoded:
        if len(parts) == 1:
            return parts[0]
        levels = zip(*(part.features for part in parts), strict=True)
        return Encoded(
            tuple(torch.cat(level) for level in levels), torch.cat([part.tokens for part in parts])
        )


@dataclass(frozen=True)
class Fitted:
    """How a picture is brought to the network's size: edges added, then scaled by `factor`.

    added: left, right, top, bottom px; padded, size: height and width after each step.
    """

    added: tuple[int, int, int, int]
    padded: tuple[int, int]
    factor: float
    size: tuple[int, int]


class Steps:
    """A `UniDepthV2` whose encoder and decoders are called apart."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tools = import_module(type(model).__module__)
        encoder, head = model.pixel_encoder, model.pixel_decoder.depth_layer
        places = cache(encoder.interpolate_pos_encoding.__func__)
        encoder.interpolate_pos_encoding = lambda x, w, h: places(
            encoder, _Like(x.dtype, x.shape), w, h
        )
        for layer in head.prompt_camera.modules():
            if hasattr(layer, "norm_attnctx"):
                layer.attn = partial(_attention, layer)
        if model.device.type == "cuda":
            head.to(memory_format=torch.channels_last)
        fuse_norms(encoder.blocks)
        self._rays: dict[Any, tuple[Tensor, Tensor]] = {}

    def encode(self, rgb_B3HW: Tensor) -> Encoded:
        """rgb_B3HW: 0..255."""
        decoder = self._model.pixel_decoder
        fit = self._fitted(rgb_B3HW)
        rgb_B3HW = self._tools.TF.normalize(
            rgb_B3HW.float() / 255,
            mean=self._tools.IMAGENET_DATASET_MEAN,
            std=self._tools.IMAGENET_DATASET_STD,
        )
        rgb_B3HW = interpolate(
            pad(rgb_B3HW, fit.added), fit.size, mode="bilinear", align_corners=False
        )
        with half(rgb_B3HW.device):
            features, tokens = self._levels(rgb_B3HW)
            told = torch.cat(decoder.camera_token_adapter(tokens), dim=1)
            return Encoded(tuple(decoder.input_adapter(features)), told)

    def cameras(self, encoded: Encoded, rgb_B3HW: Tensor) -> Tensor:
        """Intrinsics (B,3,3) px of the pictures, centres of pixels at 0.5."""
        fit, head = self._fitted(rgb_B3HW), self._model.pixel_decoder.camera_layer
        head.set_shapes(fit.size)
        with half(rgb_B3HW.device):
            # it takes features, and does not look at them
            found_B4 = head(encoded.features[0][..., :1], encoded.tokens, None).float()
        left, _, top, _ = fit.added
        found_B4 = found_B4 / fit.factor - found_B4.new_tensor([0, 0, left, top])
        K_B33 = torch.eye(3, device=found_B4.device).repeat(len(found_B4), 1, 1)
        K_B33[:, 0, 0], K_B33[:, 1, 1] = found_B4[:, 0], found_B4[:, 1]
        K_B33[:, 0, 2], K_B33[:, 1, 2] = found_B4[:, 2], found_B4[:, 3]
        return K_B33

    def depth(self, encoded: Encoded, rgb_B3HW: Tensor, K_33: Tensor) -> tuple[Tensor, Tensor]:
        """Depth (B,H,W) m and the exponential of its log error, given the intrinsics."""
        fit, head = self._fitted(rgb_B3HW), self._model.pixel_decoder.depth_layer
        head.set_shapes(encoded.features[0].shape[1:3])
        head.set_original_shapes(fit.size)
        with half(rgb_B3HW.device):
            forward_1HW, embedded_1PC = self._ray(K_33, fit)
            finest = head.process(encoded.features, embedded_1PC)[0][-1]
            maps = [
                self._enlarged(finest, mlp, low, high, fit.size)
                for mlp, low, high in (
                    (head.depth_mlp[-1], head.to_depth_lr, head.to_depth_hr),
                    (head.confidence_mlp, head.to_confidence_lr, head.to_confidence_hr),
                )
            ]
            radius_B1HW = torch.exp(maps[0].clip(min=-8.0, max=8.0) + 2.0)
            error_B1HW = torch.exp(maps[1].clip(min=-8.0, max=8.0))
            depth_B1HW = forward_1HW[:, None] * radius_B1HW
        return self._cut(depth_B1HW, fit), self._cut(error_B1HW, fit)

    def _fitted(self, rgb_B3HW: Tensor) -> Fitted:
        limits = self._model.shape_constraints
        added, padded = self._tools.get_paddings(rgb_B3HW.shape[-2:], limits["ratio_bounds"])
        most = (limits["pixels_min"], limits["pixels_max"])
        factor, size = self._tools.get_resize_factor(padded, most)
        return Fitted(added, padded, factor, size)

    def _levels(self, rgb_B3HW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features (B,h,w,C) and class tokens (B,1,C) of the layers that are decoded."""
        encoder = self._model.pixel_encoder
        grid = [n // encoder.patch_size for n in rgb_B3HW.shape[-2:]]
        token_BNC = encoder.prepare_tokens_with_masks(rgb_B3HW)
        features, tokens = [], []
        for count, block in enumerate(encoder.blocks, start=1):
            token_BNC = block(token_BNC)
            if count in encoder.depths:
                found_BNC = encoder.norm(token_BNC) if encoder.use_norm else token_BNC
                tokens.append(found_BNC[:, :1])
                places_BPC = found_BNC[:, encoder.num_register_tokens + 1 :]
                features.append(unflatten(places_BPC, 1, grid))
        return features, tokens

    def _ray(self, K_33: Tensor, fit: Fitted) -> tuple[Tensor, Tensor]:
        """The rays' last coordinate (1,H,W) and their embedding, the same for a whole clip."""
        key = (tuple(K_33.flatten().tolist()), fit)
        if key not in self._rays:
            left, right, top, bottom = fit.added
            camera = self._tools.BatchCamera.from_camera(self._tools.Pinhole(K=K_33[None].clone()))
            camera = camera.to(self._model.device)
            camera = camera.crop(left=-left, top=-top, right=-right, bottom=-bottom)
            rays_13HW = camera.resize(fit.factor).get_rays(shapes=(1, *fit.size))
            head = self._model.pixel_decoder.depth_layer
            embedded_1PC = head.embed_rays(rays_13HW.flatten(2).transpose(1, 2).contiguous())
            self._rays = {key: (rays_13HW[:, 2], embedded_1PC)}
        return self._rays[key]

    def _enlarged(
        self, finest: Tensor, mlp: Any, low: Any, high: Any, size: tuple[int, int]
    ) -> Tensor:
        map_BChw = low(mlp(finest.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        map_BCHW = interpolate(map_BChw, size, mode="bilinear", align_corners=True)
        map_BCHW = high[1](high[0](map_BCHW))
        # its last convolution has one output: cuDNN would leave the tensor cores for it
        found = linear(map_BCHW.permute(0, 2, 3, 1), high[2].weight.flatten(1), high[2].bias)
        return found.permute(0, 3, 1, 2)

    def _cut(self, map_B1HW: Tensor, fit: Fitted) -> Tensor:
        cut: Callable[..., Tensor] = self._tools._postprocess
        return cut(map_B1HW, fit.padded, fit.added, self._model.interpolation_mode)[:, 0].float()


@dataclass(frozen=True)
class _Like:
    """What the encoder's positions depend on: the precision and the shape of its tokens."""

    dtype: torch.dtype
    shape: torch.Size


def _attention(
    layer: Any,
    x_BNC: Tensor,
    attn_bias: Tensor | None = None,
    context: Tensor | None = None,
    pos_embed: Tensor | None = None,
    pos_embed_context: Tensor | None = None,
) -> Tensor:
    """The package's attention with keys and values laid out so that one kernel can take them."""
    assert context is not None
    assert attn_bias is pos_embed is pos_embed_context is None
    heads = layer.num_heads
    key_value = unflatten(layer.kv(layer.norm_attnctx(context)), 2, (2, heads, -1))
    # the rays are the same for all pictures
    key_value = key_value.expand(len(x_BNC), -1, -1, -1, -1)
    key, value = key_value.permute(2, 0, 3, 1, 4).contiguous()
    query = unflatten(layer.q(layer.norm_attnx(x_BNC)), 2, (heads, -1)).transpose(1, 2)
    found = scaled_dot_product_attention(query, key, value)
    told: Tensor = layer.out(found.transpose(1, 2).flatten(2))
    return told
