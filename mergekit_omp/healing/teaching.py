"""A teacher: the base with its own tokenizer, whose states the healed model is to have.

Where both tokenizers have a token boundary, both models have read the same bytes, so that a good new
row leaves the body in the state that the base's own rows lead to: token distillation (Dobler,
Elliott & de Melo 2025, arXiv 2505.20133), here for all places of a text at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mergekit_omp.errors import TransplantError
from mergekit_omp.evaluation.scoring import encode
from mergekit_omp.evaluation.token_bytes import token_ends
from mergekit_omp.models.tokenizers import read_vocabulary

_NONE = -100


@dataclass(frozen=True, eq=False)
class Stream:
    """Documents one after the other as one tokenizer cuts them."""

    ids: Int64[np.ndarray, "tokens"]
    ends: Int64[np.ndarray, "tokens"]
    """Where each token ends in all bytes, an opening token of a document counted as a byte; -1 in
    documents that the tokenizer changes."""


def stream(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], name: str) -> Stream:
    """The documents, each after bos, or eos where there is no bos."""
    vocabulary = read_vocabulary(tokenizer, name)
    prefix = tokenizer.bos_token_id
    if prefix is None:
        prefix = tokenizer.eos_token_id
    opening = [] if prefix is None else [prefix]
    ids, ends, offset = [], [], 0
    for document, found in zip(documents, encode(tokenizer, documents), strict=True):
        tokens = np.array(found, dtype=np.int64)
        places = token_ends(vocabulary, tokens, document)
        ids += [np.array(opening, dtype=np.int64), tokens]
        ends.append(np.full(len(opening), offset + 1))
        ends.append(np.full(len(tokens), -1) if places is None else offset + 1 + places)
        offset += 1 + len(document.encode("utf-8"))
    return Stream(np.concatenate(ids), np.concatenate(ends).astype(np.int64))


def lessons(
    student: Stream, teacher: Stream, windows: Int64[Tensor, "windows window"]
) -> list[dict[str, Any]]:
    """For each window of the student's stream, what the teacher reads and where both have read alike.

    The teacher begins where the window first has a boundary in common with it.
    """
    known, others = np.flatnonzero(student.ends >= 0), np.flatnonzero(teacher.ends >= 0)
    _, first, second = np.intersect1d(
        student.ends[known], teacher.ends[others], return_indices=True
    )
    mine, theirs = known[first], others[second]
    size = windows.shape[1]
    found = []
    for number, window in enumerate(windows):
        begin, end = number * size, (number + 1) * size - 1
        low, high = np.searchsorted(mine, [begin, end])
        places, reads = mine[low:high] - begin, theirs[low:high]
        start = int(reads[0]) if len(reads) else 0
        stop = int(reads[-1]) + 1 if len(reads) else 1
        found.append(
            {
                "input_ids": window,
                "labels": window,
                "teacher_ids": torch.from_numpy(teacher.ids[start:stop]),
                # Of the first place the teacher has read nothing before.
                "places": torch.from_numpy(places[1:]),
                "teacher_places": torch.from_numpy(reads[1:] - start),
            }
        )
    return found


def together(examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch, in which what the teacher reads is padded."""

    def padded(key: str, value: int) -> Tensor:
        rows = [example[key] for example in examples]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    lengths = torch.tensor([len(example["teacher_ids"]) for example in examples])
    ids = padded("teacher_ids", 0)
    return {
        "input_ids": torch.stack([example["input_ids"] for example in examples]),
        "labels": torch.stack([example["labels"] for example in examples]),
        "teacher_ids": ids,
        "teacher_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "places": padded("places", _NONE),
        "teacher_places": padded("teacher_places", _NONE),
    }


class Teacher:
    """A model whose last hidden states another is to have."""

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def check(self, student: PreTrainedModel, name: str) -> None:
        """TransplantError where the states of both cannot be compared."""
        widths = [m.config.get_text_config().hidden_size for m in (student, self.model)]
        if widths[0] != widths[1]:
            raise TransplantError(
                f"The teacher {name} has hidden size {widths[1]}, and the model {widths[0]}. Name the "
                "base that the merge was made from."
            )

    def distance(
        self, states: Float[Tensor, "batch window dim"], batch: dict[str, Tensor]
    ) -> Tensor:
        """Mean squared distance to the teacher's states, over their mean square."""
        with torch.no_grad():
            read = self.model(
                input_ids=batch["teacher_ids"],
                attention_mask=batch["teacher_mask"],
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states[-1]
        rows, columns = torch.nonzero(batch["places"] != _NONE, as_tuple=True)
        mine = states[rows, batch["places"][rows, columns]].float()
        theirs = read[rows, batch["teacher_places"][rows, columns]].float()
        if not len(mine):
            return states.sum() * 0
        return (mine - theirs).square().mean() / theirs.square().mean()
