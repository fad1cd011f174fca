"""The text of a healing: what is trained on, and the tail that is held out to measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.scoring import encode
from mergekit_omp.outside.counts import counted

HELD_OUT = 0.1
"""The part of the text that is held out, by bytes."""
MOST_HELD_OUT = 256_000
"""Bytes beyond which no more is held out: it is scored at every evaluation."""
_FEWEST = 2
"""Documents that are held out at least, without which there is no interval."""


@dataclass(frozen=True)
class Parted:
    """Documents to train on, and those at the end that are not."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def parted(documents: Sequence[str]) -> Parted:
    """The last documents held out, whole. TransplantError where there are too few to part."""
    sizes = [len(document.encode("utf-8")) for document in documents]
    wanted = min(MOST_HELD_OUT, HELD_OUT * sum(sizes))
    first = len(documents) - _FEWEST
    while first > 0 and sum(sizes[first:]) < wanted:
        first -= 1
    if first < 1:
        raise TransplantError(
            f"The text is too short: {counted(len(documents), 'document')} of {sum(sizes)} bytes. "
            f"{_FEWEST} are held out, and the others trained on. Name more text; --split line makes "
            "a document of each line."
        )
    return Parted(tuple(documents[:first]), tuple(documents[first:]))


def windows(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], context: int, batch_size: int
) -> Int64[Tensor, "windows window"]:
    """The documents one after the other, cut into windows of `context` tokens and one to predict.

    Each document begins as `bits_per_byte` begins it: after bos, or eos where there is no bos.
    TransplantError where the text has no whole batch.
    """
    prefix = tokenizer.bos_token_id
    if prefix is None:
        prefix = tokenizer.eos_token_id
    opening = [] if prefix is None else [prefix]
    stream = [i for ids in encode(tokenizer, documents) for i in (*opening, *ids)]
    window = context + 1
    count = len(stream) // window
    if count < batch_size:
        raise TransplantError(
            f"The text is too short: it has {len(stream)} tokens to train on, and one step takes "
            f"{batch_size * window}. Name more text, or write a smaller --context or --batch-size."
        )
    return torch.tensor(stream[: count * window]).view(count, window)


def occurring(found: Int64[Tensor, "windows window"]) -> Int64[np.ndarray, "tokens"]:
    """The ids in the windows, each once, ascending."""
    return np.unique(found.numpy())
