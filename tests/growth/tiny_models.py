"""Tiny over-encoded models of several families, with tables that hold something."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mergekit_omp.growth.over_encoding import over_encoded

VOCABULARY = 61
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_STATE = {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("llama", {}),
    "MistralForCausalLM": ("mistral", {"sliding_window": 6}),
    "Qwen2ForCausalLM": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3ForCausalLM": ("qwen3", {"head_dim": 8}),
    "Gemma2ForCausalLM": ("gemma2", {"head_dim": 8, "sliding_window": 6}),
    "Olmo2ForCausalLM": ("olmo2", {}),
    "OlmoeForCausalLM": ("olmoe", _EXPERTS),
    "GPT2LMHeadModel": ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}),
    "Gemma3ForCausalLM": ("gemma3_text", {"head_dim": 8}),
    # Rows narrower than the model, positions with an offset; rows that are scaled; latent attention;
    # distances in place of positions; layers with a state in place of a cache.
    "OPTForCausalLM": ("opt", {"word_embed_proj_dim": 16, "ffn_dim": 48}),
    "GraniteForCausalLM": ("granite", {"embedding_multiplier": 3.0}),
    "DeepseekV3ForCausalLM": ("deepseek_v3", _LATENT),
    "BloomForCausalLM": ("bloom", {"n_layer": 2, "n_head": 4}),
    "Qwen3NextForCausalLM": ("qwen3_next", _STATE),
}
"""By class: the type of its config, and what it needs beside sizes."""


def tiny_config(name: str) -> Any:
    model_type, more = FAMILIES[name]
    return AutoConfig.for_model(model_type, **{**_SIZES, **more})


def tiny(name: str) -> Any:
    """A random model of a class of transformers."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(name)).eval()


def tiny_grown(name: str, tables: Any = ((2, 101), (3, 103)), **more: Any) -> Any:
    """The same with tables, random ones: as after some training."""
    entry = {
        "wraps": name,
        "hash_base": VOCABULARY,
        "width": 8,
        "tables": [{"order": order, "rows": rows} for order, rows in tables],
        **more,
    }
    wanted = over_encoded(name)
    torch.manual_seed(0)
    model = wanted(wanted.config_class(**{**tiny_config(name).to_dict(), "over_encoding": entry}))
    generator = torch.Generator().manual_seed(1)
    for table in model.over_encoding.tables:
        torch.nn.init.normal_(table.weight, std=0.5, generator=generator)
    return model.eval()


def some_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
