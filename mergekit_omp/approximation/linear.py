"""`linear`: an affine map from the donor's space to the base's, fitted on the anchors."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows
from mergekit_omp.approximation.base import Approximation, Needs, Problem
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.moments import mean_row, moments
from mergekit_omp.approximation.parameters import PositiveFloat


class Linear(Approximation, frozen=True):
    """Ridge regression with an intercept, in float64.

    Minimises |(A - mean(A)) W - (B - mean(B))|^2 + l |W|^2 over the anchors' donor rows A and
    base rows B, l = `ridge` * |A - mean(A)|^2 / donor_dim, so that the scale of the donor's rows
    does not matter. A missing row is mean(B) + (t - mean(A)) W.
    """

    name: ClassVar[str] = "linear"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/1309.4168"

    ridge: PositiveFloat = Field(
        default=0.1,
        description="Weight of the penalty, relative to the mean variance of a dimension of "
        "the anchors.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.DONOR_ROWS})

    def approximate(self, problem: Problem) -> Float[Tensor, "missing base_dim"]:
        targets, anchors, rows = donor_rows(self.name, problem.space)
        base = problem.base
        dtype, device = working_dtype(base), base.device
        anchors, rows = anchors.to(device), rows.to(device)
        anchor_mean = moments(anchors)[0]
        images = base[rows]
        image_mean = moments(images)[0]
        map_ = _ridge(anchors, anchor_mean, images, image_mean, self.ridge)
        result = base.new_empty((len(targets), base.shape[1]), dtype=dtype)
        for block in chunks(len(targets), 8 * (targets.shape[1] + base.shape[1])):
            offsets = targets[block].to(device, torch.float64) - anchor_mean
            result[block] = (image_mean + offsets @ map_).to(dtype)
        blank = ~(targets != 0).any(1).to(device)
        result[blank] = mean_row(base)
        return result


def _ridge(
    inputs: Float[Tensor, "anchors donor_dim"],
    input_mean: Float64[Tensor, "donor_dim"],
    outputs: Float[Tensor, "anchors base_dim"],
    output_mean: Float64[Tensor, "base_dim"],
    ridge: float,
) -> Float64[Tensor, "donor_dim base_dim"]:
    """The coefficients; normal equations in whichever of the two dimensions is smaller."""
    count, dim = inputs.shape
    if count < dim:
        x = inputs.double() - input_mean
        gram = x @ x.T
        right = outputs.double() - output_mean
    else:
        gram = input_mean.new_zeros((dim, dim))
        right = input_mean.new_zeros((dim, outputs.shape[1]))
        for block in chunks(count, 16 * (dim + outputs.shape[1])):
            x = inputs[block].double() - input_mean
            gram.addmm_(x.T, x)
            right.addmm_(x.T, outputs[block].double() - output_mean)
    penalty = ridge * gram.trace() / dim
    if penalty == 0:
        return input_mean.new_zeros((dim, outputs.shape[1]))
    gram.diagonal().add_(penalty)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise ValueError(
            f"linear: the anchors are too alike for a ridge of {ridge:g}: write a larger `ridge`"
        )
    solution = torch.cholesky_solve(right, factor)
    return x.T @ solution if count < dim else solution
