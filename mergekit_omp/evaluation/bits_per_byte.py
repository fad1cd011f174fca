"""Bits per UTF-8 byte: the loss of a language model, comparable across tokenizers.

A model that predicts the tokens of a text with probabilities p could store that text in
sum(-log2 p) bits. Divided by the text's bytes, that does not depend on how many tokens the text
was cut into, so models with different vocabularies can be compared: lower is better.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergekit_omp.evaluation.scoring import TokenScores, score_tokens

LOG = logging.getLogger(__name__)


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
    scores = score_tokens(
        model,
        tokenizer,
        documents,
        context=context,
        stride=stride,
        batch_size=batch_size,
        progress=progress,
    )
    _warn_of_unknown(tokenizer, scores)
    return text_score(scores, documents)


def text_score(scores: Sequence[TokenScores], documents: Sequence[str]) -> TextScore:
    """Token scores summed up by document."""
    return TextScore(
        tuple(
            DocumentScore(
                bits=math.fsum(score.bits),
                bytes=len(document.encode("utf-8")),
                tokens=len(score.ids),
            )
            for score, document in zip(scores, documents, strict=True)
        )
    )


def _warn_of_unknown(tokenizer: PreTrainedTokenizerBase, scores: Sequence[TokenScores]) -> None:
    unknown = tokenizer.unk_token_id
    count = 0 if unknown is None else sum(int((score.ids == unknown).sum()) for score in scores)
    if count:
        LOG.warning(
            "%d tokens of the text are %r, which stands for anything: bits per byte are too low",
            count,
            tokenizer.unk_token,
        )
