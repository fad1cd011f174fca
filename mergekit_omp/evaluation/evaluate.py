"""Score models on documents one after the other, so that only one is in memory at a time."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.bootstrap import CONFIDENCE, RESAMPLES, SEED
from mergekit_omp.evaluation.comparison import Scored, approximated_by, compared, scored
from mergekit_omp.evaluation.models import (
    Loading,
    approximated_ids,
    load_model,
    load_tokenizer,
    longest_context,
    merged_base,
    record_of,
)
from mergekit_omp.evaluation.scoring import TokenScores, score_tokens
from mergekit_omp.models.tokenizers import read_vocabulary
from mergekit_omp.outside.counts import counted
from mergekit_omp.vocabulary import Vocabulary

LONGEST_DEFAULT = 2048
"""The context that is used where none is asked for, if all models can read as much."""


@dataclass(frozen=True)
class ReadingOptions:
    """How texts are read; see `bits_per_byte` for what the numbers mean."""

    context: int | None = None
    stride: int | None = None
    batch_size: int | None = None
    progress: bool = False


@dataclass(frozen=True)
class ReadAs:
    """Where and in which numbers models were read."""

    device: str
    dtype: str

    @classmethod
    def by(cls, loading: Loading) -> ReadAs:
        """On this machine."""
        return cls(loading.torch_device().type, str(loading.torch_dtype()).removeprefix("torch."))


def evaluate(
    models: Sequence[str],
    documents: Sequence[str],
    *,
    base: str | None = None,
    loading: Loading | None = None,
    reading: ReadingOptions | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Bits per byte of models on documents, with intervals, and how they differ.

    `base` (by default the base of the first model that has a `tokenizer_transplant.json`) is
    scored too, and tells the agreement of the others. All models read with one context, that of
    the shortest where none is given. `warn` gets a sentence for whatever limits the figures.

    Raises ValueError, naming the model, for what cannot be loaded or read with this context.
    """
    loading, reading = loading or Loading(), reading or ReadingOptions()
    records = {name: record_of(name) for name in models}
    base_name = base or _recorded_base(records, loading, warn)
    names = list(dict.fromkeys(models))
    if base_name is not None:
        base_name = next((name for name in names if _same(name, base_name)), base_name)
        names = list(dict.fromkeys([base_name, *names]))
    context = common_context({name: longest_context(name, loading) for name in names}, reading)

    found: list[Scored] = []
    for name in names:
        ids = None
        vocabulary, scores = _scored(name, documents, context, loading, reading)
        if (record := records.get(name)) is not None:
            ids = approximated_ids(record, name)
        elif (
            base is not None and found and vocabulary.fingerprint != found[0].vocabulary.fingerprint
        ):
            ids = approximated_by(found[0].vocabulary, vocabulary)
        model = scored(name, vocabulary, scores, documents, ids)
        warn_of_changes(model, warn)
        found.append(model)
    result = compared(found, documents, found[0] if base_name is not None else None)
    return {
        "format": 1,
        **conditions(documents, context, ReadAs.by(loading), reading, warn),
        "base": base_name,
        **result,
    }


def conditions(
    documents: Sequence[str],
    context: int,
    read_as: ReadAs,
    reading: ReadingOptions,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """What figures were found on, and how: `text` and `settings` of the result."""
    if len(documents) < 2:
        warn("One document gives no interval: cut the text with --split paragraph or line.")
    return {
        "text": {
            "documents": len(documents),
            "bytes": sum(len(document.encode("utf-8")) for document in documents),
        },
        "settings": {
            "context": context,
            "stride": reading.stride or max(1, context // 2),
            "device": read_as.device,
            "dtype": read_as.dtype,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "seed": SEED,
        },
    }


def _recorded_base(
    records: dict[str, dict[str, Any] | None], loading: Loading, warn: Callable[[str], None]
) -> str | None:
    """The base that a record names, where it is still there."""
    for name, record in records.items():
        base = record and (merged_base(name) or record.get("base_model"))
        if not base:
            continue
        try:
            longest_context(base, loading)
        except TransplantError:
            warn(
                f"{name} was made from {base}, which is not found: no agreement is measured. Name "
                "the base with --base."
            )
            return None
        return base
    return None


def _same(name: str, other: str) -> bool:
    if name == other:
        return True
    return os.path.isdir(name) and os.path.isdir(other) and os.path.samefile(name, other)


def common_context(longest: Mapping[str, int | None], reading: ReadingOptions) -> int:
    """The context that all models read with, by how many positions each was made for.

    Raises ValueError, naming a model, where that is less than was asked for.
    """
    known = {name: length for name, length in longest.items() if length is not None}
    if reading.context is None:
        return min([LONGEST_DEFAULT, *known.values()])
    for name, length in known.items():
        if reading.context > length:
            raise ValueError(
                f"context is {reading.context}, but {name} has {length} positions: write a "
                f"number from 1 to {min(known.values())}"
            )
    return reading.context


def _scored(
    name: str, documents: Sequence[str], context: int, loading: Loading, reading: ReadingOptions
) -> tuple[Vocabulary, list[TokenScores]]:
    tokenizer = load_tokenizer(name, loading)
    vocabulary = read_vocabulary(tokenizer, name)
    model = load_model(name, loading)
    try:
        scores = scores_of(model, tokenizer, name, documents, context, reading)
    finally:
        del model
        free_memory()
    return vocabulary, scores


def scores_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    documents: Sequence[str],
    context: int,
    reading: ReadingOptions,
) -> list[TokenScores]:
    """A loaded model's scores. Raises ValueError, with the model's name, where it has none."""
    try:
        scores = score_tokens(
            model,
            tokenizer,
            documents,
            context=context,
            stride=reading.stride,
            batch_size=reading.batch_size,
            progress=reading.progress,
            label=_short(name),
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not all(np.isfinite(score.bits).all() for score in scores):
        raise ValueError(
            f"{name} gives probabilities that are not numbers: try --dtype float32, or check "
            "the model's weights"
        )
    return scores


def free_memory() -> None:
    """Give back what a model took that is no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def warn_of_changes(model: Scored, warn: Callable[[str], None]) -> None:
    """Warn of documents that the model's tokenizer changes: what it loses costs no bits."""
    changed = [i for i, ends in enumerate(model.ends) if ends is None]
    if changed:
        warn(
            f"The tokenizer of {model.name} does not keep the text of {len(changed)} of "
            f"{counted(len(model.ends), 'document')} (the first is number {changed[0] + 1}): it changes "
            "letters, or has no token for some. What is lost costs no bits, so that its bits per "
            "byte are too low; such a document counts neither as shared or approximated nor in "
            "the agreement."
        )


def _short(name: str) -> str:
    return os.path.basename(os.path.normpath(name))[-24:]
