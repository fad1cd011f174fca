"""What is read of models while merges are planned: by each merge for itself, or once for several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import transformers
from mergekit.common import ModelReference

from mergekit_omp.models.tensors import StoredRows, VocabularyTensor
from mergekit_omp.vocabulary import Alignment, Vocabulary

AlignmentKey = tuple[str, str, tuple[str, ...], int | None]
"""The fingerprints of a model's and an output's vocabulary, the strings that a union gained, and
the model's rows."""


@dataclass(frozen=True, eq=False)
class Readings:
    """Tokenizers, vocabularies, rows and alignments, each found once."""

    tokenizers: dict[ModelReference, transformers.PreTrainedTokenizerBase] = field(
        default_factory=dict
    )
    vocabularies: dict[ModelReference, Vocabulary] = field(default_factory=dict)
    rows: dict[VocabularyTensor, StoredRows] = field(default_factory=dict)
    alignments: dict[AlignmentKey, Alignment] = field(default_factory=dict)


_shared: ContextVar[Readings | None] = ContextVar("shared_readings", default=None)


@contextlib.contextmanager
def sharing(readings: Readings) -> Iterator[None]:
    """Within it, merges take from `readings` what an earlier one has read.

    For merges of the same models by the same options, whose files do not change in between.
    """
    token = _shared.set(readings)
    try:
        yield
    finally:
        _shared.reset(token)


def readings() -> Readings:
    """Those that are shared here, or new ones."""
    found = _shared.get()
    return Readings() if found is None else found
