"""Bits of held-out text, document by document and token by token.

The same windows and the same charge for a token as `mergekit_omp.evaluation.bits_per_byte`, which
sums documents up; here tokens whose rows were copied and tokens whose rows are new stay apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

CONTEXT, STRIDE, BATCH = 128, 96, 16
"""What small models are trained for; windows advance by the stride."""


@dataclass(frozen=True)
class DocumentBits:
    """What one document takes to store, in all and in tokens whose rows are new."""

    bits: float
    bytes: int
    tokens: int
    new_bits: float
    new_tokens: int

    @classmethod
    def of(
        cls,
        text: str,
        ids: Int[np.ndarray, " ids"],
        bits: Float[np.ndarray, " ids"],
        new: Bool[np.ndarray, " tokens"] | None,
    ) -> DocumentBits:
        """From the bits of each id of a text; `new` says which tokens have new rows."""
        is_new = np.zeros(len(ids), dtype=bool) if new is None else new[ids]
        return cls(
            bits=float(bits.sum()),
            bytes=len(text.encode()),
            tokens=len(ids),
            new_bits=float(bits[is_new].sum()),
            new_tokens=int(is_new.sum()),
        )


def score(
    path: Path,
    texts: Sequence[str],
    new: Bool[np.ndarray, " tokens"] | None = None,
    device: str = "cpu",
) -> list[DocumentBits]:
    """Scores the model in `path` with its own tokenizer; `new` says which ids have new rows."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().to(device)
    encoded = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    bits = token_bits(model, [[tokenizer.bos_token_id, *ids] for ids in encoded])
    return [
        DocumentBits.of(text, np.array(ids, dtype=np.int64), of_token, new)
        for text, ids, of_token in zip(texts, encoded, bits, strict=True)
    ]


@torch.inference_mode()
def token_bits(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """-log2 of the probability of every id but the first of each sequence."""
    found = [np.zeros(len(ids) - 1) for ids in sequences]
    windows = []
    for i, ids in enumerate(sequences):
        done = 0
        while done < len(ids) - 1:
            stop = min(len(ids) - 1, done + STRIDE if done else CONTEXT)
            windows.append((i, max(0, stop - CONTEXT), done, stop))
            done = stop
    # Windows of one length together, so that little is computed on padding.
    windows.sort(key=lambda window: window[3] - window[1], reverse=True)
    for first in range(0, len(windows), BATCH):
        batch = windows[first : first + BATCH]
        inputs = torch.zeros(len(batch), batch[0][3] - batch[0][1], dtype=torch.long)
        for row, (i, start, _, stop) in enumerate(batch):
            inputs[row, : stop - start] = torch.tensor(sequences[i][start:stop])
        # No mask: padding comes last, where causal attention does not see it.
        logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
        for row, (i, start, done, stop) in enumerate(batch):
            targets = torch.tensor(sequences[i][done + 1 : stop + 1], device=logits.device)
            losses = functional.cross_entropy(
                logits[row, done - start : stop - start].float(), targets, reduction="none"
            )
            found[i][done:stop] = losses.double().cpu().numpy() / math.log(2)
    return found
