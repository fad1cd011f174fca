"""Real tokenizers, given to models of real tokenizers; `benchmarks/pairs.py` has all pairs."""

from __future__ import annotations

import json
from typing import Any

import gguf
import pytest
import torch
import transformers
from merges import swap
from readers import OlderTransformers, read

from mergekit_omp.inspection.sample import SAMPLES

TEXTS = [*SAMPLES.values(), " <s> </s> <|im_end|> a  b\t\n\n c "]


@pytest.mark.parametrize(
    ("base", "donor"), [("mistral3", "deepseek"), ("tekken", "mistral3"), ("deepseek", "mistral3")]
)
def test_a_pair(base: str, donor: str, models: Any, merge: Any, older: OlderTransformers) -> None:
    paths = [models(name, name, hidden=16, layers=1) for name in (base, donor)]
    out = merge(swap(*paths, "mean"))
    own = read(paths[1], TEXTS, model=False)
    found = [opened(out, TEXTS) for opened in (read, older.read)]
    for each in found:
        assert not each["problems"]
        for key in ("plain", "ids", "texts", "roles"):
            assert each[key] == own[key], key
    logits = [torch.tensor(each["logits"]) for each in found]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)

    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    special = gguf.SpecialVocab(out, n_vocab=len(tokenizer))
    for role, i in special.special_token_ids.items():
        assert i == getattr(tokenizer, f"{role}_token_id")
    assert json.loads((out / "config.json").read_text())["vocab_size"] >= len(tokenizer)
