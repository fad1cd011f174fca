"""Scores every token of a text: its bits, and the token that the model found most likely there.

Documents longer than the context are read in windows that overlap, as in Hugging Face's guide to
the perplexity of models of fixed length. Every token is scored once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tqdm
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mergekit_omp.outside.faults import of_library

DEFAULT_CONTEXT = 1024
LOGITS_BYTES = 1 << 30
"""Memory that the logits of one batch may take where no batch size is given."""
_LARGEST_BATCH = 16
_ROWS_AT_ONCE = 256
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True, eq=False)
class TokenScores:
    """One document, token by token."""

    ids: Int64[np.ndarray, "tokens"]
    bits: Float64[np.ndarray, "tokens"]
    """-log2 of the probability that the model gave each token."""
    predicted: Int64[np.ndarray, "tokens"]
    """The token that the model found most likely at each place; -1 where it was not asked."""


@dataclass(frozen=True)
class _Window:
    """Predict `ids[start + 1 : stop + 1]` from `ids[start:stop]`; the first `known` are scored."""

    document: int
    start: int
    stop: int
    known: int


def score_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    label: str = "evaluating",
) -> list[TokenScores]:
    """Every token of every document, on the model's device; see `bits_per_byte` for the rules.

    `batch_size` of None: as many windows as `LOGITS_BYTES` of logits allow, at most 16.
    """
    if isinstance(documents, str):
        raise TypeError("documents is one string: write a list of strings")
    context = checked_context(model, context)
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride is {stride}: write a number from 1 to the context, {context}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: write a number of at least 1")
    if not any(documents):
        raise ValueError("the documents hold no text to score")

    encoded = encode(tokenizer, documents)
    rows = model.get_input_embeddings().weight.shape[0]
    prefix = tokenizer.bos_token_id
    if prefix is None:
        prefix = tokenizer.eos_token_id
    sequences = encoded if prefix is None else [[prefix, *ids] for ids in encoded]
    _check_ids(rows, sequences)
    # With nothing before it, the first token is charged at log2 of the vocabulary size.
    first = math.log2(rows) if prefix is None else 0.0
    scores = [
        TokenScores(
            np.array(ids, dtype=np.int64),
            np.where(np.arange(len(ids)) == 0, first, 0.0),
            np.full(len(ids), -1, dtype=np.int64),
        )
        for ids in encoded
    ]

    windows = [
        window
        for i, ids in enumerate(sequences)
        for window in _windows(i, len(ids), context, stride)
    ]
    # Windows of one length together, so that little is computed on padding.
    windows.sort(key=lambda window: window.stop - window.start, reverse=True)
    was_training = model.training
    model.eval()
    try:
        with tqdm.tqdm(
            total=len(windows), desc=label, unit="window", disable=None if progress else True
        ) as bar:
            done = 0
            while done < len(windows):
                size = batch_size or _fitting(model, rows, windows[done])
                batch = windows[done : done + size]
                done += len(batch)
                for window, (bits, best) in zip(batch, _read(model, sequences, batch), strict=True):
                    # Position 0 of a sequence with a prefix holds the prefix.
                    shift = window.start + window.known + (prefix is None)
                    place = slice(shift, shift + len(bits))
                    scores[window.document].bits[place] = bits
                    scores[window.document].predicted[place] = best
                bar.update(len(batch))
    finally:
        model.train(was_training)
    return scores


def positions(config: PretrainedConfig) -> int | None:
    """How many positions a model was made for, or None where its config does not say."""
    text = config.get_text_config()
    found = [getattr(text, name, None) for name in _POSITIONS]
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def checked_context(model: PreTrainedModel, context: int | None) -> int:
    """The context asked for, checked against what the model can read."""
    longest = positions(model.config)
    if context is None:
        return min(DEFAULT_CONTEXT, longest or DEFAULT_CONTEXT)
    if context < 1 or (longest and context > longest):
        limit = f"from 1 to {longest}, the model's positions" if longest else "of at least 1"
        raise ValueError(f"context is {context}: write a number {limit}")
    return context


def encode(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> list[list[int]]:
    """The documents' ids, with no control token in them."""
    if not documents:
        return []
    with of_library("the tokenizer cannot read the text", "Check its tokenizer.json."):
        encoded: list[list[int]] = tokenizer(
            list(documents), add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
    return encoded


def _check_ids(rows: int, encoded: Sequence[Sequence[int]]) -> None:
    highest = max((max(ids) for ids in encoded if ids), default=0)
    if highest >= rows:
        raise ValueError(
            f"the tokenizer gives id {highest} and the model has {rows} rows: "
            "name a model that has its own tokenizer"
        )


def _windows(document: int, length: int, context: int, stride: int) -> Iterator[_Window]:
    """Windows that together predict every id of a sequence but the first, each once."""
    scored = 0
    while scored < length - 1:
        stop = min(length - 1, scored + stride if scored else context)
        start = max(0, stop - context)
        yield _Window(document, start, stop, known=scored - start)
        scored = stop


def _fitting(model: PreTrainedModel, rows: int, longest: _Window) -> int:
    each = (longest.stop - longest.start) * rows * model.dtype.itemsize
    return max(1, min(_LARGEST_BATCH, LOGITS_BYTES // each))


@torch.inference_mode()
def _read(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch: Sequence[_Window]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bits and predictions of the tokens that each window is the first to predict."""
    longest = max(window.stop - window.start for window in batch)
    inputs = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for row, window in enumerate(batch):
        ids = sequences[window.document][window.start : window.stop]
        inputs[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    with of_library("the model cannot read the text", "Check its config.json and its weights."):
        logits = model(
            input_ids=inputs.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
    found = []
    for row, window in zip(logits, batch, strict=True):
        ids = sequences[window.document][window.start + window.known + 1 : window.stop + 1]
        predictions = row[window.known : window.stop - window.start]
        found.append(_scores(predictions, torch.tensor(ids, device=row.device)))
    return found


def _scores(
    logits: Float[Tensor, "tokens vocabulary"], ids: Int[Tensor, "tokens"]
) -> tuple[np.ndarray, np.ndarray]:
    bits, best = [], []
    # A few rows at a time: logits in float32 would be the largest tensor of all.
    for some, wanted in zip(logits.split(_ROWS_AT_ONCE), ids.split(_ROWS_AT_ONCE), strict=True):
        losses = functional.cross_entropy(some.float(), wanted, reduction="none")
        bits.append(losses.double().cpu() / math.log(2))
        best.append(some.argmax(dim=1).cpu())
    return torch.cat(bits).numpy(), torch.cat(best).numpy()
