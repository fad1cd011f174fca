"""Bits per UTF-8 byte: the loss of a language model, comparable across tokenizers.

A model that predicts the tokens of a text with probabilities p could store that text in
sum(-log2 p) bits. Divided by the text's bytes, that does not depend on how many tokens the text
was cut into, so models with different vocabularies can be compared: lower is better.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import tqdm
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOG = logging.getLogger(__name__)

_DEFAULT_CONTEXT = 1024


@dataclass(frozen=True)
class DocumentScore:
    """What it takes to store one document: bits, for so many bytes, in so many tokens."""

    bits: float
    bytes: int
    tokens: int


@dataclass(frozen=True)
class TextScore:
    """The scores of several documents, in the order in which they were given."""

    documents: tuple[DocumentScore, ...]

    @property
    def bits(self) -> float:
        return math.fsum(document.bits for document in self.documents)

    @property
    def bytes(self) -> int:
        return sum(document.bytes for document in self.documents)

    @property
    def tokens(self) -> int:
        return sum(document.tokens for document in self.documents)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of all documents together, long ones counting for more."""
        return self.bits / self.bytes


@dataclass(frozen=True)
class _Window:
    """Predict `ids[start + 1 : stop + 1]` from `ids[start:stop]`; the first `known` are scored."""

    document: int
    start: int
    stop: int
    known: int


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 4,
    progress: bool = False,
) -> TextScore:
    """Scores every token of every document once, on the model's device.

    A document begins after the tokenizer's bos (eos, where it has no bos); without either, its
    first token is charged at log2 of the vocabulary size. A dummy prefix (SentencePiece's first
    `▁`) is part of the first token and not of the bytes. Text that spells a control token is read
    as text. Documents longer than `context` are read in windows that advance by `stride`, so that
    every token but the first window's has at least `context - stride` tokens before it.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        documents: texts, none of which continues another.
        context: tokens that the model sees at once; by default 1024, or fewer where the model
            was made for fewer.
        stride: tokens by which windows advance, half of `context` by default.
        batch_size: windows computed at once; changes speed and memory, not the result.
        progress: whether to show a progress bar.

    Raises:
        TypeError: `documents` is one string.
        ValueError: the documents hold no text; `context`, `stride` or `batch_size` is out of
            range; the tokenizer gives ids for which the model has no row.
    """
    if isinstance(documents, str):
        raise TypeError("documents is one string: write a list of strings")
    context = _context(model, context)
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride is {stride}: write a number from 1 to the context, {context}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: write a number of at least 1")
    sizes = [len(document.encode("utf-8")) for document in documents]
    if not sum(sizes):
        raise ValueError("the documents hold no text to score")

    encoded = _encode(tokenizer, documents)
    _check_ids(model, encoded)
    prefix = tokenizer.bos_token_id
    if prefix is None:
        prefix = tokenizer.eos_token_id
    bits = [0.0] * len(documents)
    if prefix is None:
        rows = model.get_input_embeddings().weight.shape[0]
        bits = [math.log2(rows) if ids else 0.0 for ids in encoded]
        sequences = encoded
    else:
        sequences = [[prefix, *ids] for ids in encoded]

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
            total=len(windows), desc="evaluating", unit="window", disable=None if progress else True
        ) as bar:
            for first in range(0, len(windows), batch_size):
                batch = windows[first : first + batch_size]
                for window, found in zip(batch, _batch_bits(model, sequences, batch), strict=True):
                    bits[window.document] += found
                bar.update(len(batch))
    finally:
        model.train(was_training)
    return TextScore(
        tuple(
            DocumentScore(bits=b, bytes=size, tokens=len(ids))
            for b, size, ids in zip(bits, sizes, encoded, strict=True)
        )
    )


def _context(model: PreTrainedModel, context: int | None) -> int:
    """The context asked for, checked against what the model can read."""
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if context is None:
        return min(_DEFAULT_CONTEXT, longest or _DEFAULT_CONTEXT)
    if context < 1 or (longest and context > longest):
        limit = f"from 1 to {longest}, the model's positions" if longest else "of at least 1"
        raise ValueError(f"context is {context}: write a number {limit}")
    return context


def _encode(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> list[list[int]]:
    """The documents' ids, with no control token in them."""
    if not documents:
        return []
    encoded: list[list[int]] = tokenizer(
        list(documents), add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    unknown = tokenizer.unk_token_id
    if unknown is not None and (count := sum(ids.count(unknown) for ids in encoded)):
        LOG.warning(
            "%d tokens of the text are %r, which stands for anything: bits per byte are too low",
            count,
            tokenizer.unk_token,
        )
    return encoded


def _check_ids(model: PreTrainedModel, encoded: Sequence[Sequence[int]]) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max((max(ids) for ids in encoded if ids), default=0)
    if highest >= rows:
        raise ValueError(
            f"the tokenizer gives id {highest} and the model has {rows} rows: "
            "evaluate a model with its own tokenizer"
        )


def _windows(document: int, length: int, context: int, stride: int) -> Iterator[_Window]:
    """Windows that together predict every id of a sequence but the first, each once."""
    scored = 0
    while scored < length - 1:
        stop = min(length - 1, scored + stride if scored else context)
        start = max(0, stop - context)
        yield _Window(document, start, stop, known=scored - start)
        scored = stop


@torch.inference_mode()
def _batch_bits(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch: Sequence[_Window]
) -> list[float]:
    """The bits of what each window is the first to predict."""
    longest = max(window.stop - window.start for window in batch)
    inputs = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for row, window in enumerate(batch):
        ids = sequences[window.document][window.start : window.stop]
        inputs[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    logits = model(
        input_ids=inputs.to(model.device), attention_mask=mask.to(model.device), use_cache=False
    ).logits
    found = []
    # Row by row: a batch of logits in float32 would be the largest tensor of all.
    for row, window in zip(logits, batch, strict=True):
        ids = sequences[window.document][window.start + window.known + 1 : window.stop + 1]
        predictions = row[window.known : window.stop - window.start]
        found.append(_bits(predictions, torch.tensor(ids, device=row.device)))
    return found


def _bits(logits: Float[Tensor, "tokens vocabulary"], ids: Int[Tensor, "tokens"]) -> float:
    losses = functional.cross_entropy(logits.float(), ids, reduction="none")
    return losses.double().sum().item() / math.log(2)
