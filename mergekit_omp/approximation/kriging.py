"""`kriging`: a regression from what is known of a token to its row, and what its neighbours add.

Regression kriging, as in geostatistics: a trend that is fitted on all anchors, and an
interpolation of the residuals that it leaves at the nearest of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from mergekit_omp.approximation.all_tokens import from_all_tokens
from mergekit_omp.approximation.anchors import donor_rows, usable_rows
from mergekit_omp.approximation.base import (
    Approximation,
    Cost,
    MissingRows,
    Needs,
    Part,
    Sizes,
    Texts,
    all_similarities,
    texts_of,
)
from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.features import (
    FeatureBlock,
    FeatureRows,
    anchor_features,
    missing_features,
)
from mergekit_omp.approximation.fit import NEIGHBOURS, PREDICTED_ERROR, Fit, Parts, predicted_errors
from mergekit_omp.approximation.moments import finite_mean, finite_rows, mean_row
from mergekit_omp.approximation.neighbours import (
    nearest_anchors,
    ordinary_kriging,
    units,
    without_themselves,
)
from mergekit_omp.approximation.numbers import blend_digits, digit_rows
from mergekit_omp.approximation.parameters import Count, PositiveFloat
from mergekit_omp.approximation.pieces import (
    combine_pieces,
    pieces_of_missing,
    pieces_without_itself,
)
from mergekit_omp.approximation.ridge import fit_ridge
from mergekit_omp.approximation.shares import fit_shares, hide_anchors, squared_error
from mergekit_omp.pursuit import Code, SparseCode

LOG = logging.getLogger(__name__)

LENGTH = 1.0
"""Length scale of the residuals' correlation on the unit sphere: exp(-1) at a cosine of 0."""
MOST_CHECKED = 1000
"""Anchors that are interpolated from the others, to learn how large the errors are."""
NOISE = 0.3
"""Variance of a residual that its neighbours do not share, relative to that which they share."""


PASSES = 900
"""Multiply-adds in the time that it takes to compute a feature twice, from memory: 922 on one core
of a busy Xeon with AMX, 2026-11-26, `python benchmarks/costs.py --kriging --atoms 12288`."""


