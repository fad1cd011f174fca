"""Small random models over real tokenizers, as directories that transformers loads.

Random rows are enough to see which row went where; what rows are worth is the demo's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase


def save_model(
    path: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    model_type: str = "llama",
    hidden: int = 32,
    layers: int = 2,
    tied: bool = False,
    rows: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    std: float = 0.2,
    generation: dict[str, Any] | None = None,
    buffers: dict[str, list[int]] | None = None,
    **config: Any,
) -> Path:
    """Write a random model with `tokenizer` to `path`. `rows`: of its vocabulary tensors.

    `buffers`: shapes of tensors that published checkpoints hold beside the model's own.
    """
    size = max(tokenizer.get_vocab().values()) + 1 if tokenizer is not None else 64
    settings = {
        "vocab_size": rows or size,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "initializer_range": std,
    }
    if tokenizer is not None:
        for role in ("bos", "eos", "pad"):
            settings[f"{role}_token_id"] = getattr(tokenizer, f"{role}_token_id")
    settings.update(config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=std)
    model = model.to(dtype)
    if generation:
        model.generation_config = transformers.GenerationConfig(**generation)
    model.save_pretrained(path, max_shard_size=shard_size)
    if buffers:
        file = path / "model.safetensors"
        extra = {name: torch.ones(shape) for name, shape in buffers.items()}
        save_file(load_file(file) | extra, file, metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return path


def load(path: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model in evaluation mode and its tokenizer; no key may be missing or unexpected."""
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert not info.get("mismatched_keys"), info
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path)


def matrices(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(input embedding, head) of a saved model, as float32."""
    model = AutoModelForCausalLM.from_pretrained(path)
    return (
        model.get_input_embeddings().weight.detach().float(),
        model.get_output_embeddings().weight.detach().float(),
    )
