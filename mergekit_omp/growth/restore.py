"""The base's rows of tokens that the output's tokenizer lost, keyed by the n-grams that spell them.

Where the pieces of such a token stand together, the last of them gets the row that the base had for the whole,
so that the body reads there what it was trained to read. The rows of the pieces before it stay:
that they belong to something longer is not known yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mergekit_omp.errors import TransplantError
from mergekit_omp.growth.ngrams import ExactRows, windows
from mergekit_omp.growth.shards import NewTensor
from mergekit_omp.growth.source import SourceModel, open_source
from mergekit_omp.models.tokenizer_files import open_tokenizer
from mergekit_omp.models.tokenizers import read_vocabulary
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_text
from mergekit_omp.vocabulary import Vocabulary, align
from mergekit_omp.vocabulary.lost import DIGITS, SAMPLE, digit_groups, lost_tokens

BLOCK = 1 << 14
"""Tokens of a text that are looked at together."""
ALIKE = 0.9
"""The least share of rows of common tokens that must be near each other: else it is another base."""


@dataclass(frozen=True)
class Restored:
    """What is given back."""

    ngrams: Int64[Tensor, "entries longest"]
    """The ids that spell each token, last first, -1 past the end; in the order of their keys."""
    rows: Float[Tensor, "entries dim"]
    entry: dict[str, Any]
    """`exact` of the model's settings."""
    hit: float
    """The share of the sample text's positions that get such a row."""

    def tensors(self, dtype: torch.dtype) -> list[NewTensor]:
        """What is written, in the order of the sorted keys."""
        keys = ExactRows.key_of(self.ngrams)
        numbers = torch.arange(len(keys))
        return [
            NewTensor(f"over_encoding.exact.{name}", tuple(values.shape), values.dtype, values)
            for name, values in (("keys", keys), ("ngrams", self.ngrams), ("rows", numbers))
        ] + [NewTensor("over_encoding.exact.weight", tuple(self.rows.shape), dtype, self.rows)]


@dataclass(frozen=True)
class RestoreSettings:
    """Which base's rows to give back, and on what text to say how often they are met.

    The last piece of a lost token gets `share` times the base's row and `own` times its own.
    """

    base: str
    share: float = 1.0
    own: float = 0.0
    texts: Sequence[str] = (SAMPLE,)


def restored(source: SourceModel, settings: RestoreSettings) -> Restored:
    """The table for a model that was made from a base by giving it another tokenizer.

    Raises TransplantError where the base
    is another model's, and where its tokenizer lost nothing that the output can spell.
    """
    base = open_source(settings.base)
    if base.dim != source.dim:
        raise TransplantError(
            f"{settings.base} has rows of {base.dim} numbers and {source.name} of {source.dim}: it is "
            "not the base that this model was made from. Name that base with --restore."
        )
    own, output = (_vocabulary(model) for model in (base, source))
    _check_base(base, own, source, output)
    spelled = lost_tokens(own, output, base.rows)
    if not spelled:
        raise TransplantError(
            f"Every token of {settings.base} is a token of {source.name} too, or cannot be spelled by "
            "it: there is nothing to restore."
        )
    ids = sorted(spelled)
    longest = max(len(pieces) for pieces in spelled.values())
    ngrams = torch.tensor(
        [[*reversed(spelled[i]), *[-1] * (longest - len(spelled[i]))] for i in ids]
    )
    order = ExactRows.key_of(ngrams).argsort(stable=True)
    rows = read_rows(base, np.array(ids)[order.numpy()])
    kept = rows.isfinite().all(1) & rows.any(1)
    entry = {
        "entries": int(kept.sum()),
        "rows": int(kept.sum()),
        "longest": longest,
        "share": settings.share,
        "own": settings.own,
        **_groups(own, output),
    }
    found = Restored(ngrams[order][kept], rows[kept], entry, hit=0.0)
    return replace(found, hit=hit_share(found, source, settings.texts))


def read_rows(model: SourceModel, ids: Int64[np.ndarray, "ids"]) -> Float[Tensor, "ids dim"]:
    """Rows of a model's input embedding, and no others."""
    file = next(file for file, names in model.shards.items() if model.embedding in names)
    with (
        of_library(f"{model.embedding} of {model.name} cannot be read", "Download it again."),
        safetensors.safe_open(model.folder / file, framework="pt") as opened,
    ):
        stored = opened.get_slice(model.embedding)
        return torch.stack([stored[int(i)] for i in ids]).float()


def hit_share(found: Restored, source: SourceModel, texts: Sequence[str]) -> float:
    """The share of a text's positions whose input the table changes."""
    tokenizer = open_tokenizer(str(source.folder))
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    table = ExactRows(found.entry, 1)
    table.keys, table.ngrams = ExactRows.key_of(found.ngrams), found.ngrams
    table.rows = torch.arange(len(found.ngrams))
    hits = total = 0
    for ids in encoded:
        for part in torch.tensor(ids, dtype=torch.int64).split(BLOCK):
            known = windows(part[None], table.looks_back)
            hits += int((table.find(known) >= 0).sum())
            total += len(part)
    return hits / max(total, 1)


def _vocabulary(model: SourceModel) -> Vocabulary:
    return read_vocabulary(open_tokenizer(str(model.folder)), model.name)


def _check_base(
    base: SourceModel, own: Vocabulary, source: SourceModel, output: Vocabulary
) -> None:
    """Refuse a base whose rows of common tokens are not those of the model, or near them."""
    found = align(own, output, rows=base.rows)
    shared = np.flatnonzero(found.anchors)
    shared = shared[shared < source.rows][:: max(1, len(shared) // 64)][:64]
    if not len(shared):
        return
    old, new = read_rows(base, found.source[shared]), read_rows(source, shared)
    near = torch.nn.functional.cosine_similarity(old, new) > 0.5
    if near.float().mean() < ALIKE:
        raise TransplantError(
            f"Rows of tokens that {base.name} and {source.name} have in common are not alike "
            f"({int(near.sum())} of {len(near)} are): it is not the base that this model was made "
            "from. Name that base with --restore."
        )


def _groups(base: Vocabulary, output: Vocabulary) -> dict[str, Any]:
    """Where n-grams of digits count: see `ExactRows`."""
    size = digit_groups(base, output)
    if size is None:
        return {}
    digits = [i for i, data in enumerate(output.content) if data and data.isdigit()]
    return {"digits": digits, "group": size, "digits_back": DIGITS}


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The user's texts, or a built-in one."""
    return [read_text(path, largest=64 << 20) for path in paths] or [SAMPLE]
