"""The real networks of the gpu preset with few, random weights, for tests on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Rgb = npt.NDArray[np.uint8]


def real(module: str) -> Any:
    """The package, or a skip that says what is not tested."""
    return pytest.importorskip(
        module, reason=f"the adapter of {module} is not tested: the package is not installed"
    )


def clip(frames: int, size: tuple[int, int], seed: int = 0) -> list[Rgb]:
    """Smooth random pictures (H,W,3) of `size` (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (frames, 8, 8, 3))
    rows, columns = (np.linspace(0, 7, n).astype(int) for n in reversed(size))
    return list(coarse[:, rows][:, :, columns].astype(np.uint8))


def depth_anything(max_depth: int = 80) -> tuple[Any, Any]:
    """Model and picture processor of Depth Anything V2."""
    transformers = real("transformers")
    torch = real("torch")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_in_index=-1,
        depth_estimation_type="metric",
        max_depth=max_depth,
    )
    processor = transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    model = transformers.DepthAnythingForDepthEstimation(config)
    for weight in model.parameters():  # as made they are so small that the picture drowns
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model, processor


def depth_pro() -> tuple[Any, Any]:
    """Model and picture processor of Depth Pro."""
    transformers = real("transformers")
    torch = real("torch")
    torch.manual_seed(0)
    encoder = {
        "model_type": "dinov2",
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 1,
        "patch_size": 4,
        "image_size": 16,
    }
    config = transformers.DepthProConfig(
        patch_size=16,
        fusion_hidden_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[10, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[12, 12],
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
        use_fov_model=True,
    )
    processor = transformers.DepthProImageProcessor(size={"height": 32, "width": 32})
    return transformers.DepthProForDepthEstimation(config), processor


def unidepth() -> Any:
    """A small UniDepthV2 (ViT-S with a thin decoder and few pixels)."""
    models = real("unidepth.models")
    torch = real("torch")
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "generic": {"seed": 0, "deterministic": True},
        "training": {"lr": 1e-4, "wd": 0.1, "ld": 1.0, "drop_path": 0.0, "losses": {}},
        "data": {
            "image_shape": [56, 84],
            "normalization": "imagenet",
            "augmentations": {
                "shape_constraints": {
                    "ratio_bounds": [0.5, 2.5],
                    "pixels_max": 6000,
                    "pixels_min": 2000,
                }
            },
        },
        "model": {
            "name": "UniDepthV2",
            "num_heads": 4,
            "expansion": 2,
            "layer_scale": 1.0,
            "pixel_decoder": {
                "name": "Decoder",
                "hidden_dim": 64,
                "dropout": 0.0,
                "depths": [1, 1, 1],
                "out_dim": 8,
                "kernel_size": 3,
            },
            "pixel_encoder": {
                "lr": 2e-6,
                "wd": 0.1,
                "name": "dinov2_vits14",
                "frozen_stages": 0,
                "num_register_tokens": 0,
                "use_norm": True,
                "freeze_norm": True,
                "pretrained": None,
                "stacking_fn": "last",
                "output_idx": [3, 6, 9, 12],
            },
        },
    }
    return models.UniDepthV2(config)


def sam2() -> Any:
    """A small SAM 2 for video, for pictures of 128 px."""
    transformers = real("transformers")
    torch = real("torch")
    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=12,
        num_attention_heads=1,
        image_size=128,
        patch_kernel_size=[7, 7],
        patch_stride=[4, 4],
        patch_padding=[3, 3],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 1, 2, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
        window_size_per_stage=[4, 4, 4, 4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=128,
    )
    config = transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": 128, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_depth": 1,
            "iou_head_hidden_dim": 16,
        },
        image_size=128,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_num_attention_heads=1,
        memory_attention_feed_forward_hidden_size=128,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=128,
    )
    return transformers.Sam2VideoModel(config)


def sam3() -> tuple[Any, Any]:
    """A small SAM 3 for video, for pictures of 112 px, and its processor.

    It takes everything for what it was asked for: three instances a name.
    """
    transformers = real("transformers")
    torch = real("torch")
    torch.manual_seed(0)
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
        "fpn_hidden_size": 128,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    small = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 16}
    detector = transformers.Sam3Config(
        vision_config=vision,
        text_config={
            "vocab_size": 100,
            "hidden_size": 16,
            "intermediate_size": 16,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 1, "num_queries": 3},
        mask_decoder_config={"hidden_size": 128, "num_attention_heads": 2},
    )
    tracker = transformers.Sam3TrackerVideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 128, "image_size": 112, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=16,
    )
    config = transformers.Sam3VideoConfig(
        detector_config=detector,
        tracker_config=tracker,
        low_res_mask_size=32,
        score_threshold_detection=0.0,
        new_det_thresh=0.0,
    )
    config.image_size = 112  # reaches the nested configurations only like this
    letters = {letter: 3 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789")}
    ends = {f"{letter}</w>": 50 + i for i, letter in enumerate(letters)}
    special = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    processor = transformers.Sam3VideoProcessor(
        image_processor=transformers.Sam3ImageProcessor(size={"height": 112, "width": 112}),
        video_processor=transformers.Sam2VideoVideoProcessor(size={"height": 112, "width": 112}),
        tokenizer=transformers.CLIPTokenizer(vocab=special | letters | ends, merges=[]),
    )
    return transformers.Sam3VideoModel(config), processor
