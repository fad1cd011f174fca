"""Decides whether the output is tied, by the tensors that will be written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import transformers
from mergekit.common import ModelReference

from mergekit_omp.approximation.base import Part
from mergekit_omp.models.tensors import says_tied
from mergekit_omp.transplant.inputs import MergeInputs
from mergekit_omp.transplant.vocabulary_tensors import PlannedTensor


@dataclass(frozen=True)
class Tying:
    """Whether the output is tied, and what follows from that."""

    tied: bool
    """The input embedding serves as head."""
    says: bool | None = None
    """A new value for `tie_word_embeddings`; None where the config says it already."""
    repeated: str | None = None
    """The name of a planned head that equals the input embedding, and is not written."""
    warnings: tuple[str, ...] = ()


def tying(
    config: transformers.PretrainedConfig,
    base: ModelReference,
    parts: Collection[Part],
    tensors: Sequence[PlannedTensor],
    inputs: MergeInputs,
) -> Tying:
    """Compare the planned tensors with `tie_word_embeddings` in `config`, the output's.

    `parts` are those of the architecture. The flag has to agree with the tensors: where it is set,
    transformers 4.57 drops a head that is stored, and 5 reads it if it differs; where it is not set
    and no head is stored, both start with a random head.
    """
    heads = [tensor for tensor in tensors if tensor.part == Part.HEAD]
    entries = [tensor for tensor in tensors if tensor.part == Part.INPUT]
    flag = says_tied(config)
    if not heads:
        if flag or Part.HEAD not in parts or not entries:
            return Tying(True)
        return Tying(
            True,
            says=True,
            warnings=(
                f"{base} says that its head is a matrix of its own (tie_word_embeddings: false), "
                f"but its checkpoint has none: {entries[0].weight.name} serves as head, and the "
                "output says so.",
            ),
        )
    head = heads[0]
    if not flag or not entries:
        return Tying(False)
    entry = entries[0]
    both = [model for model in head.models if model in entry.models and head.models[model].stored()]
    apart = [m for m in both if not inputs.is_tied(config, entry.models[m], head.models[m])]
    if not apart:
        return Tying(True, repeated=head.weight.name)
    return Tying(
        False,
        says=False,
        warnings=(
            f"{', '.join(map(str, apart))}: {head.weight.name} is another matrix than "
            f"{entry.weight.name}, though the config says that they are one (tie_word_embeddings: "
            "true). Both are merged and written, and the output says that they are two.",
        ),
    )
