"""What every output must be: loadable, finite, and with a row for each token."""

from __future__ import annotations

import json
from pathlib import Path


def check(out: Path) -> None:
    """Raises AssertionError where the output of a merge is not right."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tensors = {k: v for f in sorted(out.glob("*.safetensors")) for k, v in load_file(f).items()}
    assert tensors, "no weights"
    for name, tensor in tensors.items():
        assert torch.isfinite(tensor.float()).all(), f"{name} is not finite"
    tokenizer = AutoTokenizer.from_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    highest = max(tokenizer.get_vocab().values())
    assert config["vocab_size"] > highest, "ids past the vocabulary size"
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info.get("mismatched_keys"), info
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows == config["vocab_size"], "rows and vocabulary size differ"
    ids = tokenizer("def f(x): return 12345 + x", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(ids).logits).all(), "logits are not finite"
