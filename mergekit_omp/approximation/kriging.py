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
from mergekit_omp.approximation.chunks import WORKING_MEMORY, chunks, strips
from mergekit_omp.approximation.coarse_neighbours import CoarseAnchors, worthwhile
from mergekit_omp.approximation.codes import working_dtype
from mergekit_omp.approximation.donor_features import DonorFeatures
from mergekit_omp.approximation.features import (
    FeatureBlock,
    MeanRows,
    anchor_features,
)
from mergekit_omp.approximation.fit import NEIGHBOURS, PREDICTED_ERROR, Fit, Parts, predicted_errors
from mergekit_omp.approximation.moments import finite_mean, finite_mean_at, mean_row
from mergekit_omp.approximation.neighbours import (
    coarse_anchors,
    nearest_anchors,
    ordinary_kriging,
    units,
    without_themselves,
)
from mergekit_omp.approximation.numbers import blend_digits, digit_rows
from mergekit_omp.approximation.parameters import Count, PositiveFloat
from mergekit_omp.approximation.pieces import pieces_of_missing, pieces_without_itself
from mergekit_omp.approximation.ridge import USUAL
from mergekit_omp.approximation.shares import fit_shares, hide_anchors, squared_error
from mergekit_omp.approximation.trend import Trend
from mergekit_omp.pursuit import Code, SparseCode

LOG = logging.getLogger(__name__)

LENGTH = 1.0
"""Length scale of the residuals' correlation on the unit sphere: exp(-1) at a cosine of 0."""
MOST_CHECKED = 1000
"""Anchors that are interpolated from the others, to learn how large the errors are."""
NOISE = 0.3
"""Variance of a residual that its neighbours do not share, relative to that which they share."""


