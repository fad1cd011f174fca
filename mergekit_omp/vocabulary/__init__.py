"""Token strings as bytes and roles, and which output row comes from where. No mergekit."""

from __future__ import annotations

from mergekit_omp.vocabulary.alignment import Alignment, Counts, Match, align
from mergekit_omp.vocabulary.digits import (
    DigitScheme,
    digit_example,
    digit_mismatch,
    digit_scheme,
)
from mergekit_omp.vocabulary.vocabulary import Kind, Vocabulary

__all__ = [
    "Alignment",
    "Counts",
    "DigitScheme",
    "Kind",
    "Match",
    "Vocabulary",
    "align",
    "digit_example",
    "digit_mismatch",
    "digit_scheme",
]
