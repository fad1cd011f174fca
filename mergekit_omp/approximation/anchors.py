"""Checks that methods make of the donor's rows: that there are some, and which are usable."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mergekit_omp.approximation.base import CodingInputs
from mergekit_omp.approximation.chunks import strips
from mergekit_omp.approximation.moments import finite_rows


def donor_is_missing(method: str) -> ValueError:
    """The error of a method that was given no rows of a donor and cannot do without."""
    # The registry imports every method, and methods import this module.
    from mergekit_omp.approximation.registry import without_donor_rows

    return ValueError(
        f"{method} needs the donor's rows, and this donor has none: {without_donor_rows()}"
    )


def usable_rows(rows: Float[Tensor, "rows dim"]) -> Bool[Tensor, "rows"]:
    """Which rows can be used: those that are finite and not zero."""
    usable = finite_rows(rows)
    doubtful = (rows.sum(1) == 0).nonzero()[:, 0]
    for block in strips(len(doubtful), 2 * rows.shape[1] * rows.element_size()):
        usable[doubtful[block]] &= (rows[doubtful[block]] != 0).any(1)
    return usable


def donor_rows(
    method: str, inputs: CodingInputs
) -> tuple[
    Float[Tensor, "missing donor_dim"],
    Float[Tensor, "usable_anchors donor_dim"],
    Int64[Tensor, "usable_anchors"],
]:
    """The donor's rows of missing tokens and of usable anchors, and the anchors' base rows.

    Rows of missing tokens that are not finite are replaced by zeros. Raises ValueError if the
    donor has no weights or no anchor is usable.
    """
    if inputs.targets is None or inputs.anchors is None:
        raise donor_is_missing(method)
    usable = usable_rows(inputs.anchors)
    anchors, rows = inputs.anchors, inputs.anchor_rows.to(inputs.anchors.device, torch.int64)
    if not usable.all():
        anchors, rows = anchors[usable], rows[usable]
    require_anchors(method, len(anchors))
    finite = finite_rows(inputs.targets)
    targets = inputs.targets
    if not finite.all():
        targets = torch.where(finite[:, None], targets, 0)
    return targets, anchors, rows


def require_anchors(method: str, anchors: int) -> None:
    """Raises ValueError if there are no anchors."""
    if anchors == 0:
        raise ValueError(
            f"{method} has no anchors: base and donor share no token whose rows are usable on "
            "both sides; use subword, mean or normal, which need none"
        )
