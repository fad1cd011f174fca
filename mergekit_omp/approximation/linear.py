"""`linear`: an affine map from the donor's space to the base's, fitted on the anchors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows
from mergekit_omp.approximation.base import Approximation, Cost, MissingRows, Needs, Sizes
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.fit import PREDICTED_ERROR, Fit, predicted_errors
from mergekit_omp.approximation.moments import finite_mean, mean_row
from mergekit_omp.approximation.parameters import PositiveFloat
from mergekit_omp.approximation.ridge import fit_ridge


class Linear(Approximation, frozen=True):
    """Ridge regression with an intercept, in float64.

    Minimises |(A - mean(A)) W - (B - mean(B))|^2 + l |W|^2 over the anchors' donor rows A and
    base rows B, l = `ridge` * |A - mean(A)|^2 / donor_dim, so that the scale of the donor's rows
    does not matter. A missing row is mean(B) + (t - mean(A)) W.
    """

    name: ClassVar[str] = "linear"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/1309.4168"
    fit: ClassVar[Fit | None] = PREDICTED_ERROR

    ridge: PositiveFloat = Field(
        default=0.1,
        description="Weight of the penalty, relative to the mean variance of a dimension of "
        "the anchors.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.DONOR_ROWS})

    def cost(self, sizes: Sizes) -> Cost:
        rows = sizes.anchors * (sizes.donor_dim + sizes.base_dim) + sizes.missing * sizes.base_dim
        # In float64: twice the time.
        return Cost(2.0 * rows * sizes.donor_dim)

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        targets, anchors, rows = donor_rows(self.name, problem.inputs)
        base = problem.base
        dtype, device = working_dtype(base), base.device
        anchors, rows = anchors.to(device), rows.to(device)
        anchor_mean, image_mean = finite_mean(anchors), finite_mean(base[rows])
        dim, width = targets.shape[1], base.shape[1]

        def training() -> Iterator[tuple[Tensor, Tensor]]:
            for part in chunks(len(rows), 16 * (dim + width)):
                yield anchors[part].double() - anchor_mean, base[rows[part]].double() - image_mean

        fit = fit_ridge(training, dim, width, device=device, ridge=self.ridge)
        result = base.new_empty((len(targets), width), dtype=dtype)
        errors = torch.empty(len(targets), dtype=torch.float64, device=device)
        for block in chunks(len(targets), 8 * (dim + width)):
            offsets = targets[block].to(device, torch.float64) - anchor_mean
            moved = offsets @ fit.coefficients
            errors[block] = predicted_errors(
                moved, moved.new_full((len(moved),), fit.squared_error)
            )
            result[block] = (image_mean + moved).to(dtype)
        blank = ~(targets != 0).any(1).to(device)
        result[blank] = mean_row(base)
        problem.inputs.row_fit[PREDICTED_ERROR.key] = errors.where(~blank, 1.0)
        return result