class Kriging(Approximation, frozen=True):
    """Ridge regression on all that is known of a token, and its neighbours' residuals.

    The features of a token are its row in the donor, its row in the donor's other matrix, and the
    mean of the base's rows of its pieces; an anchor is cut as if it were no token itself. Residuals
    of the nearest anchors, by cosine in the donor's rows, are interpolated by ordinary kriging.
    With `adapt` two more estimates, from all of the base's tokens, take part as far as hidden
    anchors say.
    """

    name: ClassVar[str] = "kriging"
    reference: ClassVar[str | None] = None
    fit: ClassVar[Fit | None] = PREDICTED_ERROR
    parts: ClassVar[Parts | None] = NEIGHBOURS

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
    adapt: bool = Field(
        default=False,
        description="Hide some anchors, and let them say how much of the regression, of its "
        "residuals, of all the base's tokens and of those spelled alike goes into a row.",
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
        # As a rule three penalties are tried, in float64. Features are read and written often.
        compared = float(sizes.donor_dim + sizes.other_dim)
        features = compared + sizes.base_dim
        normal = sizes.anchors * features * (features + 2 * sizes.base_dim + PASSES)
        solved = 6 * (features**3 + features**2 * sizes.base_dim)
        near = sizes.missing * compared * sizes.anchors
        local = sizes.missing * self.neighbors * (features + sizes.base_dim) * PASSES
        once = normal + solved + near + local
        if not self.adapt:
            return Cost(once)
        # The hidden anchors' rows are made twice: by all of it, and by the regression alone.
        every = all_similarities(dataclasses.replace(sizes, anchors=sizes.base_rows))
        return Cost(once + 2 * (normal + solved) + every.multiply_adds)

    def clamped(self, sizes: Sizes) -> Kriging:
        return self.model_copy(update={"neighbors": min(self.neighbors, sizes.anchors)})

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        targets, anchors, rows = donor_rows(self.name, problem.inputs)
        base = problem.base
        dtype, device = working_dtype(base), base.device
        targets, anchors, rows = targets.to(device), anchors.to(device), rows.to(device)
        texts = texts_of(self.name, problem.inputs)
        shares, change = self._shares(problem, texts)
        pieces = pieces_of_missing(texts)
        in_donor = _in_donor(problem, targets, anchors)
        spelled = FeatureBlock.of(
            _mean_rows(base, pieces_without_itself(texts, rows.tolist())),
            _mean_rows(base, pieces),
        )
        known = [*in_donor, spelled]
        mean = finite_mean(base[rows]).to(dtype)
        width = sum(block.dim for block in known)
        bytes_each = dtype.itemsize * (3 * width + 3 * base.shape[1])
        progress = problem.inputs.progress

        def training() -> Iterator[tuple[Tensor, Tensor]]:
            for part in chunks(len(rows), bytes_each, progress=progress, label="Regression"):
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
            result[part] = shares[0] * (missing_features(known, part, dtype) @ trend)
        blank = ~(targets != 0).any(1)
        scale = self._error_scale(in_donor, residuals)
        errors = result.new_full((len(targets),), fit.squared_error * scale * change)
        for part, found in self._neighbours(in_donor, dtype, base.shape[1], progress):
            result[part] += shares[1] * (found.weights[:, None] @ residuals[found.whose])[:, 0]
            errors[part] *= found.variances
        if any(shares[2:]):
            more = from_all_tokens(problem, texts, in_donor[0], mean, self.neighbors)
            for share, estimate in zip(shares[2:], more, strict=True):
                result.add_(estimate, alpha=share)
        for part in chunks(len(targets), bytes_each):
            errors[part] = predicted_errors(result[part], errors[part])
        problem.inputs.row_fit[PREDICTED_ERROR.key] = errors.where(~blank, 1.0)
        if problem.part != Part.INPUT:
            result *= self.head_gain
        result += mean
        if self.digits:
            blend_digits(result, base, digit_rows(texts, pieces), problem.part)
        result[blank] = mean_row(base)
        return result

    def _shares(self, problem: MissingRows, texts: Texts) -> tuple[list[float], float]:
        """How much goes into a row of the regression, of its neighbours' residuals, and of the
        estimates from all of the base's tokens; and the squared error of hidden anchors so made,
        over that without `adapt`."""
        alone = [1.0, 1.0, 0.0, 0.0]
        if not self.adapt or not self.neighbors or not problem.inputs.missing:
            return alone, 1.0
        hidden = hide_anchors(problem, texts)
        if hidden is None:
            return alone, 1.0
        inputs, base = hidden.problem.inputs, problem.base
        plain = self.model_copy(update={"adapt": False, "digits": False, "head_gain": 1.0})
        whole = plain.approximate(hidden.problem)
        chosen = {"neighbors": 0, "ridge": inputs.in_force["ridge"] or None}
        trend = plain.model_copy(update=chosen).approximate(hidden.problem)
        targets, anchors, rows = (
            tensor.to(base.device) for tensor in donor_rows(self.name, inputs)
        )
        mean = finite_mean(base[rows]).to(whole.dtype)
        block = _in_donor(hidden.problem, targets, anchors)[0]
        within = texts_of(self.name, inputs)
        more = from_all_tokens(hidden.problem, within, block, mean, self.neighbors)
        estimates = [trend - mean, whole - trend, *more]
        shares = fit_shares(estimates, hidden.true.to(whole.dtype) - mean, hidden.use, alone)
        LOG.debug("kriging, %s: shares %s", problem.part.value, [f"{s:.2f}" for s in shares])
        before, after = (
            squared_error(estimates, hidden.true.to(whole.dtype) - mean, each)
            for each in (alone, shares)
        )
        return shares, after / before if before else 1.0

    def made_of(self, problem: MissingRows) -> Code:
        """The neighbours of each missing token, whose residuals are added to the regression."""
        targets, anchors, rows = donor_rows(self.name, problem.inputs)
        dtype, device = working_dtype(problem.base), problem.base.device
        count = min(self.neighbors, len(rows))
        indices = torch.zeros((len(targets), count), dtype=torch.int64, device=device)
        weights = torch.zeros((len(targets), count), dtype=dtype, device=device)
        in_donor = _in_donor(problem, targets.to(device), anchors.to(device))
        for part, found in self._neighbours(in_donor, dtype, base_dim=0):
            indices[part], weights[part] = rows.to(device)[found.whose], found.weights
        return SparseCode(
            indices=indices,
            coefficients=weights,
            residual_norms=torch.full((len(targets),), torch.nan),
        )

    def _error_scale(
        self, in_donor: Sequence[FeatureBlock], residuals: Float[Tensor, "anchors base_dim"]
    ) -> float:
        """What a variance of 1 comes to, over the mean squared residual of the anchors.

        Interpolation takes for granted how residuals go together. Here some anchors are
        interpolated from the others, and their errors compared with the variances.
        """
        usual = residuals.square().sum(1).mean()
        sample = torch.linspace(0, len(residuals) - 1, min(len(residuals), MOST_CHECKED)).long()
        among = [block.anchors_as_missing(sample) for block in in_donor]
        made, expected = 0.0, 0.0
        for part, found in self._neighbours(
            among, residuals.dtype, residuals.shape[1], themselves=sample
        ):
            predicted = (found.weights[:, None] @ residuals[found.whose])[:, 0]
            left = residuals[sample.to(residuals.device)[part]] - predicted
            made += left.square().sum().item()
            expected += found.variances.sum().item()
        return made / (expected * usual.item()) if expected and usual else 1.0

    def _neighbours(
        self,
        in_donor: Sequence[FeatureBlock],
        dtype: torch.dtype,
        base_dim: int,
        progress: bool = False,
        themselves: Int64[Tensor, "missing"] | None = None,
    ) -> Iterator[tuple[slice, _Neighbours]]:
        """The nearest anchors of all missing tokens, so many at a time that rows of `base_dim`
        numbers of all their neighbours fit in memory.

        None of them is its own neighbour; `themselves` are their indices where they are anchors.
        """
        anchors = len(in_donor[0].anchors.indices) - (themselves is not None)
        count = min(self.neighbors, anchors)
        if not count:
            return
        found = nearest_anchors(
            in_donor, count + (themselves is not None), dtype, progress=progress
        )
        cosines, whose = found if themselves is None else without_themselves(*found, themselves)
        width = sum(block.dim for block in in_donor)
        bytes_each = dtype.itemsize * (2 * count * (width + base_dim) + 3 * count**2)
        for part in chunks(len(whose), bytes_each, progress=progress, label="Interpolation"):
            points = units(anchor_features(in_donor, whose[part].flatten(), dtype))
            points = points.reshape(-1, count, width)
            weights, variances = ordinary_kriging(cosines[part], points, LENGTH, NOISE)
            yield part, _Neighbours(whose[part], weights, variances)


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """What some missing tokens take from the anchors that are nearest to them."""

    whose: Int64[Tensor, "tokens count"]
    """Indices of anchors."""
    weights: Float[Tensor, "tokens count"]
    variances: Float[Tensor, "tokens"]
    """Of what the residuals' interpolation leaves, relative to that of a residual."""


def _in_donor(
    problem: MissingRows,
    targets: Float[Tensor, "missing donor_dim"],
    anchors: Float[Tensor, "usable_anchors donor_dim"],
) -> list[FeatureBlock]:
    """Features from the donor's matrix, and from its other one where it has two."""
    inputs = problem.inputs
    found = [FeatureBlock.of(FeatureRows.all_finite(anchors), FeatureRows.all_finite(targets))]
    if inputs.anchors is None or inputs.other_anchors is None or inputs.other_targets is None:
        return found
    others = inputs.other_anchors[usable_rows(inputs.anchors)].to(anchors.device)
    theirs = inputs.other_targets.to(anchors.device)
    block = FeatureBlock.of(FeatureRows.all_finite(others), FeatureRows.all_finite(theirs))
    return [*found, block]


def _mean_rows(base: Float[Tensor, "rows dim"], segments: Sequence[Sequence[int]]) -> FeatureRows:
    finite = finite_rows(base).tolist()
    usable = [[row for row in pieces if row < len(finite) and finite[row]] for pieces in segments]
    weights = [[1 / len(pieces) for _ in pieces] for pieces in usable]
    indices = [i if pieces else -1 for i, pieces in enumerate(usable)]
    return FeatureRows(
        combine_pieces(base, usable, weights),
        torch.tensor(indices, dtype=torch.int64, device=base.device),
    )