# Times of a multiply-add of a large float32 product: `python benchmarks/costs.py --kriging`, on a
# busy Xeon with AMX, 2026-11-26.
READ = 400
"""It takes to read a feature from memory, and to write it."""
COMPARED, COMPARED_BY_FLOATS = 0.25, 1.1
"""It takes to compare a feature with an anchor's, by 8-bit integers and without them."""
DECIDED = 4000
"""For each feature of a token, to decide which of the anchors that remain are the nearest."""


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

    @property
    def reads_in_place(self) -> bool:
        return not self.adapt

    def cost(self, sizes: Sizes) -> Cost:
        compared = float(sizes.donor_dim + sizes.other_dim)
        features = compared + sizes.base_dim
        # On and above the diagonal of X'X, and X'Y.
        normal = sizes.anchors * features * (features / 2 + sizes.base_dim)
        normal += sizes.anchors * (features + sizes.base_dim) * READ
        # In float64, which takes twice as long: a factor, its inverse and a solution for each.
        solved = 2 * USUAL * (features**3 / 3 + features**2 * sizes.base_dim)
        coarse = worthwhile(torch.device(sizes.device))
        if coarse:
            near = sizes.missing * compared * (sizes.anchors * COMPARED + DECIDED)
            near += sizes.anchors * compared * 2 * READ
        else:
            near = sizes.missing * compared * sizes.anchors * COMPARED_BY_FLOATS
        # A row of the base for each neighbour, and those of its pieces.
        local = sizes.missing * self.neighbors * (compared + 1.5 * sizes.base_dim) * READ
        local += 2 * sizes.missing * features * sizes.base_dim
        once = normal + solved + near + local
        held = 8 * features * (features + 3 * sizes.base_dim)
        if coarse:
            held = max(held, sizes.anchors * compared)
        held += 4 * sizes.missing * sizes.base_dim + 2 * WORKING_MEMORY
        if not self.adapt:
            return Cost(once, int(held))
        # The hidden anchors' rows are made twice: by all of it, and by the regression alone.
        every = all_similarities(dataclasses.replace(sizes, anchors=sizes.base_rows))
        return Cost(once + 2 * (normal + solved) + every.multiply_adds, int(held))

    def clamped(self, sizes: Sizes) -> Kriging:
        return self.model_copy(update={"neighbors": min(self.neighbors, sizes.anchors)})

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        base, dtype = problem.base, working_dtype(problem.base)
        progress, missing = problem.inputs.progress, problem.inputs.missing
        donor = DonorFeatures.of(self.name, problem.inputs, base.device)
        in_donor, rows = donor.blocks, donor.anchor_rows
        texts = texts_of(self.name, problem.inputs)
        shares, change = self._shares(problem, texts)
        pieces = pieces_of_missing(texts)
        spelled = FeatureBlock.of(
            MeanRows.of(base, pieces_without_itself(texts, rows.tolist())),
            MeanRows.of(base, pieces),
            progress,
        )
        mean = finite_mean_at(base, rows)
        trend = Trend.fitted(in_donor, spelled, base, rows, mean, self.ridge, dtype, progress)
        fit, width = trend.fit, len(trend.coefficients)
        problem.inputs.in_force["ridge"] = fit.ridge
        problem.inputs.in_force["neighbors"] = min(self.neighbors, len(rows))
        LOG.debug("kriging: ridge %g of %d features, %d anchors", fit.ridge, width, len(rows))
        result = base.new_empty((missing, base.shape[1]), dtype=dtype)
        bytes_each = dtype.itemsize * (2 * width + 2 * base.shape[1])
        for part in chunks(missing, bytes_each, progress=progress, label="Rows"):
            result[part] = shares[0] * trend.of_missing(part)
        coarse = None
        if self.neighbors:
            coarse = coarse_anchors(in_donor, dtype, progress=progress)
        scale = self._error_scale(trend, coarse, progress)
        errors = result.new_full((missing,), fit.squared_error * scale * change)
        for part, found in self._neighbours(in_donor, dtype, coarse, progress):
            left = trend.mixed_residuals(found.whose, found.weights, found.features)
            result[part] += shares[1] * left
            errors[part] *= found.variances
        del coarse
        if any(shares[2:]):
            more = from_all_tokens(problem, texts, in_donor[0], mean.to(dtype), self.neighbors)
            for share, estimate in zip(shares[2:], more, strict=True):
                result.add_(estimate, alpha=share)
        for part in chunks(missing, bytes_each):
            errors[part] = predicted_errors(result[part], errors[part])
        problem.inputs.row_fit[PREDICTED_ERROR.key] = errors.where(~donor.blank, 1.0)
        if problem.part != Part.INPUT:
            result *= self.head_gain
        result += mean.to(dtype)
        if self.digits:
            blend_digits(result, base, digit_rows(texts, pieces), problem.part)
        result[donor.blank] = mean_row(base)
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
        donor = DonorFeatures.of(self.name, inputs, base.device)
        mean, block = finite_mean(base[donor.anchor_rows]).to(whole.dtype), donor.blocks[0]
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
        dtype, device = working_dtype(problem.base), problem.base.device
        donor = DonorFeatures.of(self.name, problem.inputs, device)
        in_donor, rows = donor.blocks, donor.anchor_rows
        shape = problem.inputs.missing, min(self.neighbors, len(rows))
        indices = torch.zeros(shape, dtype=torch.int64, device=device)
        weights = torch.zeros(shape, dtype=dtype, device=device)
        for part, found in self._neighbours(in_donor, dtype, coarse_anchors(in_donor, dtype)):
            indices[part], weights[part] = rows[found.whose], found.weights
        return SparseCode(
            indices=indices,
            coefficients=weights,
            residual_norms=torch.full((len(indices),), torch.nan),
        )

    def _error_scale(self, trend: Trend, coarse: CoarseAnchors | None, progress: bool) -> float:
        """What a variance of 1 comes to, over the mean squared residual of the anchors.

        Interpolation takes for granted how residuals go together. Here some anchors are
        interpolated from the others, and their errors compared with the variances.
        """
        usual, count = trend.fit.residual, len(trend.spelled.anchors)
        sample = torch.linspace(0, count - 1, min(count, MOST_CHECKED)).long()
        sample = sample.to(trend.coefficients.device)
        among = [block.anchors_as_missing(sample) for block in trend.in_donor]
        made, expected = 0.0, 0.0
        for part, found in self._neighbours(
            among, trend.coefficients.dtype, coarse, progress, themselves=sample
        ):
            left = trend.residuals(sample[part])
            left -= trend.mixed_residuals(found.whose, found.weights, found.features)
            made += left.square().sum().item()
            expected += found.variances.sum().item()
        return made / (expected * usual) if expected and usual else 1.0

    def _neighbours(
        self,
        in_donor: Sequence[FeatureBlock],
        dtype: torch.dtype,
        coarse: CoarseAnchors | None,
        progress: bool = False,
        themselves: Int64[Tensor, "missing"] | None = None,
    ) -> Iterator[tuple[slice, _Neighbours]]:
        """The nearest anchors of all missing tokens, so many at a time as fit in memory.

        `coarse` as of `coarse_anchors`. None is its own neighbour; `themselves` are their indices
        where they are anchors.
        """
        anchors = len(in_donor[0].anchors) - (themselves is not None)
        count = min(self.neighbors, anchors)
        if not count:
            return
        check = "" if themselves is None else " of anchors"
        found = nearest_anchors(
            in_donor,
            count + (themselves is not None),
            dtype,
            coarse=coarse,
            progress=progress,
            label=f"Nearest anchors{check}",
        )
        cosines, whose = found if themselves is None else without_themselves(*found, themselves)
        width = sum(block.dim for block in in_donor)
        bytes_each = dtype.itemsize * (2 * count * width + 3 * count**2)
        of_chunk, label = 4 * dtype.itemsize * width, f"Interpolation{check}"
        for part in chunks(len(whose), of_chunk, progress=progress, label=label):
            near, toward = whose[part], cosines[part]
            weights, variances = torch.empty_like(toward), toward.new_empty(len(toward))
            mixed = toward.new_empty((len(toward), width))
            for some in strips(len(near), bytes_each):
                features = anchor_features(in_donor, near[some].flatten(), dtype)
                features = features.reshape(-1, count, width)
                weights[some], variances[some] = ordinary_kriging(
                    toward[some], units(features), LENGTH, NOISE
                )
                mixed[some] = (weights[some, None] @ features)[:, 0]
            yield part, _Neighbours(near, weights, variances, mixed)


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """What some missing tokens take from the anchors that are nearest to them."""

    whose: Int64[Tensor, "tokens count"]
    """Indices of anchors."""
    weights: Float[Tensor, "tokens count"]
    variances: Float[Tensor, "tokens"]
    """Of what the residuals' interpolation leaves, relative to that of a residual."""
    features: Float[Tensor, "tokens features"]
    """The weighted sums of the anchors' features in the donor."""
