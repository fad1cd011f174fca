"""What a method can tell of each row that it approximated: one figure, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Fit:
    """A figure of fit: a number for each approximated row."""

    key: str
    """Its key in the record of a merge."""
    title: str
    """What a table calls it."""
    short: str
    """How to read it, in a few words."""
    meaning: str
    """How to read it, in sentences."""
    largest_is_worst: bool = True
    limits: tuple[float, float] | None = None
    """Between which numbers it lies, where it lies between any."""
    is_count: bool = False
    """Whether it is a whole number."""


PREDICTED_ERROR = Fit(
    "predicted_error",
    "predicted error",
    "0: the row is known, 1: no more than the mean row is",
    "How far the regression expects to be from the true row, over how far the true row is expected "
    "to be from the mean row: 0 would be the true row, 1 says no more than the mean row does. It "
    "follows from what the regression leaves of rows that it knows.",
    limits=(0.0, 1.0),
)
RELATIVE_RESIDUAL = Fit(
    "relative_residual",
    "relative residual",
    "0 is exact",
    "What the combination of shared tokens leaves of the donor's row, over the norm of that row: 0 "
    "is exact, 1 is no better than a row of zeros. It is a fit in the donor's space: the model's "
    "own row is not known, and a better fit there need not be a better row here.",
)
SIMILARITY = Fit(
    "similarity",
    "similarity",
    "1: the tokens that it is made of are the same",
    "The mean cosine between a token and the tokens that its row is made of, weighted as they are: "
    "1 if they are alike, 0 if they have nothing in common.",
    largest_is_worst=False,
)
PIECES = Fit(
    "pieces",
    "pieces",
    "the fewer the better",
    "Into how many pieces a token is cut, of which its row is made: the more there are, the less "
    "they tell of the token.",
    is_count=True,
)
FITS: Mapping[str, Fit] = MappingProxyType(
    {fit.key: fit for fit in (PREDICTED_ERROR, RELATIVE_RESIDUAL, SIMILARITY, PIECES)}
)


@dataclass(frozen=True)
class Parts:
    """What a method's rows are made of."""

    title: str
    """What a table calls them."""
    meaning: str


ANCHORS = Parts(
    "heaviest anchors",
    "Shared tokens of whose rows a row is the weighted sum: those of the largest weights.",
)
OWN_TOKENS = Parts(
    "heaviest tokens",
    "Tokens of the model of whose rows a row is the weighted mean: those of the largest weights.",
)
NEIGHBOURS = Parts(
    "nearest shared tokens",
    "A row is what the regression predicts, plus what it misses of the rows of the nearest shared "
    "tokens, weighted: those of the largest weights. Where it pays, other tokens of the model have "
    "a part in it that is not told here.",
)
OWN_PIECES = Parts(
    "heaviest pieces",
    "Pieces of the token of whose rows a row is the weighted mean: those of the largest weights.",
)
PARTS = (ANCHORS, OWN_TOKENS, NEIGHBOURS, OWN_PIECES)


def relative_residuals(
    residuals: Float[Tensor, "targets"], targets: Float[Tensor, "targets dim"]
) -> Float[Tensor, "targets"]:
    """Norms of residuals over those of the targets; NaN for a target of zeros."""
    norms = torch.linalg.vector_norm(targets, dim=1)
    return (residuals / norms).where(norms > 0, torch.nan)


def predicted_errors(
    offsets: Float[Tensor, "rows dim"], squared_errors: Float[Tensor, "rows"]
) -> Float[Tensor, "rows"]:
    """`PREDICTED_ERROR` of rows, from their offsets from the mean row and expected squared errors.

    A row and its prediction differ by an error that the prediction knows nothing of, so the
    squared length of the row's offset is expected to be the sum of both.
    """
    known = offsets.square().sum(1)
    return (squared_errors / (known + squared_errors)).sqrt().nan_to_num(nan=1.0)
