"""A small world to approximate in: two vocabularies over the same letters, with random rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mergekit_omp.approximation import CodingInputs, MissingRows, Part, Texts

LETTERS = [bytes([c]) for c in b"abcdefgh"]
SHARED = [*LETTERS, b"ab", b"cd", b"ef", b"gh", b" a", b" b", b"abc", b" the"]
BASE_ONLY = [b"ha", b"bc", b"cde", b" ba"]
DONOR_ONLY = [b"abcd", b"efgh", b"hg", b" abc", b"gf", b" cab", b"fed"]
UNREACHABLE = b"aaaa"
"""A token that the base lists and its tokenizer never emits."""

BASE: list[bytes | None] = [None, *SHARED, *BASE_ONLY, UNREACHABLE, None]
DONOR: list[bytes | None] = [*DONOR_ONLY, None, *reversed(SHARED)]


def segmenter(
    vocabulary: Sequence[bytes | None], never: Sequence[bytes] = ()
) -> Callable[[Sequence[bytes]], list[list[int]]]:
    """Greedy longest match; bytes that no token covers are dropped."""
    rows = {token: row for row, token in enumerate(vocabulary) if token and token not in never}

    def segment(text: bytes) -> list[int]:
        pieces = []
        while text:
            length = next((n for n in range(len(text), 0, -1) if text[:n] in rows), 0)
            if length:
                pieces.append(rows[text[:length]])
            text = text[length or 1 :]
        return pieces

    return lambda texts: [segment(text) for text in texts]


def world(
    *,
    seed: int = 0,
    donor_dim: int = 24,
    base_dim: int = 12,
    dtype: torch.dtype = torch.float32,
    part: Part = Part.INPUT,
) -> MissingRows:
    """Donor-only tokens are missing (one of them a control token), shared ones are anchors."""
    generator = torch.Generator().manual_seed(seed)
    # A common direction, as embeddings have, so that cosines do not cancel.
    donor = torch.randn(len(DONOR), donor_dim, generator=generator) + 1
    base = torch.randn(len(BASE), base_dim, generator=generator) + 0.5
    missing = [row for row, token in enumerate(DONOR) if token is None or token in DONOR_ONLY]
    anchors = [DONOR.index(token) for token in SHARED]
    donor, base = donor.to(dtype), base.to(dtype)
    return MissingRows(
        part=part,
        base=base,
        inputs=CodingInputs(
            missing=len(missing),
            anchor_rows=torch.tensor([BASE.index(token) for token in SHARED]),
            targets=donor[missing],
            anchors=donor[anchors],
            donor=donor,
            texts=Texts(
                missing=[DONOR[row] for row in missing],
                base=BASE,
                donor=DONOR,
                segment_in_base=segmenter(BASE, never=[UNREACHABLE]),
                segment_in_donor=segmenter(DONOR),
            ),
        ),
    )


def with_inputs(problem: MissingRows, **changes: object) -> MissingRows:
    """The problem with fields of its space replaced."""
    fresh = {"in_force": {}, "row_fit": {}, **changes}
    return dataclasses.replace(problem, inputs=dataclasses.replace(problem.inputs, **fresh))


def without_donor(problem: MissingRows) -> MissingRows:
    """The problem of a donor that has a tokenizer and no weights."""
    return with_inputs(problem, targets=None, anchors=None, donor=None)


def random_inputs(
    targets: int, anchors: int, dim: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> CodingInputs:
    """Random rows, without texts; anchor i belongs to row i + 1 of the base."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(targets + anchors, dim, generator=generator, dtype=torch.float64)
    rows = (rows + 0.3).to(dtype)
    return CodingInputs(
        missing=targets,
        anchor_rows=torch.arange(1, anchors + 1),
        targets=rows[:targets],
        anchors=rows[targets:],
        donor=rows,
    )


def random_base(
    rows: int, dim: int, *, seed: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Random rows of a base."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64).to(dtype)
