"""Bits of held-out text by a published model, which reads whole documents of up to 1,024 tokens, in bfloat16.

In longer windows than the small models are trained for, and several times as fast as in float32.
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
    found = []
    for text, of_document in zip(texts, scores, strict=True):
        is_new = np.zeros_like(of_document.ids, bool) if new is None else new[of_document.ids]
        found.append(
            DocumentBits(
                bits=float(of_document.bits.sum()),
                bytes=len(text.encode()),
                tokens=len(of_document.ids),
                new_bits=float(of_document.bits[is_new].sum()),
                new_tokens=int(is_new.sum()),
            )
        )
    return found
