"""What every method that codes in anchors asks of the donor's rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mergekit_omp.approximation.base import DonorSpace

WITHOUT_DONOR_ROWS = (
    "mean, zero, normal and subword need no donor weights, nor do wechsel, focus and clp with "
    "auxiliary: <vectors>"
)
"""What works with a donor that has a tokenizer and no weights."""


def donor_rows(
    method: str, space: DonorSpace
) -> tuple[Float[Tensor, "missing donor_dim"], Float[Tensor, "anchors donor_dim"]]:
    """The donor's rows of missing tokens and of anchors.

    Raises ValueError if the donor has no weights or there are no anchors.
    """
    if space.targets is None or space.anchors is None:
        raise ValueError(
            f"{method} needs the donor's rows, which are not there: {WITHOUT_DONOR_ROWS}"
        )
    require_anchors(method, len(space.anchors))
    return space.targets, space.anchors


def require_anchors(method: str, anchors: int) -> None:
    """Raises ValueError if there are no anchors."""
    if anchors == 0:
        raise ValueError(
            f"{method} has no anchors: base and donor share no token whose rows are usable on "
            "both sides; use subword, mean or normal, which need none"
        )


def finite_or_zero(
    rows: Float[Tensor, "rows dim"],
) -> tuple[Float[Tensor, "rows dim"], Bool[Tensor, "rows"]]:
    """The rows, those that are not finite replaced by zeros, and which rows carry something."""
    finite = torch.isfinite(rows).all(1)
    rows = torch.where(finite[:, None], rows, 0)
    return rows, finite & (rows != 0).any(1)
