"""Bits of held-out text by a published model, in bfloat16.

It reads whole documents of up to 1,024 tokens: longer windows than the small models are trained
for, and several times as fast as in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.quality.scoring import DocumentBits
from mergekit_omp.evaluation.scoring import score_tokens

WINDOWS = 8
"""A batch, of documents of at most 1,024 tokens; longer ones are read in several."""


def score(
    path: Path,
    texts: Sequence[str],
    new: Bool[np.ndarray, " tokens"] | None = None,
    device: str = "cpu",
) -> list[DocumentBits]:
    """Scores the model in `path`, as `scoring.score` does."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(device)
    scores = score_tokens(model, tokenizer, texts, batch_size=WINDOWS)
    return [
        DocumentBits.of(text, of_document.ids, of_document.bits, new)
        for text, of_document in zip(texts, scores, strict=True)
    ]
