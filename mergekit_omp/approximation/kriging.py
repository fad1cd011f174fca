"""`kriging`: a regression from what is known of a token to its row, and what its neighbours add.

Regression kriging, as in geostatistics: a trend that is fitted on all anchors, and an
interpolation of the residuals that it leaves at the nearest of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.anchors import donor_rows, usable_rows
from mergekit_omp.approximation.base import (
    Approximation,
    Cost,
    MissingRows,
    Needs,
    Part,
    Sizes,
    all_similarities,
)
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.features import (
    FeatureBlock,
    FeatureRows,
    anchor_features,
    missing_features,
)
from mergekit_omp.approximation.moments import finite_mean, finite_rows, mean_row
from mergekit_omp.approximation.neighbours import nearest_anchors, ordinary_kriging, units
from mergekit_omp.approximation.numbers import blend_digits, digit_rows
from mergekit_omp.approximation.parameters import Count, PositiveFloat
from mergekit_omp.approximation.pieces import (
    combine_pieces,
    pieces_of_missing,
    pieces_without_itself,
)
from mergekit_omp.approximation.ridge import fit_ridge

LOG = logging.getLogger(__name__)

LENGTH = 1.0
"""Length scale of the residuals' correlation on the unit sphere: exp(-1) at a cosine of 0."""
NOISE = 0.3
"""Variance of a residual that its neighbours do not share, relative to that which they share."""


class Kriging(Approximation, frozen=True):
    """Ridge regression on all that is known of a token, and its neighbours' residuals.

    The features of a token are its row in the donor, its row in the donor's other matrix, and the
    mean of the base's rows of its pieces; an anchor is cut as if it were no token itself. Residuals
    of the nearest anchors, by cosine in the donor's rows, are interpolated by ordinary kriging.
    """

    name: ClassVar[str] = "kriging"
    reference: ClassVar[str | None] = None

    neighbors: Count = Field(
        default=16,
        description="Of how many of the nearest anchors the residuals are used; 0: the regression "
        "alone.",
    )
    ridge: PositiveFloat | None = Field(
        default=None,
        description="Penalty of the regression, relative to the mean variance of a feature. "
        "[default: chosen by generalised cross-validation]",
    )
    head_gain: PositiveFloat = Field(
        default=1.15,
        description="How far rows of the head are moved from the anchors' mean, relative to the "
        "prediction, which is shorter than what it predicts.",
    )
    digits: bool = Field(
        default=True,
        description="Move the rows of numbers that the base writes digit by digit towards the "
        "rows of their digits.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.DONOR_ROWS, Needs.OTHER_MATRIX, Needs.TEXT})

    def cost(self, sizes: Sizes) -> Cost:
        # As a rule three penalties are tried, in float64.
        features = float(sizes.donor_dim + sizes.other_dim + sizes.base_dim)
        normal = sizes.anchors * features * (features + sizes.base_dim)
        solved = 6 * (features**3 + features**2 * sizes.base_dim)
        return Cost(normal + solved + 2 * all_similarities(sizes).multiply_adds)

    def clamped(self, sizes: Sizes) -> Kriging:
        return self.model_copy(update={"neighbors": min(self.neighbors, sizes.anchors)})

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        targets, anchors, rows = donor_rows(self.name, problem.inputs)
        base = problem.base
        dtype, device = working_dtype(base), base.device
        targets, anchors, rows = targets.to(device), anchors.to(device), rows.to(device)
        texts = problem.inputs.texts
        if texts is None:
            raise ValueError(f"{self.name} needs the tokens' texts: give the inputs their `texts`")
        pieces = pieces_of_missing(texts)
        in_donor = [
            FeatureBlock.of(FeatureRows.all_finite(anchors), FeatureRows.all_finite(targets)),
            *self._other_matrix(problem, device),
        ]
        spelled = FeatureBlock.of(
            _mean_rows(base, pieces_without_itself(texts, rows.tolist())),
            _mean_rows(base, pieces),
        )
        known = [*in_donor, spelled]
        mean = finite_mean(base[rows]).to(dtype)
        width = sum(block.dim for block in known)
        bytes_each = dtype.itemsize * (3 * width + 3 * base.shape[1])

        def training() -> Iterator[tuple[Tensor, Tensor]]:
            for part in chunks(len(rows), bytes_each):
                yield anchor_features(known, part, dtype), base[rows[part]].to(dtype) - mean

        fit = fit_ridge(training, width, base.shape[1], device=device, ridge=self.ridge)
        problem.inputs.in_force["ridge"] = fit.ridge
        problem.inputs.in_force["neighbors"] = min(self.neighbors, len(rows))
        LOG.debug("kriging: ridge %g of %d features, %d anchors", fit.ridge, width, len(rows))
        trend = fit.coefficients.to(dtype)
        residuals = base.new_empty((len(rows), base.shape[1]), dtype=dtype)
        for part, (x, y) in zip(chunks(len(rows), bytes_each), training(), strict=True):
            residuals[part] = y - x @ trend
        result = base.new_empty((len(targets), base.shape[1]), dtype=dtype)
        for part in chunks(len(targets), bytes_each):
            result[part] = missing_features(known, part, dtype) @ trend
        if self.neighbors:
            self._add_local(result, residuals, in_donor, problem.inputs.progress)
        if problem.part != Part.INPUT:
            result *= self.head_gain
        result += mean
        if self.digits:
            blend_digits(result, base, digit_rows(texts, pieces), problem.part)
        blank = ~(targets != 0).any(1)
        result[blank] = mean_row(base)
        return result

    def _other_matrix(self, problem: MissingRows, device: torch.device) -> list[FeatureBlock]:
        """Features from the donor's other matrix, where it has two."""
        inputs = problem.inputs
        if inputs.anchors is None or inputs.other_anchors is None:
            return []
        if inputs.other_targets is None:
            return []
        anchors = inputs.other_anchors[usable_rows(inputs.anchors)].to(device)
        targets = inputs.other_targets.to(device)
        return [FeatureBlock.of(FeatureRows.all_finite(anchors), FeatureRows.all_finite(targets))]

    def _add_local(
        self,
        trend: Float[Tensor, "missing base_dim"],
        residuals: Float[Tensor, "anchors base_dim"],
        in_donor: Sequence[FeatureBlock],
        progress: bool,
    ) -> None:
        """Adds the interpolated residuals of the nearest anchors to the trend, in place."""
        count, dtype = min(self.neighbors, len(residuals)), trend.dtype
        cosines, whose = nearest_anchors(in_donor, count, dtype, progress=progress)
        width = sum(block.dim for block in in_donor)
        bytes_each = dtype.itemsize * (2 * count * (width + trend.shape[1]) + 3 * count**2)
        for part in chunks(len(trend), bytes_each):
            points = units(anchor_features(in_donor, whose[part].flatten(), dtype))
            points = points.reshape(-1, count, width)
            weights = ordinary_kriging(cosines[part], points, LENGTH, NOISE)
            trend[part] += (weights[:, None] @ residuals[whose[part]])[:, 0]


def _mean_rows(base: Float[Tensor, "rows dim"], segments: Sequence[Sequence[int]]) -> FeatureRows:
    finite = finite_rows(base).tolist()
    usable = [[row for row in pieces if row < len(finite) and finite[row]] for pieces in segments]
    weights = [[1 / len(pieces) for _ in pieces] for pieces in usable]
    indices = [i if pieces else -1 for i, pieces in enumerate(usable)]
    return FeatureRows(
        combine_pieces(base, usable, weights),
        torch.tensor(indices, dtype=torch.int64, device=base.device),
    )
