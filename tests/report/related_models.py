"""A base and a donor whose rows say the same of the same text, so that missing rows have a truth.

Every text has a latent vector. A model's row of a token is the latent of its text under a map of
the model's own, and some noise. What the base's row of a token that it lacks would be is then known.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from small_models import save_model
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mergekit_omp import Vocabulary

LATENT = 10
MARKUP = "<script>alert(1)</script>"
TURNED = "abc\u202edcba"
NAMES = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Related:
    base: Path
    donor: Path
    noise: float
    hidden: int


def related(
    folder: Path, base: PreTrainedTokenizerFast, donor: PreTrainedTokenizerFast, noise: float
) -> Related:
    """Saves both models. The donor has two more tokens, which are the longest rows it has."""
    donor.add_tokens([MARKUP, TURNED])
    hidden = 32
    for name, tokenizer, width in (("base", base, hidden), ("donor", donor, 24)):
        path = save_model(folder / name, tokenizer, hidden=width, layers=1)
        file = path / "model.safetensors"
        tensors = load_file(file)
        vocabulary = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(path), name)
        for i, tensor in enumerate(NAMES):
            rows = clean_rows(vocabulary, name, i, width)
            generator = torch.Generator().manual_seed(100 + i)
            rows += noise * torch.randn(rows.shape, generator=generator)
            if name == "donor":
                rows[-2:] *= 3
            tensors[tensor] = rows
        save_file(tensors, file, metadata={"format": "pt"})
    return Related(folder / "base", folder / "donor", noise, hidden)


def clean_rows(vocabulary: Vocabulary, name: str, part: int, width: int) -> torch.Tensor:
    """Rows without noise; a control token's text is its string."""
    texts = [
        content if content is not None else (string or "").encode()
        for content, string in zip(vocabulary.content, vocabulary.strings, strict=True)
    ]
    latents = np.stack(
        [np.random.default_rng(zlib.crc32(text)).standard_normal(LATENT) for text in texts]
    )
    mapping = np.random.default_rng([len(name), part]).standard_normal((LATENT, width))
    return torch.from_numpy(latents @ mapping / LATENT**0.5).float()


def change(path: Path, tensor: str, row: int, values: Any) -> None:
    """Sets one row of a saved model."""
    tensors = load_file(path / "model.safetensors")
    tensors[tensor][row] = values
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
