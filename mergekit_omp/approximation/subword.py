"""`subword`: a token is made of the pieces into which the base's own tokenizer cuts its bytes.

The rules for input and head follow transplant-vocab
(https://github.com/jukofyork/transplant-vocab): what was read last matters most to the input,
what is written first to the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.base import (
    Approximation,
    MissingRows,
    Needs,
    Part,
    Texts,
    texts_of,
)
from mergekit_omp.approximation.codes import RaggedCode
from mergekit_omp.approximation.fit import OWN_PIECES, PIECES, Fit, Parts
from mergekit_omp.approximation.moments import finite_rows, mean_row
from mergekit_omp.approximation.pieces import combine_pieces
from mergekit_omp.pursuit import Code

Rule = Literal["mean", "first", "last", "weighted"]


class Subword(Approximation, frozen=True):
    """A weighted mean of the base's rows of the pieces of each missing token.

    `weighted` multiplies the weight by `decay` from piece to piece: from the first on for the head,
    from the last back for the input. Control tokens are not cut into pieces: they, and tokens that
    the base cannot segment, get the mean of the base's matrix. A tied matrix follows `input`, a
    head's bias follows `head`.
    """

    name: ClassVar[str] = "subword"
    reference: ClassVar[str | None] = "https://github.com/jukofyork/transplant-vocab"
    fit: ClassVar[Fit | None] = PIECES
    parts: ClassVar[Parts | None] = OWN_PIECES

    input: Rule = Field(
        default="mean", description="How pieces combine in the input embedding (and a tied head)."
    )
    head: Rule = Field(default="weighted", description="How pieces combine in the output head.")
    decay: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="What a piece weighs beside the one before it, with `weighted`.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.TEXT})

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        texts = texts_of(self.name, problem.inputs)
        base = problem.base
        segmented = self._segmented(texts, base)
        counts = torch.full((problem.inputs.missing,), torch.nan)
        for i, pieces in segmented.items():
            counts[i] = len(pieces)
        problem.inputs.row_fit[PIECES.key] = counts
        rows = mean_row(base).repeat(problem.inputs.missing, 1)
        places = torch.tensor(list(segmented), dtype=torch.int64, device=base.device)
        segments = list(segmented.values())
        rows[places] = combine_pieces(base, segments, self._piece_weights(segments, problem.part))
        return rows

    def made_of(self, problem: MissingRows) -> Code:
        inputs = problem.inputs
        segmented = self._segmented(texts_of(self.name, inputs), problem.base)
        segments = [segmented.get(i, []) for i in range(inputs.missing)]
        weights = self._piece_weights(segments, problem.part)
        ends = torch.tensor([0, *map(len, segments)], dtype=torch.int64).cumsum(0)
        return RaggedCode(
            offsets=ends,
            indices=torch.tensor(list(chain.from_iterable(segments)), dtype=torch.int32),
            coefficients=torch.tensor(list(chain.from_iterable(weights)), dtype=torch.float32),
            residual_norms=torch.full((inputs.missing,), torch.nan),
        )

    def sequence_weights(self, count: int, part: Part) -> list[float]:
        """As of the pieces of a missing token."""
        into_input = part == Part.INPUT
        return _weights(self.input if into_input else self.head, count, self.decay, into_input)

    def _segmented(
        self, texts: Texts, base: Float[Tensor, "base_rows base_dim"]
    ) -> dict[int, list[int]]:
        """The base's rows of the pieces of each missing token that has usable ones."""
        spelled = [(i, text) for i, text in enumerate(texts.missing) if text is not None]
        finite = finite_rows(base).tolist()
        segmented = {}
        for (i, _), pieces in zip(
            spelled, texts.segment_in_base([text for _, text in spelled]), strict=True
        ):
            usable = [piece for piece in pieces if piece < len(finite) and finite[piece]]
            if usable:
                segmented[i] = usable
        return segmented

    def _piece_weights(self, segments: Sequence[Sequence[int]], part: Part) -> list[list[float]]:
        return [self.sequence_weights(len(pieces), part) for pieces in segments]


def _weights(rule: Rule, count: int, decay: float, into_input: bool) -> list[float]:
    """A weight for each of `count` pieces; they sum to 1."""
    if rule == "mean":
        weights = [1.0] * count
    elif rule == "first":
        weights = [1.0] + [0.0] * (count - 1)
    elif rule == "last":
        weights = [0.0] * (count - 1) + [1.0]
    else:
        weights = [decay**i for i in range(count)]
        if into_input:
            weights.reverse()
    total = sum(weights) or 1.0
    return [weight / total for weight in weights]
