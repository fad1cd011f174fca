"""All that was measured, as plain data: what tables, plots and the JSON file are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from benchmarks.quality.corpus import KINDS, Document
from benchmarks.quality.hidden import RowErrors
from benchmarks.quality.measuring import Measured
from benchmarks.quality.methods import PAPER, ZERO
from benchmarks.quality.plans import Pair
from benchmarks.quality.statistics import Compared, compare, rank_correlation


@dataclass(frozen=True)
class PairResult:
    """One pair: the base with its own tokenizer, and what each method makes of it."""

    pair: Pair
    documents: Sequence[Document]
    own: Measured
    methods: Mapping[str, Measured]
    """By label."""

    @property
    def own_rate(self) -> float:
        """Bits per byte of the base with its own tokenizer."""
        return self.bits_per_byte(self.own)

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """Every method beside zero rows and the paper's settings, over all text."""
        return self.compared_on(KINDS)

    def compared_on(self, kinds: Sequence[str]) -> dict[str, Compared]:
        """The same over the text of some kinds."""
        chosen = [i for i, document in enumerate(self.documents) if document.kind in kinds]
        return compare(
            {
                label: [measured.documents[i].bits for i in chosen]
                for label, measured in self.methods.items()
            },
            [self.own.documents[i].bytes for i in chosen],
            [self.documents[i].kind for i in chosen],
            ZERO,
            PAPER,
        )

    def bits_per_byte(self, measured: Measured, kinds: Sequence[str] = KINDS) -> float:
        """Over the text of some kinds."""
        chosen = [
            scored
            for scored, document in zip(measured.documents, self.documents, strict=True)
            if document.kind in kinds
        ]
        return sum(d.bits for d in chosen) / max(1, sum(d.bytes for d in chosen))


def bits_per_token(measured: Measured) -> tuple[float, float]:
    """Of tokens whose rows were copied, and of tokens whose rows are new."""
    new = sum(d.new_tokens for d in measured.documents)
    copied = sum(d.tokens for d in measured.documents) - new
    new_bits = sum(d.new_bits for d in measured.documents)
    copied_bits = sum(d.bits for d in measured.documents) - new_bits
    return copied_bits / max(1, copied), new_bits / max(1, new)


def predictions(results: Sequence[PairResult]) -> dict[str, list[float]]:
    """How well each error of hidden tokens ranks the methods as their loss does, pair by pair.

    Spearman's correlation across methods, with the sign turned so that 1 is a perfect prediction.
    Norm ratios count by their distance from 1. Zero rows have no direction, and stay out.
    """
    found: dict[str, list[float]] = {}
    for result in results:
        methods = [m for label, m in result.methods.items() if m.errors and label != ZERO]
        loss = [result.bits_per_byte(measured) for measured in methods]
        for part in methods[0].errors if methods else ():
            for error in fields(RowErrors):
                values = [badness(measured.errors[part], error.name) for measured in methods]
                found.setdefault(f"{part}, {error.name.replace('_', ' ')}", []).append(
                    rank_correlation(values, loss)
                )
    return found


def badness(errors: RowErrors, name: str) -> float:
    """An error as a number that is larger for worse rows."""
    value = float(getattr(errors, name))
    if name == "cosine":
        return -value
    return abs(float(np.log(max(value, 1e-6)))) if name == "norm_ratio" else value
