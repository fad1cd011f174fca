"""`subword`: a token is made of the pieces into which the base's own tokenizer cuts its bytes.

The rules for input and head follow transplant-vocab
(https://github.com/jukofyork/transplant-vocab): what was read last matters most to the input,
what is written first to the head.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.base import Approximation, MissingRows, Needs, Part
from mergekit_omp.approximation.moments import finite_rows, mean_row
from mergekit_omp.approximation.pieces import combine_pieces

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
        texts = problem.inputs.texts
        if texts is None:
            raise ValueError("subword needs the tokens' texts: give the inputs their `texts`")
        base = problem.base
        spelled = [(i, text) for i, text in enumerate(texts.missing) if text is not None]
        finite = finite_rows(base).tolist()
        segmented = {}
        for (i, _), pieces in zip(
            spelled, texts.segment_in_base([text for _, text in spelled]), strict=True
        ):
            usable = [piece for piece in pieces if piece < len(finite) and finite[piece]]
            if usable:
                segmented[i] = usable
        into_input = problem.part == Part.INPUT
        rule = self.input if into_input else self.head
        rows = mean_row(base).repeat(problem.inputs.missing, 1)
        places = torch.tensor(list(segmented), dtype=torch.int64, device=base.device)
        segments = list(segmented.values())
        weights = [_weights(rule, len(pieces), self.decay, into_input) for pieces in segments]
        rows[places] = combine_pieces(base, segments, weights)
        return rows


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
    total = sum(weights)
    return [weight / total for weight in weights]
