"""A swap in every family: what loads, what is equal on shared tokens, and which donor tensor serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import BYTES, FAMILIES, SENTENCEPIECE
from merges import record, swap
from safetensors.torch import load_file
from small_models import load

from mergekit_omp import Alignment, Vocabulary, align

# Each family once as base; the donors vary over families of the other kind of tokenizer.
PAIRS = [
    ("llama", "gpt_neox"),
    ("mistral", "gpt2"),
    ("gemma2", "phi"),
    ("gemma3_text", "olmo2"),
    ("mixtral", "qwen3_moe"),
    ("olmo", "cohere"),
    ("opt", "starcoder2"),
    ("mpt", "bloom"),
    ("mamba", "gptj"),
    ("gemma3n_text", "qwen3"),
    ("qwen2", "llama"),
    ("qwen3", "mistral"),
    ("phi", "gemma2"),
    ("gpt2", "mixtral"),
    ("gpt_neox", "gemma3_text"),
    ("starcoder2", "olmo"),
    ("olmo2", "opt"),
    ("cohere", "mpt"),
    ("qwen3_moe", "llama"),
    ("bloom", "mamba"),
    ("gptj", "mistral"),
]


@pytest.fixture
def of_family(models: Any) -> Any:
    def make(name: str, hidden: int = 32) -> Path:
        entry = FAMILIES[name]
        return models(
            name,
            entry.tokenizer,
            model_type=name,
            tied=entry.tied,
            layers=1,
            hidden=hidden,
            **entry.settings,
        )

    return make


@pytest.fixture(scope="session")
def alignments(real_tokenizer: Any) -> dict[str, Alignment]:
    """From each kind of base vocabulary to that of its donors."""
    kinds = {
        name: Vocabulary.from_tokenizer(real_tokenizer(name), name)
        for name in (SENTENCEPIECE, BYTES)
    }
    return {
        SENTENCEPIECE: align(kinds[SENTENCEPIECE], kinds[BYTES]),
        BYTES: align(kinds[BYTES], kinds[SENTENCEPIECE]),
    }


def vocabulary_tensors(model: Any) -> list[torch.Tensor]:
    head = model.get_output_embeddings()
    tensors = [model.get_input_embeddings().weight, head.weight]
    if getattr(head, "bias", None) is not None:
        tensors.append(head.bias)
    tensors += [p for name, p in model.named_parameters() if "embed_tokens_per_layer" in name]
    return [tensor.detach() for tensor in tensors]


@pytest.mark.parametrize(("base", "donor"), PAIRS, ids=[f"{b}-from-{d}" for b, d in PAIRS])
def test_a_swap(
    base: str, donor: str, of_family: Any, alignments: dict[str, Alignment], merge: Any
) -> None:
    assert FAMILIES[base].tokenizer != FAMILIES[donor].tokenizer
    base_path, donor_path = of_family(base), of_family(donor, hidden=16)
    out = merge(swap(base_path, donor_path, parameters={"k": 4}))

    swapped, tokenizer = load(out)
    original, _ = load(base_path)
    theirs = transformers.AutoTokenizer.from_pretrained(donor_path)
    trusting = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    for loaded in (tokenizer, trusting):
        assert loaded.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()

    found = alignments[FAMILIES[base].tokenizer]
    copied = np.flatnonzero(found.source >= 0)
    missing = np.flatnonzero(found.source < 0)
    assert len(copied) > 1000
    assert len(missing) > 100
    for ours, other in zip(vocabulary_tensors(swapped), vocabulary_tensors(original), strict=True):
        assert torch.equal(ours[copied], other[found.source[copied]])
        approximated = ours[missing].reshape(len(missing), -1)
        assert torch.isfinite(approximated).all()
        assert (approximated.norm(dim=1) > 0).all()

    ids = copied[np.linspace(300, len(copied) - 1, 12).astype(int)]
    with torch.no_grad():
        ours = swapped(torch.from_numpy(ids)[None], output_hidden_states=True)
        other = original(torch.from_numpy(found.source[ids])[None], output_hidden_states=True)
    for mine, its in zip(ours.hidden_states, other.hidden_states, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ours.logits[..., copied], other.logits[..., found.source[copied]], rtol=1e-5, atol=1e-5
    )

    (found,) = record(out)["models"]
    donor_has_head = not FAMILIES[donor].tied
    for entry in found["tensors"]:
        assert entry["counts"]["approximated"] == len(missing)
        assert 0 < entry["relative_residual"]["mean"] < 1
        as_head = entry["part"] != "input" or FAMILIES[base].tied
        from_head = any(name in entry["donors"][0]["tensor"] for name in ("lm_head", "embed_out"))
        assert from_head == (as_head and donor_has_head)


def test_a_head_bias_follows_the_code_of_its_head(
    of_family: Any, alignments: dict[str, Alignment], merge: Any
) -> None:
    """With one anchor a token, row and bias must come from the same anchor and coefficient."""
    path = of_family("phi")
    out = merge(swap(path, of_family("llama", hidden=16), parameters={"k": 1, "paper": True}))
    found = alignments[BYTES]
    ours, theirs = load_file(out / "model.safetensors"), load_file(path / "model.safetensors")
    anchors = found.source[found.anchors]
    rows, biases = theirs["lm_head.weight"][anchors], theirs["lm_head.bias"][anchors]
    for token in np.flatnonzero(found.source < 0)[:25].tolist():
        row = ours["lm_head.weight"][token]
        cosines = torch.nn.functional.cosine_similarity(rows, row[None])
        at = int(cosines.abs().argmax())
        assert cosines[at].abs() > 0.9999
        coefficient = (row @ rows[at]) / (rows[at] @ rows[at])
        torch.testing.assert_close(
            ours["lm_head.bias"][token], coefficient * biases[at], rtol=1e-3, atol=1e-5
        )
