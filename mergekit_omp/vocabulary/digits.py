"""How a tokenizer splits numbers, found from what it does with them.

Goddard & Fernandes Neto 2025 (arXiv 2506.06607) find different schemes in donor and base to be
the main cause of lost arithmetic.
"""

from __future__ import annotations

import random
from enum import Enum
from itertools import accumulate
from typing import Any

from mergekit_omp.vocabulary.vocabulary import Vocabulary

LENGTHS = range(2, 13)
NUMBERS_PER_LENGTH = 40


class DigitScheme(str, Enum):
    """Where a run of digits may be split. The values are words for messages."""

    SINGLE = "single digits"
    TWOS_FROM_LEFT = "groups of two, left to right"
    TWOS_FROM_RIGHT = "groups of two, right to left"
    THREES_FROM_LEFT = "groups of three, left to right"
    THREES_FROM_RIGHT = "groups of three, right to left"
    WHOLE_RUNS = "whole runs"
    NONE = "no digits"


GROUPED = {
    DigitScheme.TWOS_FROM_LEFT: (2, False),
    DigitScheme.TWOS_FROM_RIGHT: (2, True),
    DigitScheme.THREES_FROM_LEFT: (3, False),
    DigitScheme.THREES_FROM_RIGHT: (3, True),
}


def digit_scheme(tokenizer: Any) -> DigitScheme:
    """The scheme of a `Vocabulary`, or of a transformers tokenizer.

    A tokenizer splits by groups if no token ever crosses a border between them; a group may be
    several tokens where the vocabulary lacks it. WHOLE_RUNS is what no grouping explains: the
    merges alone decide. NONE: the vocabulary cannot spell numbers.
    """
    numbers = _numbers()
    split = _pieces(_vocabulary(tokenizer), numbers)
    if any("".join(pieces) != number for pieces, number in zip(split, numbers, strict=True)):
        return DigitScheme.NONE
    if all(len(piece) == 1 for pieces in split for piece in pieces):
        return DigitScheme.SINGLE
    for scheme, (group, from_right) in GROUPED.items():
        if all(_keeps_borders(pieces, group, from_right) for pieces in split):
            return scheme
    return DigitScheme.WHOLE_RUNS


def digit_example(tokenizer: Any, number: str = "1234567") -> list[str]:
    """What a `Vocabulary`, or a transformers tokenizer, makes of a number."""
    return _pieces(_vocabulary(tokenizer), [number])[0]


def digit_mismatch(model: Vocabulary, output: Vocabulary) -> str | None:
    """The warning of a model that gets a tokenizer which cuts numbers in another way, or None."""
    if model.fingerprint == output.fingerprint:
        return None
    schemes = [digit_scheme(vocabulary) for vocabulary in (model, output)]
    if schemes[0] == schemes[1]:
        return None
    read = [
        f"{vocabulary.name} has no digits"
        if scheme == DigitScheme.NONE
        else f"{vocabulary.name} reads 1234567 as {' '.join(digit_example(vocabulary))} ({scheme.value})"
        for vocabulary, scheme in zip((model, output), schemes, strict=True)
    ]
    return (
        f"Numbers are cut in different ways: {read[0]}, {read[1]}. Arithmetic suffers most from "
        "that (arXiv 2506.06607), and no method mends all of it."
    )


def _vocabulary(tokenizer: Any) -> Vocabulary:
    if isinstance(tokenizer, Vocabulary):
        return tokenizer
    return Vocabulary.from_tokenizer(tokenizer, tokenizer.name_or_path or "the model")


def _numbers() -> list[str]:
    digits = random.Random(0)
    return [
        "".join(digits.choices("0123456789", k=length))
        for length in LENGTHS
        for _ in range(NUMBERS_PER_LENGTH)
    ]


def _pieces(vocabulary: Vocabulary, numbers: list[str]) -> list[list[str]]:
    """Each number's pieces, without the space that some vocabularies put first."""
    split = []
    for ids in vocabulary.segment([number.encode() for number in numbers]):
        pieces = [(vocabulary.content[i] or b"").decode(errors="replace").strip() for i in ids]
        split.append([piece for piece in pieces if piece])
    return split


def _keeps_borders(pieces: list[str], group: int, from_right: bool) -> bool:
    ends = list(accumulate(len(piece) for piece in pieces))
    length = ends[-1]
    borders = (
        range(length % group or group, length, group) if from_right else range(group, length, group)
    )
    return set(borders) <= set(ends)
