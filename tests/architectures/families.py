"""Small random models of many families, as their published checkpoints name their tensors.

Each entry is what `save_model` needs beside the tokenizer. Byte-level families have a byte-level
tokenizer, the others SentencePiece's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerBase

SENTENCEPIECE, BYTES = "sentencepiece_bpe", "byte_level"


@dataclass(frozen=True)
class Family:
    """How a small model of one family is made."""

    tokenizer: str = SENTENCEPIECE
    tied: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(BYTES, tied=True),
    "qwen3": Family(BYTES, settings={"head_dim": 8}),
    "gemma2": Family(tied=True, settings={"head_dim": 8, "query_pre_attn_scalar": 8}),
    "gemma3_text": Family(tied=True, settings={"head_dim": 8}),
    "phi": Family(BYTES, settings={"num_key_value_heads": 4}),
    "gpt2": Family(BYTES, tied=True),
    # Plain mergekit asks for the buffers that the published checkpoints hold.
    "gpt_neox": Family(
        BYTES,
        settings={
            "buffers": {
                "gpt_neox.layers.0.attention.bias": [1, 1, 4, 4],
                "gpt_neox.layers.0.attention.masked_bias": [1],
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq": [1],
            }
        },
    ),
    "starcoder2": Family(BYTES, tied=True),
    "olmo2": Family(BYTES),
    # Plain mergekit merges the Cohere models that normalise queries and keys, no others.
    "cohere": Family(BYTES, tied=True, settings={"use_qk_norm": True}),
    "mixtral": Family(settings={"num_local_experts": 2, "num_experts_per_tok": 1}),
    "qwen3_moe": Family(
        BYTES,
        settings={
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "mamba": Family(settings={"state_size": 4}),
    # Those that mergekit has no definition for, and infers.
    # Gemma 3n has a second input embedding, for all layers, which mergekit does not mark.
    "gemma3n_text": Family(
        tied=True,
        settings={
            "head_dim": 8,
            "num_kv_shared_layers": 0,
            "layer_types": ["full_attention"],
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 2000,
            "laurel_rank": 4,
            "intermediate_size": [64],
            "activation_sparsity_pattern": [0.0],
            "altup_num_inputs": 2,
        },
    ),
    "opt": Family(tied=True, settings={"ffn_dim": 32, "word_embed_proj_dim": 32}),
    "bloom": Family(BYTES, tied=True),
    "olmo": Family(),
    "mpt": Family(),
    "gptj": Family(BYTES, settings={"rotary_dim": 4}),
}

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
QWEN_TOKENS = {
    "image_token_id": 1000,
    "video_token_id": 1001,
    "vision_start_token_id": 1002,
    "vision_end_token_id": 1003,
}


@dataclass(frozen=True)
class VisionFamily:
    """How a small vision-language model of one family is made."""

    tokenizer: str
    text: dict[str, Any]
    vision: dict[str, Any]
    settings: dict[str, Any]
    renamed: tuple[str, str] | None = None
    """A prefix of tensor names, and what the published checkpoints have in its place."""


VISION_FAMILIES: dict[str, VisionFamily] = {
    "qwen2_5_vl": VisionFamily(
        BYTES,
        {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        {
            "depth": 1,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "patch_size": 4,
            "fullatt_block_indexes": [0],
        },
        {"tie_word_embeddings": False, **QWEN_TOKENS},
    ),
    "qwen3_vl": VisionFamily(
        BYTES,
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        {
            "depth": 1,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "patch_size": 4,
            "num_position_embeddings": 16,
            # As many as mergekit's definition has.
            "deepstack_visual_indexes": [0, 0, 0],
        },
        {"tie_word_embeddings": False, **QWEN_TOKENS},
    ),
    "gemma3": VisionFamily(
        SENTENCEPIECE,
        {"sliding_window": 32},
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
        },
        {
            "mm_tokens_per_image": 4,
            "image_token_index": 1000,
            "boi_token_index": 1001,
            "eoi_token_index": 1002,
        },
        ("vision_tower.", "vision_tower.vision_model."),
    ),
    "mistral3": VisionFamily(
        SENTENCEPIECE,
        {"model_type": "mistral"},
        {
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 16,
            "patch_size": 4,
        },
        {"image_token_index": 1000, "tie_word_embeddings": False},
    ),
    # mergekit has no definition of it, and infers names that the checkpoint does not have.
    "llava": VisionFamily(
        SENTENCEPIECE,
        {"model_type": "llama"},
        {
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "projection_dim": 16,
        },
        {"image_token_index": 1000, "tie_word_embeddings": False},
    ),
}


def save_vision_model(
    path: Path, name: str, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> Path:
    """Write a random vision-language model of `VISION_FAMILIES` to `path`."""
    family = VISION_FAMILIES[name]
    size = max(tokenizer.get_vocab().values()) + 1
    roles = {f"{r}_token_id": getattr(tokenizer, f"{r}_token_id") for r in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(
        name,
        text_config={**TEXT, "vocab_size": size, **roles, **family.text},
        vision_config=family.vision,
        **roles,
        **family.settings,
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    if family.renamed:
        file = path / "model.safetensors"
        old, new = family.renamed
        tensors = {
            new + key.removeprefix(old) if key.startswith(old) else key: tensor
            for key, tensor in load_file(file).items()
        }
        save_file(tensors, file, metadata={"format": "pt"})
    return path
