"""A tiny Qwen2.5-VL with random weights and a tokenizer of bytes, for servers under test.

PYTHON tests/tiny_qwen.py FOLDER      PYTHON has transformers 5 and torch

It answers nonsense in well-formed JSON when the server holds it to a schema. Nothing is fetched.
"""

from __future__ import annotations

import sys
from pathlib import Path

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
CONTEXT = 32_768
# how much each is asked for: strings end after a letter, lists after their first item
WANTED = {'"': 0.3, "{": 0.25, "]": 0.2}
PATCH = 14


def make_tokenizer():  # type: ignore[no-untyped-def]
    """Every byte is a token; then the special ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )


def make_model(tokenizer):  # type: ignore[no-untyped-def]
    """Two layers of language, two of vision."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 320, "hidden_size": 128, "intermediate_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT, "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6,
                                "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128,
            "out_hidden_size": 128, "patch_size": PATCH, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    _end_soon(model, {c: tokenizer.convert_tokens_to_ids(c) for c in WANTED})
    return model.to(torch.bfloat16)


def _end_soon(model, ids):  # type: ignore[no-untyped-def]
    """Give every state a common part that asks for what ends an answer.

    Else it is as long as its schema allows: thousands of tokens.
    """
    import torch

    embeddings, head = model.get_input_embeddings().weight, model.lm_head.weight
    common = torch.full((head.shape[1],), head.shape[1] ** -0.5)
    with torch.no_grad():
        embeddings += 2.0 * common  # ten times the length of what differs
        for character, token in ids.items():
            head[token] = WANTED[character] * common


def main(folder: Path) -> None:
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    pixels = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    tokenizer = make_tokenizer()
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        video_processor=Qwen2VLVideoProcessor(**sizes),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    model = make_model(tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters())} parameters in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
